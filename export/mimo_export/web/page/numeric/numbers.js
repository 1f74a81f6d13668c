// What numpy computes otherwise than JavaScript: sigmoid without overflow, rounding of ties, percentiles.

/** Probability of a logit: mimo_runtime/postprocessing/masks.py. */
export function sigmoid(logit) {
  const small = Math.exp(-Math.abs(logit));
  return (logit >= 0 ? 1 : small) / (1 + small);
}

/** The nearest whole number, a tie to the even one. */
export function roundEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 ? below + 1 : below;
}

/** As np.percentile with linear interpolation; `at(i)` is the i-th of `count` ascending values, whose differences are rounded. */
export function percentile(percent, count, at, round = (value) => value) {
  const place = (count - 1) * (percent / 100);
  const [below, above] = [Math.floor(place), Math.min(Math.floor(place) + 1, count - 1)];
  const [low, high, share] = [at(below), at(above), place - below];
  const range = round(high - low);
  return share >= 0.5 ? high - range * (1 - share) : low + range * share;
}

/** A number with at most so many decimals, as Python's round; null stays. */
export const rounded = (value, decimals) => (value === null ? null : Number(value.toFixed(decimals)));
