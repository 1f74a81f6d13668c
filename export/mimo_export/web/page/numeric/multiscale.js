// Which of several objects a single point refers to: mimo_runtime/refinement/multiscale.py.
import { boxOf, labelParts } from "../parts.js";
import { cropAround, isNearCropEdge, partOf } from "./crops.js";

/** A mask that a request may refer to: its tight box in the image, its pixels in the box, predicted IoU, crop, query, logits. */
export class Candidate {
  constructor(values) {
    Object.assign(this, values);
    this.area = this.mask.reduce((sum, value) => sum + value, 0);
  }

  /** Of a mask of the full image, or of the crop where there is one; null if it is empty. */
  static of(mask, width, height, iou, crop = null, query = 0, logits = null) {
    const box = mask && boxOf(mask, width, height);
    if (!box) return null;
    const [left, top] = crop ? crop.box : [0, 0];
    const [x0, y0, x1, y1] = box;
    return new Candidate({ box: [x0 + left, y0 + top, x1 + left, y1 + top], mask: partOf(mask, width, box), iou, crop, query, logits });
  }

  with(changes) {
    return new Candidate({ ...this, ...changes });
  }

  /** The connected part at a pixel, or else the one with most pixels up to `tolerance` away along both axes; null without. */
  partAt(x, y, tolerance = 0) {
    const [x0, y0, x1, y1] = this.box;
    if (!(x0 - tolerance <= x && x < x1 + tolerance && y0 - tolerance <= y && y < y1 + tolerance)) return null;
    const [width, height] = [x1 - x0, y1 - y0];
    const { labels } = labelParts(this.mask, width, height);
    const isInside = x0 <= x && x < x1 && y0 <= y && y < y1;
    const number = (isInside && labels[(y - y0) * width + x - x0]) || mostFrequent(labels, width, height, x - x0, y - y0, tolerance);
    if (!number) return null;
    const part = Uint8Array.from(labels, (label) => (label === number ? 1 : 0));
    const box = boxOf(part, width, height);
    return this.with({ box: [x0 + box[0], y0 + box[1], x0 + box[2], y0 + box[3]], mask: partOf(part, width, box) });
  }

  /** Whether the edge of its crop cuts the object off. */
  isCutOff(height, width) {
    return this.crop !== null && isNearCropEdge(this.box, this.crop.box, height, width);
  }

  /** The mask in the image. */
  fullMask(height, width) {
    const full = new Uint8Array(height * width);
    const [x0, y0, x1, y1] = this.box;
    for (let y = y0; y < y1; y += 1) full.set(this.mask.subarray((y - y0) * (x1 - x0), (y - y0 + 1) * (x1 - x0)), y * width + x0);
    return full;
  }
}

/** The label with most pixels around a place, the smallest of several; 0 without. */
function mostFrequent(labels, width, height, x, y, tolerance) {
  const counts = new Map();
  for (let row = Math.max(0, y - tolerance); row <= Math.min(height - 1, y + tolerance); row += 1) {
    for (let column = Math.max(0, x - tolerance); column <= Math.min(width - 1, x + tolerance); column += 1) {
      const label = labels[row * width + column];
      if (label) counts.set(label, (counts.get(label) ?? 0) + 1);
    }
  }
  return [...counts].reduce(([best, most], [label, count]) => (count > most || (count === most && label < best) ? [label, count] : [best, most]), [0, 0])[0];
}

/** Whether a request has one positive point, and no box or mask that gives the extent. */
export function hasSinglePoint({ points, boxes, mask }) {
  return points.filter(([, , label = 1]) => label).length === 1 && !boxes.length && !mask;
}

const pointOf = ({ points }) => points.find(([, , label = 1]) => label);

/** The pixel that the positive point lies on; whole numbers are the middle of a pixel. */
export function pixelOf(prompt, height, width) {
  const [x, y] = pointOf(prompt);
  return [Math.min(Math.floor(x + 0.5), width - 1), Math.min(Math.floor(y + 0.5), height - 1)];
}

/** Crops around the point of an ambiguous request, from small to large. */
export function pointCrops(prompt, height, width, size, rules) {
  const sides = rules.point_crop_shares.map((share) => share * Math.max(height, width)).filter((side) => side >= rules.min_point_crop_side);
  return sides.map((side) => cropAround(prompt, null, pointOf(prompt), side, height, width, size)).filter(Boolean);
}

/** The index of the candidate that a point refers to; 0 where every mask is cut off. */
export function selectBestMask(candidates, height, width, rules, namedPart = null) {
  const kept = candidates.map((_, i) => i).filter((i) => !candidates[i].isCutOff(height, width));
  if (!kept.length) return 0;
  const total = kept.reduce((sum, i) => sum + candidates[i].iou ** 2, 0);
  const scores = kept.map((i) => {
    const one = candidates[i];
    const others = total - one.iou ** 2;
    const agreeing = kept.reduce((sum, j) => sum + (i === j ? 0 : dice(one, candidates[j]) * candidates[j].iou ** 2), 0);
    const agreement = others > 1e-6 ? agreeing / others : rules.default_agreement;
    const share = one.area / Math.max(height, width) ** 2;
    const named = namedPart ? (rules.named_part_weight * common(one, namedPart)) / one.area : 0;
    return one.iou + rules.agreement_weight * agreement - rules.area_penalty * Math.log(share) + named;
  });
  return kept[scores.indexOf(Math.max(...scores))];
}

const dice = (a, b) => (2 * common(a, b)) / (a.area + b.area);

/** Pixels in both masks. */
function common(a, b) {
  const [x0, y0, x1, y1] = [Math.max(a.box[0], b.box[0]), Math.max(a.box[1], b.box[1]), Math.min(a.box[2], b.box[2]), Math.min(a.box[3], b.box[3])];
  let count = 0;
  const at = ({ box, mask }, x, y) => mask[(y - box[1]) * (box[2] - box[0]) + x - box[0]];
  for (let y = y0; y < y1; y += 1) for (let x = x0; x < x1; x += 1) count += at(a, x, y) & at(b, x, y);
  return count;
}
