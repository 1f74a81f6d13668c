// Inner and outer contours of a mask, by lower and higher thresholds of its logits: mimo_runtime/postprocessing/contours.py.
import { boxOf } from "../parts.js";

const near = Math.fround;

/** Logits of one mask on the grids of the model; `crop`, {grid, letterbox, box, weight} or null, counts where it lies. */
export class MaskLogits {
  constructor(grid, side, letterbox, threshold = 0, crop = null) {
    Object.assign(this, { grid, side, letterbox, threshold, crop });
  }

  /** Logits minus the threshold of a window [x0, y0, x1, y1] of the image, in single precision. */
  aboveThreshold(window) {
    const [x0, y0, x1, y1] = window;
    const logits = this.letterbox.logitsOf(this.grid, this.side, window);
    if (this.crop) this.layCrop(logits, window);
    const width = x1 - x0;
    const threshold = near(this.threshold);
    for (let i = 0; i < width * (y1 - y0); i += 1) logits[i] -= threshold;
    return logits;
  }

  layCrop(logits, [x0, y0, x1, y1]) {
    const { grid, letterbox, box: [left, top, right, bottom], weight } = this.crop;
    const [a, b, c, d] = [Math.max(x0, left), Math.max(y0, top), Math.min(x1, right), Math.min(y1, bottom)];
    if (a >= c || b >= d) return;
    const closer = letterbox.logitsOf(grid, this.side, [a - left, b - top, c - left, d - top]);
    for (let y = b; y < d; y += 1) {
      for (let x = a; x < c; x += 1) {
        const place = (y - y0) * (x1 - x0) + x - x0;
        logits[place] = blend(closer[(y - b) * (c - a) + x - a], logits[place], weight);
      }
    }
  }
}

/** The logit of a crop with a share of the full image's, in single precision. */
export const blend = (closer, full, weight) => near(closer + near(near(weight) * near(full - closer)));

/** The inner and the outer contour of a mask, filled. */
export function innerAndOuter(mask, width, height, calibration, logits, { reach, tolerance }) {
  const [inner, outer] = [Uint8Array.from(mask), Uint8Array.from(mask)];
  const box = boxOf(mask, width, height);
  if (!box) return { inner, outer };
  const area = mask.reduce((sum, value) => sum + value, 0);
  const radius = reach * calibration.outer * Math.sqrt(area) + tolerance;
  const by = Math.ceil(Math.min(radius, height + width));
  const window = [Math.max(0, box[0] - by), Math.max(0, box[1] - by), Math.min(width, box[2] + by), Math.min(height, box[3] + by)];
  const [x0, y0, x1, y1] = window;
  const part = new Uint8Array((x1 - x0) * (y1 - y0));
  for (let y = y0; y < y1; y += 1) part.set(mask.subarray(y * width + x0, y * width + x1), (y - y0) * (x1 - x0));
  const values = logits.aboveThreshold(window);
  const [least, lowest] = [near(calibration.inner), near(-calibration.outer)];
  const around = calibration.outer > 0 ? dilate(part, x1 - x0, y1 - y0, radius) : part;
  for (let i = 0; i < part.length; i += 1) {
    const place = (y0 + Math.floor(i / (x1 - x0))) * width + x0 + (i % (x1 - x0));
    if (calibration.inner > 0 && values[i] < least) inner[place] = 0;
    if (around[i] && values[i] >= lowest) outer[place] = 1;
  }
  return { inner, outer };
}

/** All pixels whose centre lies within `radius` pixels of the centre of a pixel of the mask. */
export function dilate(mask, width, height, radius) {
  if (radius < 1) return Uint8Array.from(mask);
  const table = new Int32Array((width + 1) * height);
  const reach = Math.floor(Math.min(radius, height));
  const half = Array.from({ length: reach + 1 }, (_, offset) => Math.trunc(Math.min(Math.sqrt(radius * radius - offset * offset), width)));
  eachRun(mask, width, height, (row, start, end) => {
    for (let y = Math.max(0, row - reach); y <= Math.min(height - 1, row + reach); y += 1) {
      const wider = half[Math.abs(y - row)];
      table[y * (width + 1) + Math.max(start - wider, 0)] += 1;
      table[y * (width + 1) + Math.min(end + wider, width)] -= 1;
    }
  });
  const covered = new Uint8Array(mask.length);
  for (let y = 0; y < height; y += 1) {
    let count = 0;
    for (let x = 0; x < width; x += 1) {
      count += table[y * (width + 1) + x];
      covered[y * width + x] = count > 0 ? 1 : 0;
    }
  }
  return covered;
}

function eachRun(mask, width, height, use) {
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      if (!mask[y * width + x]) continue;
      const start = x;
      while (x < width && mask[y * width + x]) x += 1;
      use(y, start, x);
    }
  }
}
