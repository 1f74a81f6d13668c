// From grey values of any range to 8 bits: mimo_runtime/imageio/intensity.py. Values are in single precision.
import { percentile } from "../numeric/numbers.js";

const near = Math.fround;

/** Map low..high linearly to 0..255, clip, round. */
export function stretch(values, low, high) {
  const [start, range] = [near(low), near(high - low)];
  return Uint8Array.from(values, (value) => near(near(Math.min(1, Math.max(0, near(near(value - start) / range))) * 255) + 0.5));
}

/** Window to 0..255 by PS3.3 C.11.2.1.2 and C.11.2.1.3. */
export function applyWindow(values, centre, width, shape = "LINEAR") {
  if (shape === "SIGMOID") {
    const bent = Float32Array.from(values, (value) => 1 / (1 + near(Math.exp(near(near(-4 * near(value - near(centre))) / near(width))))));
    return stretch(bent, 0, 1);
  }
  if (shape === "LINEAR_EXACT" || width < 1) return stretch(values, centre - width / 2, centre + width / 2);
  if (width === 1) return Uint8Array.from(values, (value) => (value > near(centre - 0.5) ? 255 : 0));
  return stretch(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2);
}

/** The values that are `valid` (null: all), ascending. */
export const ascending = (values, valid) => (valid ? values.filter((_, i) => valid[i]) : Float32Array.from(values)).sort();

/** Percentiles of ascending values. */
export function percentilesOf(sorted, percents) {
  return percents.map((percent) => percentile(percent, sorted.length, (i) => sorted[i], near));
}

/** From the lower to the upper percentile of the ascending values to 0..255; the whole range where they are equal. */
export function toEightBit(values, sorted, { percentiles }) {
  let [low, high] = percentilesOf(sorted, percentiles);
  if (!(high > low)) [low, high] = [sorted[0], sorted.at(-1)];
  return high > low ? stretch(values, low, high) : new Uint8Array(values.length);
}

/** Whether CT values cannot be Hounsfield units. */
export function isNoHounsfield(sorted) {
  const [low, high] = [sorted[0], sorted.at(-1)];
  const isOffset = low >= 0 && percentilesOf(sorted, [90])[0] > 700;
  return isOffset || (-2 <= low && low < high && high <= 2) || (low === 0 && high === 255);
}

/** The window that the model has for a modality, where it holds for the values; null for percentiles. */
export function windowOf(sorted, modality, { windows }) {
  const shown = windows[modality ?? ""] ?? null;
  return shown && !(modality === "ct" && isNoHounsfield(sorted)) ? shown : null;
}
