// The longest diameter of a mask: mimo_runtime/postprocessing/measure.py.

/** Length between the two pixel centres that lie farthest apart, in the unit of the spacing [row, column]. */
export function longestDiameter(mask, width, height, spacing, bias) {
  const points = hullOf(rowEnds(mask, width, height));
  let [longest, direction] = [-1, [1, 0]];
  for (const [ax, ay] of points) {
    for (const [bx, by] of points) {
      const [dx, dy] = [(bx - ax) * spacing[1], (by - ay) * spacing[0]];
      const square = dx * dx + dy * dy;
      if (square > longest) [longest, direction] = [square, [dx, dy]];
    }
  }
  const length = Math.sqrt(longest);
  const [x, y] = length > 0 ? direction.map((part) => part / length) : [1, 0];
  const pixel = 1 / Math.hypot(x / spacing[1], y / spacing[0]);
  return Math.max(length + bias * pixel, Math.min(...spacing));
}

/** Centres of the first and the last pixel of every row. */
function rowEnds(mask, width, height) {
  const points = [];
  for (let y = 0; y < height; y += 1) {
    const row = mask.subarray(y * width, (y + 1) * width);
    const first = row.indexOf(1);
    if (first >= 0) points.push([first + 0.5, y + 0.5], [row.lastIndexOf(1) + 0.5, y + 0.5]);
  }
  return points;
}

/** Corners of the convex hull. */
function hullOf(points) {
  const isOther = ([x, y], i, all) => !i || x !== all[i - 1][0] || y !== all[i - 1][1];
  const ordered = points.sort(([ax, ay], [bx, by]) => ax - bx || ay - by).filter(isOther);
  if (ordered.length < 3) return ordered;
  const half = (sequence) => {
    const chain = [];
    for (const point of sequence) {
      while (chain.length > 1) {
        const [[px, py], [qx, qy]] = chain.slice(-2);
        if ((qx - px) * (point[1] - py) - (qy - py) * (point[0] - px) > 0) break;
        chain.pop();
      }
      chain.push(point);
    }
    return chain.slice(0, -1);
  };
  return [...half(ordered), ...half([...ordered].reverse())];
}
