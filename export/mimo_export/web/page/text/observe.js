// From masks to the words of the grammar: mimo_runtime/text/observe.py. Masks are uint8 [H, W].
import { boxOf, labelParts } from "../parts.js";
import { countInstances, instanceComponents } from "./instances.js";
import { shapeNumbers } from "./shapes.js";
import { roundEven } from "./strings.js";
import { facts } from "./tables.js";

/** {count, size, shape, location} of a mask that is not empty. */
export function observePhrase(mask, width, height) {
  const [x0, y0, x1, y1] = boxOf(mask, width, height);
  const [cropWidth, cropHeight] = [x1 - x0, y1 - y0];
  const crop = new Uint8Array(cropWidth * cropHeight);
  let [area, rows, columns] = [0, 0, 0];
  for (let y = y0; y < y1; y += 1) {
    for (let x = x0; x < x1; x += 1) {
      if (!mask[y * width + x]) continue;
      crop[(y - y0) * cropWidth + x - x0] = 1;
      area += 1;
      rows += y + 0.5;
      columns += x + 0.5;
    }
  }
  const parts = labelParts(crop, cropWidth, cropHeight);
  const kept = instanceComponents(parts.areas).flatMap((isKept, label) => (isKept ? [label] : []));
  const middle = kept.sort((a, b) => parts.areas[a] - parts.areas[b])[Math.floor(kept.length / 2)];
  const count = countInstances(parts, cropWidth, cropHeight, facts.limits.many);
  return {
    count: countWord(count),
    size: facts.grammar.sizes[facts.limits.size_limits.filter((limit) => limit <= area / count / (height * width)).length],
    shape: shapeWord(shapeNumbers((x, y) => parts.labels[y * cropWidth + x] === middle, cropWidth, cropHeight)),
    location: locationWord(columns / area / width, rows / area / height),
  };
}

function countWord(count) {
  const { counts } = facts.grammar;
  if (count <= 5) return counts[count - 1];
  return counts[count < facts.limits.many ? 5 : 6];
}

/** The word for a centroid, given as fractions of the image's sides. */
export function locationWord(x, y) {
  return facts.grammar.locations[Math.min(2, Math.trunc(y * 3)) * 3 + Math.min(2, Math.trunc(x * 3))];
}

/** How one of two centroids lies relative to the other. */
export function relationOfCentres([xa, ya], [xb, yb]) {
  const [above, below, left, right] = facts.grammar.relations;
  if (Math.abs(ya - yb) >= Math.abs(xa - xb)) return ya < yb ? above : below;
  return xa < xb ? left : right;
}

/** Whether two masks have at most a small gap, along rows and columns each. */
export function isNextTo(a, b, width, height) {
  if (!boxOf(a, width, height)) return false;
  const gap = roundEven(facts.limits.near * Math.max(width, height));
  const near = widened(widened(a, height, width, width, 1, gap), width, height, 1, width, gap);
  return near.some((value, i) => value && b[i]);
}

/** The mask with every pixel that has one of its line within a gap. */
function widened(mask, lines, length, lineStep, step, gap) {
  const result = new Uint8Array(mask.length);
  for (let line = 0; line < lines; line += 1) {
    let until = -1;
    for (let i = 0; i < length; i += 1) {
      if (!mask[line * lineStep + i * step]) continue;
      const end = Math.min(length - 1, i + gap);
      for (let k = Math.max(until + 1, i - gap); k <= end; k += 1) result[line * lineStep + k * step] = 1;
      until = Math.max(until, end);
    }
  }
  return result;
}

function shapeWord([area, ratio, solidity]) {
  const { solidity: least, outline_pixels: pixels, round, oval } = facts.limits;
  const [roundWord, ovalWord, elongated, irregular] = facts.grammar.shapes;
  if (solidity < least && area >= pixels) return irregular;
  if (ratio >= round) return roundWord;
  return ratio >= oval ? ovalWord : elongated;
}
