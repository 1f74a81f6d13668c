// The letterbox of the runtime (mimo_runtime/preprocessing/letterbox.py): to the model's square and back.
import { resize } from "./resample.js";

const scaled = (side, longer, size) => Math.max(1, Math.floor((2 * side * size + longer) / (2 * longer)));

/** The geometry of one image in the square model input. */
export class Letterbox {
  constructor(height, width, size) {
    const longer = Math.max(height, width);
    Object.assign(this, { height, width, size, newHeight: scaled(height, longer, size), newWidth: scaled(width, longer, size) });
  }

  /** [x, y]: pixel coordinates times these are fractions of the square. */
  get factors() {
    return [this.newWidth / this.width / this.size, this.newHeight / this.height / this.size];
  }

  get extent() {
    return [this.newWidth / this.size, this.newHeight / this.size];
  }

  /** Pixels of the image that one cell of a grid of `side` cells covers. */
  cellArea(side) {
    const [x, y] = this.factors;
    return 1 / (side * x * side * y);
  }

  /** uint8 [H, W, 3] -> float32 [3, S, S] in [0, 1]. */
  image(pixels) {
    const { newHeight, newWidth, size } = this;
    const small = resize(pixels, this.width, this.height, newWidth, newHeight);
    const square = new Float32Array(3 * size * size);
    for (let channel = 0; channel < 3; channel += 1) {
      for (let y = 0; y < newHeight; y += 1) {
        for (let x = 0; x < newWidth; x += 1) square[(channel * size + y) * size + x] = small[(y * newWidth + x) * 3 + channel] / 255;
      }
    }
    return square;
  }

  /** A mask of the image -> float32 [S/4, S/4]: the share of each cell that it covers, divided by the largest. */
  mask(mask) {
    const side = this.size / 4;
    const [fx, fy] = this.factors;
    const edges = (factor, limit) => Float64Array.from({ length: side + 1 }, (_, i) => Math.min(i / side / factor, limit));
    const rows = sumsBetween((y, x) => mask[y * this.width + x], this.height, this.width, edges(fy, this.height));
    const both = sumsBetween((x, row) => rows[row * this.width + x], this.width, side, edges(fx, this.width));
    const cells = new Float32Array(side * side);
    let peak = 0;
    for (let row = 0; row < side; row += 1) {
      for (let column = 0; column < side; column += 1) {
        cells[row * side + column] = both[column * side + row] / this.cellArea(side);
        peak = Math.max(peak, cells[row * side + column]);
      }
    }
    return peak > 0 ? cells.map((value) => value / peak) : cells;
  }

  /** Logits [M, M] over the square -> those of the pixels of a window [x0, y0, x1, y1] of the image, row by row. */
  logitsOf(grid, side, window = [0, 0, this.width, this.height]) {
    const logits = new Float32Array((window[2] - window[0]) * (window[3] - window[1]));
    let place = 0;
    this.eachRow(grid, side, window, (row) => {
      logits.set(row, place);
      place += row.length;
    });
    return logits;
  }

  /** Logits [M, M] over the square -> the pixels of the image whose interpolated logit reaches the limit. */
  maskOf(grid, side, limit) {
    const mask = new Uint8Array(this.height * this.width);
    const least = Math.fround(limit);
    let place = 0;
    this.eachRow(grid, side, [0, 0, this.width, this.height], (row) => {
      for (let x = 0; x < row.length; x += 1) mask[place + x] = row[x] >= least ? 1 : 0;
      place += row.length;
    });
    return mask;
  }

  /** Give each row of interpolated logits of a window to `use`, in single precision; the array is used again. */
  eachRow(grid, side, [x0, y0, x1, y1], use) {
    const [fx, fy] = this.factors;
    const rows = neighbours(this.height, fy * side).slice(y0, y1);
    const columns = neighbours(this.width, fx * side).slice(x0, x1);
    const line = new Float32Array(side);
    const row = new Float32Array(x1 - x0);
    const near = Math.fround;
    for (const [above, below, down] of rows) {
      for (let i = 0; i < side; i += 1) line[i] = grid[above * side + i] + near(near(grid[below * side + i] - grid[above * side + i]) * down);
      columns.forEach(([left, right, across], x) => {
        row[x] = line[left] + near(near(line[right] - line[left]) * across);
      });
      use(row);
    }
  }
}

/** For each pixel of an axis: the cells before and after its centre, and the weight of the latter. */
function neighbours(pixels, cells) {
  const last = Math.max(0, Math.ceil(pixels * cells - 1e-9) - 1);
  return Array.from({ length: pixels }, (_, i) => {
    const position = Math.min(last, Math.max(0, (i + 0.5) * cells - 0.5));
    const before = Math.floor(position);
    return [before, Math.min(before + 1, last), Math.fround(position - before)];
  });
}

/** Integrals of value(i, k), i below count, k below others, between ascending edges: [edges - 1, others]. */
function sumsBetween(value, count, others, edges) {
  const sums = new Float64Array((edges.length - 1) * others);
  for (let k = 0; k < others; k += 1) {
    const prefix = new Float64Array(count + 1);
    for (let i = 0; i < count; i += 1) prefix[i + 1] = prefix[i] + value(i, k);
    const upTo = (edge) => {
      const whole = Math.min(Math.floor(edge), count - 1);
      return prefix[whole] + (edge - whole) * value(whole, k);
    };
    for (let e = 0; e + 1 < edges.length; e += 1) sums[e * others + k] = upTo(edges[e + 1]) - upTo(edges[e]);
  }
  return sums;
}
