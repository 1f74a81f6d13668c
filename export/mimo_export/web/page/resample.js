// Bilinear resampling with antialiasing where it shrinks, equal to Pillow 13's to the bit: fixed-point weights of 22 bits,
// 8 bits between the passes, the horizontal pass first unless a tall image is made lower.
const BITS = 22;
const ONE = 2 ** BITS;

/** uint8 [H, W, 3] of another size. */
export function resize(pixels, width, height, newWidth, newHeight) {
  if (height > 2 * width && newHeight < height && width !== newWidth) {
    const down = pass(pixels, width, weights(height, newHeight), 3, 3 * width, 3, 3 * width);
    return pass(down, newHeight, weights(width, newWidth), 3 * width, 3, 3 * newWidth, 3);
  }
  const across = width === newWidth ? pixels : pass(pixels, height, weights(width, newWidth), 3 * width, 3, 3 * newWidth, 3);
  return height === newHeight ? across : pass(across, newWidth, weights(height, newHeight), 3, 3 * newWidth, 3, 3 * newWidth);
}

/** For each new pixel: the first old one, and the weights from there. */
function weights(size, newSize) {
  const scale = size / newSize;
  const support = Math.max(1, scale);
  const narrow = 1 / support; // a product rounds otherwise than a quotient
  return Array.from({ length: newSize }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(size, Math.trunc(centre + support + 0.5));
    const parts = Array.from({ length: last - first }, (_, i) => Math.max(0, 1 - Math.abs((i + first - centre + 0.5) * narrow)));
    const sum = parts.reduce((total, part) => total + part, 0);
    return [first, parts.map((part) => Math.trunc(0.5 + (part / sum) * ONE))];
  });
}

/** One pass: `lines` lines whose starts are `line` apart, with pixels `step` apart; likewise in the result. */
function pass(pixels, lines, table, line, step, newLine, newStep) {
  const result = new Uint8Array(lines * table.length * 3);
  for (let k = 0; k < lines; k += 1) {
    table.forEach(([first, parts], place) => {
      for (let channel = 0; channel < 3; channel += 1) {
        let sum = ONE / 2;
        for (let i = 0; i < parts.length; i += 1) sum += pixels[k * line + (first + i) * step + channel] * parts[i];
        result[k * newLine + place * newStep + channel] = Math.min(255, Math.max(0, Math.floor(sum / ONE)));
      }
    });
  }
  return result;
}
