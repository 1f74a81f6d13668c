// Axes and solidity of a mask: mimo_runtime/text/shape_descriptors.py.

/** [area, minor / major axis, solidity] of the pixels of a mask for which `isIn(x, y)` holds. */
export function shapeNumbers(isIn, width, height) {
  let [area, sumX, sumY] = [0, 0, 0];
  const each = (visit) => {
    for (let y = 0; y < height; y += 1) for (let x = 0; x < width; x += 1) if (isIn(x, y)) visit(x, y);
  };
  each((x, y) => {
    area += 1;
    sumX += x;
    sumY += y;
  });
  const [meanX, meanY] = [sumX / area, sumY / area];
  let [sumXX, sumYY, sumXY] = [0, 0, 0];
  each((x, y) => {
    sumXX += (x - meanX) * (x - meanX);
    sumYY += (y - meanY) * (y - meanY);
    sumXY += (x - meanX) * (y - meanY);
  });
  const [xx, yy, xy] = [sumXX / area + 1 / 12, sumYY / area + 1 / 12, sumXY / area];
  const root = Math.sqrt((xx - yy) ** 2 / 4 + xy * xy);
  const ratio = Math.sqrt(Math.max((xx + yy) / 2 - root, 0) / ((xx + yy) / 2 + root));
  return [area, ratio, area / hullPixels(hullOf(isIn, width, height))];
}

/** Corners [x, y] of the convex hull of the pixels, along its outline. */
function hullOf(isIn, width, height) {
  const [left, right] = [[], []];
  for (let y = 0; y < height; y += 1) {
    let [first, last] = [-1, -1];
    for (let x = 0; x < width; x += 1) {
      if (!isIn(x, y)) continue;
      if (first < 0) first = x;
      last = x;
    }
    if (first < 0) continue;
    addCorner(left, [first, y], 1);
    addCorner(right, [last, y], -1);
  }
  return [...left, ...right.reverse()];
}

/** Andrew's monotone chain over points sorted by row; `sign` 1 is the left side. */
function addCorner(chain, [x, y], sign) {
  while (chain.length > 1) {
    const [[ax, ay], [bx, by]] = chain.slice(-2);
    if (sign * ((by - ay) * (x - ax) - (bx - ax) * (y - ay)) > 0) break;
    chain.pop();
  }
  chain.push([x, y]);
}

/** Lattice points in a convex polygon, by Pick's theorem. */
function hullPixels(hull) {
  let [twiceArea, border] = [0, 0];
  hull.forEach(([x, y], i) => {
    const [nextX, nextY] = hull[(i + 1) % hull.length];
    twiceArea += y * nextX - x * nextY;
    border += divisor(Math.abs(nextX - x), Math.abs(nextY - y));
  });
  return twiceArea === 0 ? Math.floor(border / 2) + 1 : Math.floor((Math.abs(twiceArea) + border) / 2) + 1;
}

const divisor = (a, b) => (b ? divisor(b, a % b) : a);
