// The crop of a request around a small target, with stretched contrast: mimo_runtime/refinement/crops.py.
import { Letterbox } from "../letterbox.js";
import { percentile, roundEven } from "./numbers.js";

/** The crop {box, prompt, letterbox} for a second pass over a target with a tight box; null where it is too large. */
export function cropAroundTarget(prompt, target, height, width, size, rules) {
  if (rules.crop_scale <= 0) return null;
  const [x0, y0, x1, y1] = prompt.boxes.length ? hullOf(prompt.boxes) : target;
  const side = Math.max(rules.min_crop_side, rules.crop_scale * Math.max(x1 - x0, y1 - y0));
  if (side > rules.max_crop_share * Math.max(height, width)) return null;
  return cropAround(prompt, target, [(x0 + x1) / 2, (y0 + y1) / 2], side, height, width, size);
}

/** The part of a square about a centre that lies in the image; null where what the request points at lies elsewhere. */
export function cropAround(prompt, target, [x, y], side, height, width, size) {
  const [left, top] = [Math.max(0, Math.floor(x - side / 2)), Math.max(0, Math.floor(y - side / 2))];
  const [right, bottom] = [Math.min(width, Math.ceil(x + side / 2)), Math.min(height, Math.ceil(y + side / 2))];
  const box = [left, top, right, bottom];
  const moved = inCrop(prompt, target, box, width);
  return moved && { box, prompt: moved, letterbox: new Letterbox(bottom - top, right - left, size) };
}

/** Whether the box of a mask reaches an edge of its crop that is no edge of the image. */
export function isNearCropEdge([x0, y0, x1, y1], [left, top, right, bottom], height, width) {
  return (left > 0 && x0 <= left) || (top > 0 && y0 <= top) || (right < width && x1 >= right) || (bottom < height && y1 >= bottom);
}

/** uint8 [H, W, 3] of an image -> those of the crop, with stretched contrast. */
export function cropPixels(pixels, width, [left, top, right, bottom], rules) {
  const row = 3 * (right - left);
  const crop = new Uint8Array(row * (bottom - top));
  for (let y = top; y < bottom; y += 1) crop.set(pixels.subarray(3 * (y * width + left), 3 * (y * width + right)), (y - top) * row);
  const table = contrastTable(crop, rules);
  return crop.map((value) => table[value]);
}

/** uint8 [256]: the values with which pixels fill the range, one table for all channels. */
export function contrastTable(pixels, rules) {
  const counts = new Uint32Array(256);
  for (const value of pixels) counts[value] += 1;
  const at = (index) => {
    let value = 0;
    for (let upTo = counts[0]; upTo <= index; upTo += counts[value]) value += 1;
    return value;
  };
  const [dark, bright] = rules.contrast_percentiles.map((percent) => percentile(percent, pixels.length, at));
  const range = Math.max(bright - dark, 255 / rules.max_contrast_gain);
  return Uint8Array.from({ length: 256 }, (_, value) => Math.min(255, Math.max(0, roundEven((value - dark) * (255 / range)))));
}

function hullOf(boxes) {
  const side = (i, choose) => choose(...boxes.map((box) => box[i]));
  return [side(0, Math.min), side(1, Math.min), side(2, Math.max), side(3, Math.max)];
}

/** The request in pixels of the crop; null if a positive point, a box or its mask lies elsewhere. */
function inCrop(prompt, target, [left, top, right, bottom], width) {
  const isInside = ([x, y]) => left <= x && x < right && top <= y && y < bottom;
  if (prompt.points.some((point) => (point[2] ?? 1) && !isInside(point))) return null;
  // A point or a mask in the crop says more about the target than the full-image mask, which may cover a neighbour, too.
  const refers = prompt.mask || prompt.points.some(([, , label = 1]) => label);
  const boxes = [];
  for (const [x0, y0, x1, y1] of prompt.boxes.length ? prompt.boxes : refers || !target ? [] : [target]) {
    const box = [Math.max(x0, left) - left, Math.max(y0, top) - top, Math.min(x1, right) - left, Math.min(y1, bottom) - top];
    if (box[2] <= box[0] || box[3] <= box[1]) return null;
    boxes.push(box);
  }
  const mask = prompt.mask && partOf(prompt.mask, width, [left, top, right, bottom]);
  if (mask && !mask.includes(1)) return null;
  const points = prompt.points.filter(isInside).map(([x, y, label = 1]) => [x - left, y - top, label]);
  return { ...prompt, boxes, points, mask };
}

/** The part of a mask in a box. */
export function partOf(mask, width, [left, top, right, bottom]) {
  const part = new Uint8Array((right - left) * (bottom - top));
  for (let y = top; y < bottom; y += 1) part.set(mask.subarray(y * width + left, y * width + right), (y - top) * (right - left));
  return part;
}
