// The graphs with onnxruntime-web on the processor (WebAssembly, one thread), and what lies around them.
// WebGPU is not used: it computes quantized graphs wrongly without an error.
import * as ort from "../onnxruntime-web/ort.wasm.bundle.min.mjs";
import { Letterbox } from "./letterbox.js";
import { cropPixels } from "./numeric/crops.js";
import { Domain } from "./numeric/domain.js";
import { findingOf } from "./numeric/findings.js";
import { checkOutputs } from "./numeric/output_check.js";
import { Prediction } from "./numeric/prediction.js";
import { refine } from "./numeric/refiner.js";
import { planRequest, tokensOf } from "./plan.js";

/** Images, crops and texts whose outputs are kept. */
const MOST_KEPT = 8;

const url = (path) => new URL(`../${path}`, import.meta.url);

/** The values of the last keys. */
class Kept {
  constructor() {
    this.values = new Map();
  }

  /** The value of a key, made where it is not kept. */
  async get(key, make) {
    const value = this.values.get(key) ?? (await make());
    this.values.delete(key);
    this.values.set(key, value);
    if (this.values.size > MOST_KEPT) this.values.delete(this.values.keys().next().value);
    return value;
  }
}

/** Sessions of the graphs over named tensors. */
export class Model {
  constructor(facts, sessions, domain) {
    Object.assign(this, { facts, sessions, domain, images: new Kept(), crops: new Kept(), texts: new Kept() });
  }

  static async load(facts) {
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = { wasm: url("onnxruntime-web/ort-wasm-simd-threaded.wasm").href };
    const sessions = {};
    for (const name of Object.keys(facts.inputs)) {
      const graph = new Uint8Array(await bytesOf(`graphs/${name}.onnx`, `the graph ${name}`));
      sessions[name] = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
    }
    const { domain, modalities } = facts.numeric;
    const statistics = domain && new Domain(await bytesOf("page/domain.bin", "the file page/domain.bin"), domain, modalities);
    return new Model(facts, sessions, statistics);
  }

  async run(graph, values) {
    const inputs = Object.fromEntries(this.facts.inputs[graph].map((name) => [name, values[name]]));
    const outputs = await this.sessions[graph].run(inputs);
    checkOutputs(graph, outputs, this.facts.numeric.outputs);
    return outputs;
  }

  /** Features of an image uint8 [H, W, 3], kept under its key. */
  async encode({ key, pixels, width, height }) {
    await this.images.get(key, async () => {
      const letterbox = new Letterbox(height, width, this.facts.numeric.image_size);
      return { pixels, letterbox, features: await this.features(pixels, letterbox) };
    });
  }

  async features(pixels, letterbox) {
    const { size } = letterbox;
    return this.run("vision_encoder", { pixels: new ort.Tensor("float32", letterbox.image(pixels), [1, 3, size, size]) });
  }

  /** Findings with masks of the full image, a refusal or null, and the domain check or null, about an encoded image. */
  async ask({ key, modality = null, anyDomain = false, spacing = null, contours = true, ...request }) {
    const { numeric } = this.facts;
    const image = this.images.values.get(key);
    const domain = this.domain && this.domain.check(image.features, image.letterbox, modality);
    const plan = planRequest(this.facts, request, modality, domain, anyDomain);
    if (!plan.hasAnswer) return { findings: [], refusal: plan.refusal, domain };
    const outputs = await this.decode(image.features, plan.prompt, image.letterbox);
    const full = new Prediction(outputs, image.letterbox, numeric, plan.hasReferences);
    const refined = await refine(full, plan.prompt, (crop) => this.segmentCrop(key, image, crop));
    const prediction = refined.without(plan.excluded);
    const chosen = plan.named ?? visible(prediction);
    const findings = chosen.map(([phrase, query]) => findingOf(prediction, phrase, query, plan.prompt, { spacing, contours }));
    return { findings, refusal: plan.refusal, domain };
  }

  /** Outputs of the mask decoder for a request about features. */
  async decode(features, prompt, letterbox) {
    const values = { ...features, ...this.encodePrompt(letterbox, prompt) };
    Object.assign(values, await this.texts.get(prompt.text, () => this.run("text_encoder", values)));
    for (const graph of ["prompt_encoder", "fusion"]) Object.assign(values, await this.run(graph, values));
    return this.run("mask_decoder", values);
  }

  /** Outputs of the mask decoder for a crop of an image. */
  async segmentCrop(key, { pixels, letterbox }, { box, prompt, letterbox: ofCrop }) {
    const features = await this.crops.get([key, ...box].join(" "), () => {
      return this.features(cropPixels(pixels, letterbox.width, box, this.facts.numeric.refinement), ofCrop);
    });
    return this.decode(features, prompt, ofCrop);
  }

  /** As encode_prompt of the runtime: fractions of the square, unused places hold zeros and the label -1. */
  encodePrompt(letterbox, { text, boxes, points, mask }) {
    const { max_boxes: mostBoxes, max_points: mostPoints } = this.facts.numeric;
    const [x, y] = letterbox.factors;
    const boxValues = new Float32Array(4 * mostBoxes);
    const boxLabels = new Int32Array(mostBoxes).fill(-1);
    boxes.forEach((box, i) => {
      boxValues.set([box[0] * x, box[1] * y, box[2] * x, box[3] * y], 4 * i);
      boxLabels[i] = 1;
    });
    const pointValues = new Float32Array(2 * mostPoints);
    const pointLabels = new Int32Array(mostPoints).fill(-1);
    points.forEach(([px, py, label = 1], i) => {
      pointValues.set([Math.min(px + 0.5, letterbox.width) * x, Math.min(py + 0.5, letterbox.height) * y], 2 * i);
      pointLabels[i] = label;
    });
    const side = letterbox.size / 4;
    const tokens = tokensOf(this.facts, text);
    return {
      token_ids: new ort.Tensor("int32", Int32Array.from(tokens), [1, tokens.length]),
      boxes: new ort.Tensor("float32", boxValues, [1, mostBoxes, 4]),
      box_labels: new ort.Tensor("int32", boxLabels, [1, mostBoxes]),
      points: new ort.Tensor("float32", pointValues, [1, mostPoints, 2]),
      point_labels: new ort.Tensor("int32", pointLabels, [1, mostPoints]),
      mask: new ort.Tensor("float32", mask ? letterbox.mask(mask) : new Float32Array(side * side), [1, 1, side, side]),
      mask_label: new ort.Tensor("int32", Int32Array.of(mask ? 1 : -1), [1, 1]),
      extent: new ort.Tensor("float32", Float32Array.from(letterbox.extent), [1, 2]),
    };
  }
}

/** The entities that are visible, most probable first. */
function visible(prediction) {
  const queries = [...prediction.entities()];
  return queries.sort(([, a], [, b]) => prediction.presence[b] - prediction.presence[a]);
}

async function bytesOf(path, name) {
  const reply = await fetch(url(path));
  if (!reply.ok) throw new Error(`${name} is missing`);
  return reply.arrayBuffer();
}
