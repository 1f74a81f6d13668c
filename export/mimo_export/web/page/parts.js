// Connected parts of masks: mimo_runtime/postprocessing/masks.py and connected_components.py.

/** The tight box [x0, y0, x1, y1] of a mask; null if it is empty. */
export function boxOf(mask, width, height) {
  let [x0, y0, x1, y1] = [width, height, 0, 0];
  for (let i = 0; i < mask.length; i += 1) {
    if (!mask[i]) continue;
    const [x, y] = [i % width, Math.floor(i / width)];
    [x0, y0, x1, y1] = [Math.min(x0, x), Math.min(y0, y), Math.max(x1, x + 1), Math.max(y1, y + 1)];
  }
  return x1 ? [x0, y0, x1, y1] : null;
}

/** Connected parts (8 neighbours): the number of each pixel's part, 0 outside, and the areas by number, in the order of rows. */
export function labelParts(mask, width, height) {
  const labels = new Int32Array(mask.length);
  const areas = [0];
  const stack = [];
  for (let start = 0; start < mask.length; start += 1) {
    if (!mask[start] || labels[start]) continue;
    areas.push(0);
    labels[start] = areas.length - 1;
    stack.push(start);
    while (stack.length) {
      const place = stack.pop();
      areas[areas.length - 1] += 1;
      const [x, y] = [place % width, Math.floor(place / width)];
      for (let ny = Math.max(0, y - 1); ny <= Math.min(height - 1, y + 1); ny += 1) {
        for (let nx = Math.max(0, x - 1); nx <= Math.min(width - 1, x + 1); nx += 1) {
          const next = ny * width + nx;
          if (mask[next] && !labels[next]) {
            labels[next] = areas.length - 1;
            stack.push(next);
          }
        }
      }
    }
  }
  return { labels, areas };
}

/** The mask without parts below `min_share` of the largest or below `min_cells` cells; the largest always stays. */
export function removeSmallParts(mask, width, height, cellArea, { min_share: minShare, min_cells: minCells }) {
  const { labels, areas } = labelParts(mask, width, height);
  if (areas.length < 3) return mask;
  const largest = areas.reduce((most, area) => Math.max(most, area), 0);
  const keep = areas.map((area) => area >= Math.max(minShare * largest, minCells * cellArea));
  keep[areas.indexOf(largest)] = true;
  return mask.map((value, i) => (value && keep[labels[i]] ? 1 : 0));
}
