// The graphs with onnxruntime-web on the processor (WebAssembly), and what lies around them.
// WebGPU is not used: it computes quantized graphs wrongly without an error.
import * as ort from "../onnxruntime-web/ort.wasm.bundle.min.mjs";
import { Letterbox } from "./letterbox.js";
import { cropPixels } from "./numeric/crops.js";
import { Domain } from "./numeric/domain.js";
import { findingOf } from "./numeric/findings.js";
import { checkOutputs } from "./numeric/output_check.js";
import { Prediction } from "./numeric/prediction.js";
import { refine } from "./numeric/refiner.js";
import { answerText } from "./text/assemble.js";
import { chooseQueries, presumeNamed } from "./text/choose.js";
import { hasAnswer, nameAlone, planRequest } from "./text/plan.js";
import { useTables } from "./text/tables.js";
import { encodeQuery } from "./text/tokens.js";

/** Images, crops and texts whose outputs are kept. */
const MOST_KEPT = 8;

/** Threads of a graph where the page is isolated from other origins. */
const MOST_THREADS = 4;

/** A question that is too long for the model. */
export class TooLong extends Error {}

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
    useTables(facts.language);
    // Threads share memory, which browsers allow only to pages that are isolated from other origins.
    ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
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

  /** {text, findings, refusal, warnings, domain} of a question {text, boxes, points, mask} about an encoded image. */
  async ask({ key, modality = null, anyDomain = false, spacing = null, spacingSource = null, contours = true, ...request }) {
    const image = this.images.values.get(key);
    const domain = this.domain && this.domain.check(image.features, image.letterbox, modality);
    const plan = planRequest(request, modality ?? "", domain, anyDomain);
    const prediction = hasAnswer(plan) ? await this.predict(key, image, plan) : null;
    const rules = { spacing, contours, withDiameter: plan.intent.kind === "how_large" };
    const chosen = prediction ? chooseQueries(plan, prediction) : [];
    const findings = chosen.map(([phrase, query]) => findingOf(prediction, phrase, query, plan.prompt, rules));
    const text = answerText(plan, prediction, findings, { modality: modality ?? "", spacing_mm: spacing, spacing_source: spacingSource });
    return { text, findings, refusal: plan.refusal, warnings: plan.warnings, domain };
  }

  /** What the graphs predict for a plan, refined; of several names, each has a pass of its own. */
  async predict(key, image, plan) {
    const prediction = await this.segment(key, image, plan.prompt);
    const named = new Map();
    for (const [name, query] of plan.names) named.set(query, await this.segment(key, image, nameAlone(name)));
    return presumeNamed(plan, prediction.withNames(named)).without(plan.excluded);
  }

  /** What the graphs predict for one request, refined. */
  async segment(key, image, prompt) {
    const { boxes, points, mask } = prompt;
    const outputs = await this.decode(image.features, prompt, image.letterbox);
    const full = new Prediction(outputs, image.letterbox, this.facts.numeric, Boolean(boxes.length || points.length || mask));
    return refine(full, prompt, (crop) => this.segmentCrop(key, image, crop));
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
    const tokens = encodeQuery(text);
    if (tokens === null) throw new TooLong("The text is too long for the model. Ask a shorter question.");
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

async function bytesOf(path, name) {
  const reply = await fetch(url(path));
  if (!reply.ok) throw new Error(`${name} is missing`);
  return reply.arrayBuffer();
}
