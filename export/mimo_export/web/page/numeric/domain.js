// The check of one image against the statistics of its model: mimo_runtime/domain/check.py and statistics.py.
import { canonical, contradict } from "./modalities.js";
import { roundEven } from "./numbers.js";

const near = Math.fround;

/** Statistics of the training images: arrays of page/domain.bin, with the facts that describe them. */
export class Domain {
  /** `bytes`: an ArrayBuffer; `facts`: {arrays, modalities, limits, levels, neighbours}; `words`: see modalities.js. */
  constructor(bytes, facts, words) {
    this.facts = facts;
    this.words = words;
    this.arrays = Object.fromEntries(facts.arrays.map(({ name, type, offset, count }) => [name, valuesOf(bytes, type, offset, count)]));
    this.components = this.arrays.projection.length / this.arrays.mean.length;
  }

  /** {verdict, score, modality, contradicts_stated} of an image; `features`: tensors of the vision encoder. */
  check(features, letterbox, modality = null) {
    const { limits: [borderline, out], modalities } = this.facts;
    const scores = this.modalityScores(describe(features, letterbox, this.facts.levels));
    const stated = canonical(modality, this.words);
    const allowed = scores.filter((_, i) => stated === null || !contradict(stated, modalities[i], this.words));
    const score = Math.min(...(allowed.length ? allowed : scores));
    const verdict = !allowed.length || score >= out ? "out" : score >= borderline ? "borderline" : "in";
    const nearest = modalities[scores.indexOf(Math.min(...scores))];
    const isOther = stated !== null && stated !== nearest && (modalities.includes(stated) || contradict(stated, nearest, this.words));
    return { verdict, score: score / borderline, modality: nearest, contradicts_stated: isOther };
  }

  /** Mean scaled distance to the nearest stored images of each modality. */
  modalityScores(description) {
    const { components, arrays } = this;
    const point = new Float64Array(components);
    description.forEach((value, i) => {
      const difference = value - arrays.mean[i];
      for (let k = 0; k < components; k += 1) point[k] += difference * arrays.projection[i * components + k];
    });
    const groups = this.facts.modalities.map(() => []);
    arrays.spreads.forEach((spread, n) => {
      let square = 0;
      for (let k = 0; k < components; k += 1) square += (arrays.vectors[n * components + k] - point[k]) ** 2;
      groups[arrays.modality_of[n]].push(Math.sqrt(square) / spread);
    });
    return groups.map((group) => {
      const nearest = Float64Array.from(group).sort().subarray(0, this.facts.neighbours);
      return nearest.reduce((sum, distance) => sum + distance, 0) / nearest.length;
    });
  }
}

/** Mean and standard deviation of every channel over the cells that the image fills. */
export function describe(features, letterbox, levels) {
  const values = [];
  for (const level of levels) {
    const { data, dims: [, channels, side] } = features[level];
    const rows = Math.max(1, roundEven((letterbox.newHeight * side) / letterbox.size));
    const columns = Math.max(1, roundEven((letterbox.newWidth * side) / letterbox.size));
    const [means, spreads] = [[], []];
    for (let channel = 0; channel < channels; channel += 1) {
      const start = channel * side * side;
      let [sum, squares] = [0, 0];
      for (let y = 0; y < rows; y += 1) {
        for (let x = 0; x < columns; x += 1) {
          const value = data[start + y * side + x];
          sum += value;
          squares += value * value;
        }
      }
      // In single precision as the runtime, whose differences of nearly equal numbers are not those of double precision.
      const mean = near(sum / (rows * columns));
      means.push(mean);
      spreads.push(near(Math.sqrt(Math.max(near(near(near(squares) / (rows * columns)) - near(mean * mean)), 0))));
    }
    values.push(...means, ...spreads);
  }
  return values;
}

/** An array of a file in little-endian order; half precision becomes single. */
function valuesOf(bytes, type, offset, count) {
  if (type === "float32") return new Float32Array(bytes, offset, count);
  const whole = new Uint16Array(bytes, offset, count);
  return type === "float16" ? Float32Array.from(whole, halfOf) : whole;
}

/** A number in half precision, of its bits (IEEE 754 binary16). */
function halfOf(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
