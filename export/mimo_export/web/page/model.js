// The graphs with onnxruntime-web on the processor (WebAssembly, one thread), and what lies around them.
// WebGPU is not used: it computes quantized graphs wrongly without an error.
import * as ort from "../onnxruntime-web/ort.wasm.bundle.min.mjs";
import { Letterbox } from "./letterbox.js";
import { encodeMask } from "./masks.js";
import { boxOf, removeSmallParts } from "./parts.js";

const MOST_IMAGES = 8;

/** Sessions of the graphs over named tensors. */
export class Model {
  constructor(facts, sessions) {
    this.facts = facts;
    this.sessions = sessions;
    this.images = new Map();
  }

  static async load(facts) {
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = { wasm: new URL("../onnxruntime-web/ort-wasm-simd-threaded.wasm", import.meta.url).href };
    const sessions = {};
    for (const name of Object.keys(facts.inputs)) {
      const reply = await fetch(new URL(`../graphs/${name}.onnx`, import.meta.url));
      if (!reply.ok) throw new Error(`the graph ${name} is missing`);
      sessions[name] = await ort.InferenceSession.create(new Uint8Array(await reply.arrayBuffer()), { executionProviders: ["wasm"] });
    }
    return new Model(facts, sessions);
  }

  async run(graph, values) {
    const inputs = Object.fromEntries(this.facts.inputs[graph].map((name) => [name, values[name]]));
    return this.sessions[graph].run(inputs);
  }

  /** Features of an image uint8 [H, W, 3], kept under its key. */
  async encode({ key, pixels, width, height }) {
    if (this.images.has(key)) return;
    const size = this.facts.image_size;
    const letterbox = new Letterbox(height, width, size);
    const features = await this.run("vision_encoder", { pixels: new ort.Tensor("float32", letterbox.image(pixels), [1, 3, size, size]) });
    this.images.set(key, { features, letterbox });
    if (this.images.size > MOST_IMAGES) this.images.delete(this.images.keys().next().value);
  }

  /** Findings with masks of the full image. */
  async ask({ key, text, boxes, points, mask }) {
    const { features, letterbox } = this.images.get(key);
    const isPointed = Boolean(boxes.length || mask || points.some(([, , label = 1]) => label));
    const facts = this.facts.texts.find((one) => one.text === text);
    const reading = (isPointed ? facts.pointed : facts.alone) ?? facts.pointed;
    let values = { ...features, ...this.encodePrompt(letterbox, reading.tokens, boxes, points, mask) };
    for (const graph of ["text_encoder", "prompt_encoder", "fusion"]) values = { ...values, ...(await this.run(graph, values)) };
    const outputs = await this.run("mask_decoder", values);
    return { findings: this.findings(outputs, letterbox, reading.phrase) };
  }

  /** As encode_prompt of the runtime: fractions of the square, unused places hold zeros and the label -1. */
  encodePrompt(letterbox, tokens, boxes, points, mask) {
    const { max_boxes: mostBoxes, max_points: mostPoints, image_size: size } = this.facts;
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
    const side = size / 4;
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

  /** Query 0 under its phrase, or the entities that are visible, most probable first. */
  findings(outputs, letterbox, phrase) {
    const { thresholds, entities } = this.facts;
    const presence = Array.from(outputs.presence.data, (logit) => 1 / (1 + Math.exp(-logit / thresholds.presence_temperature)));
    for (const values of [outputs.masks.data, outputs.presence.data, outputs.iou.data]) {
      if (!values.every(Number.isFinite)) throw new Error("a graph gave values that are no numbers");
    }
    const queries = entities.map((name, i) => [name, i + 1]).filter(([, query]) => presence[query] >= thresholds.entity_threshold);
    queries.sort(([, a], [, b]) => presence[b] - presence[a]);
    const chosen = phrase === null ? queries : [[phrase, 0]];
    return chosen.map(([name, query]) => this.finding(outputs, letterbox, name, query, presence[query]));
  }

  finding(outputs, letterbox, phrase, query, presence) {
    const { thresholds } = this.facts;
    const side = outputs.masks.dims[2];
    const isLikely = presence >= thresholds.presence_threshold;
    const logits = outputs.masks.data.subarray(query * side * side, (query + 1) * side * side);
    const limit = Math.log(thresholds.mask_threshold / (1 - thresholds.mask_threshold));
    const { width, height } = letterbox;
    const mask = isLikely ? removeSmallParts(letterbox.maskOf(logits, side, limit), width, height, letterbox.cellArea(side)) : new Uint8Array(width * height);
    const box = boxOf(mask, width, height);
    const iou = Math.min(1, Math.max(0, outputs.iou.data[query]));
    return {
      phrase, query, box, presence, iou, score: presence * iou, present: Boolean(box), area_px: mask.reduce((sum, value) => sum + value, 0),
      confident: presence * iou >= thresholds.abstain_threshold, refined: false, area_mm2: null, longest_diameter_mm: null,
      longest_diameter_px: null, mask: encodeMask(mask, width, height), inner: null, outer: null, coverage: null, calibrated: null, excluded: null,
    };
  }
}
