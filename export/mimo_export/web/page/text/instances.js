// How many objects a mask shows: mimo_runtime/postprocessing/instances.py.
import { roundEven } from "./strings.js";
import { facts } from "./tables.js";

/** Which labels are more than small parts beside a large one; the first, the background, is not. */
export function instanceComponents(areas) {
  const { instance_min_pixels: pixels, instance_min_share: share } = facts.limits;
  const largest = areas.reduce((most, area, label) => (label ? Math.max(most, area) : 0), 0);
  const least = Math.min(largest, Math.max(pixels, share * largest));
  return areas.map((area, label) => label > 0 && area >= least);
}

/** The number of objects of one kind that the parts of a mask show; `enough` of them are not examined. */
export function countInstances({ labels, areas }, width, height, enough) {
  const kept = instanceComponents(areas);
  const components = kept.filter(Boolean).length;
  if (components >= enough) return components;
  if (components >= facts.limits.many_components) return touchingObjects(labels, width, height, kept);
  const own = areas.filter((_, label) => kept[label]);
  return own.filter((area) => area >= facts.limits.comparable_share * Math.max(0, ...own)).length;
}

/** The number of touching objects that the kept parts consist of. */
function touchingObjects(labels, width, height, kept) {
  let grid = sampled({ values: labels, width, height }, Math.ceil(Math.max(width, height) / facts.limits.grid));
  let squared = squaredDistance(grid, kept);
  const coarser = Math.ceil(Math.floor(Math.sqrt(squared.reduce((a, b) => Math.max(a, b), 0))) / facts.limits.max_distance);
  if (coarser > 1) {
    grid = sampled(grid, coarser);
    squared = squaredDistance(grid, kept);
  }
  const counts = new Map();
  const all = maxima(squared, grid.width, grid.height).map(([row, column]) => {
    const number = grid.values[row * grid.width + column];
    counts.set(number, (counts.get(number) ?? 0) + 1);
    return { row, column, number, height: Math.sqrt(squared[row * grid.width + column]) - 0.5 };
  });
  const few = all.filter(({ number }) => counts.get(number) <= facts.limits.max_maxima);
  const objects = new Map();
  for (const { number } of distinctMaxima(few, pairsOf(few, squared, grid.width))) objects.set(number, (objects.get(number) ?? 0) + 1);
  return kept.reduce((sum, isKept, label) => sum + (isKept ? Math.max(objects.get(label) ?? 0, 1) : 0), 0);
}

/** Every `step`-th row and column, from the middle of a step on. */
function sampled({ values, width, height }, step) {
  const start = Math.floor(step / 2);
  const [columns, rows] = [Math.ceil((width - start) / step), Math.ceil((height - start) / step)];
  const result = new Int32Array(rows * columns);
  for (let y = 0; y < rows; y += 1) {
    for (let x = 0; x < columns; x += 1) result[y * columns + x] = values[(start + y * step) * width + start + x * step];
  }
  return { values: result, width: columns, height: rows };
}

/** Square of the distance of every pixel of the kept parts to the nearest one outside; beyond the border is outside. */
function squaredDistance({ values, width, height }, kept) {
  const { largest_distance: largest } = facts.limits;
  const along = new Int32Array(width * height);
  for (let x = 0; x < width; x += 1) {
    let distance = 0;
    for (let y = 0; y < height; y += 1) {
      distance = kept[values[y * width + x]] ? distance + 1 : 0;
      along[y * width + x] = distance;
    }
    distance = 0;
    for (let y = height - 1; y >= 0; y -= 1) {
      distance = kept[values[y * width + x]] ? distance + 1 : 0;
      along[y * width + x] = Math.min(along[y * width + x], distance, largest) ** 2;
    }
  }
  const squared = Int32Array.from(along);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const place = y * width + x;
      for (let offset = 1; offset <= largest && offset * offset < squared[place]; offset += 1) {
        const left = x >= offset ? along[place - offset] : 0;
        const right = x + offset < width ? along[place + offset] : 0;
        squared[place] = Math.min(squared[place], offset * offset + Math.min(left, right));
      }
    }
  }
  return squared;
}

/** Rows and columns of the positive values that none up to two pixels away along both axes exceeds. */
function maxima(values, width, height) {
  const places = [];
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const value = values[y * width + x];
      if (value > 0 && isHighest(values, width, height, x, y, value)) places.push([y, x]);
    }
  }
  return places;
}

function isHighest(values, width, height, x, y, value) {
  for (let ny = Math.max(0, y - 2); ny <= Math.min(height - 1, y + 2); ny += 1) {
    for (let nx = Math.max(0, x - 2); nx <= Math.min(width - 1, x + 2); nx += 1) {
      if (values[ny * width + nx] > value) return false;
    }
  }
  return true;
}

/** Pairs of maxima of one part with the lowest distance between them, highest first: [first, second, lowest]. */
function pairsOf(all, squared, width) {
  const { line_points: points } = facts.limits;
  const pairs = [];
  all.forEach((one, i) => {
    for (let k = i + 1; k < all.length; k += 1) {
      const other = all[k];
      if (other.number !== one.number) continue;
      let lowest = Infinity;
      for (let point = 0; point < points; point += 1) {
        const share = (point + 0.5) / points;
        const row = roundEven(one.row + share * (other.row - one.row));
        const column = roundEven(one.column + share * (other.column - one.column));
        lowest = Math.min(lowest, squared[row * width + column]);
      }
      pairs.push([i, k, Math.sqrt(lowest) - 0.5]);
    }
  });
  return pairs.sort((a, b) => b[2] - a[2]);
}

/** The maxima that are objects of their own: the higher of two takes over the lower unless their saddle is low. */
function distinctMaxima(all, pairs) {
  const parent = all.map((_, i) => i);
  const distinct = new Set(parent);
  const rootOf = (index) => (parent[index] === index ? index : (parent[index] = rootOf(parent[index])));
  for (const [first, second, lowest] of pairs) {
    let [high, low] = [rootOf(first), rootOf(second)];
    if (high === low) continue;
    if (all[high].height < all[low].height) [high, low] = [low, high];
    parent[low] = high;
    if (lowest >= facts.limits.neck_share * all[low].height) distinct.delete(low);
  }
  return [...distinct].map((index) => all[index]);
}
