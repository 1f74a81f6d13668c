// The backend of a page without a service: pictures are read here, a worker runs the graphs.
import { Refused } from "./api.js";
import { decodeMask } from "./masks.js";
import { differenceOf } from "./numeric/selftest.js";

/** Bits of a channel of a PNG file; null for other files. */
const bitsOfPng = (head) => (head[0] === 0x89 && head[1] === 0x50 && head[2] === 0x4e && head[3] === 0x47 ? head[24] : null);

/** uint8 [H, W, 3] of a PNG or JPEG file, as the runtime reads it: without colour management, alpha over black. */
export async function readPicture(blob) {
  const head = new Uint8Array(await blob.slice(0, 32).arrayBuffer());
  const bits = bitsOfPng(head);
  const isJpeg = head[0] === 0xff && head[1] === 0xd8;
  if (bits === null && !isJpeg) throw new Refused("The file is not PNG or JPEG. DICOM and other formats need the service: mimo-run serve.", "invalid", 422);
  if (bits > 8) throw new Refused("The PNG has more than 8 bits. Such images need the service: mimo-run serve.", "invalid", 422);
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "default", imageOrientation: "from-image" });
  } catch {
    throw new Refused("The file is damaged. Export or download it again.", "invalid", 422);
  }
  const { width, height } = bitmap;
  if (Math.min(width, height) < 8 || Math.max(width, height) > 16384 || width * height > 64e6) {
    throw new Refused(`The image has ${width} x ${height} pixels. Each side needs 8 to 16384, and 64 million in all are the most.`, "invalid", 422);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { alpha: false, willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const pixels = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i += 1) pixels.set(data.subarray(4 * i, 4 * i + 3), 3 * i);
  return { bitmap, pixels, width, height };
}

/** Answers with masks, contours, the domain check and a sentence without a draft; no objects. */
export class Local {
  hasObjects = false;

  /** The sentence comes with the masks. */
  hasText = false;

  constructor() {
    this.pictures = new Map();
    this.calls = new Map();
    this.number = 0;
  }

  /** Load the graphs and test them. Raises Refused where they do not reproduce a sample. */
  async start(report) {
    report("The model is being loaded. This takes a while the first time.");
    const reply = await fetch("page/site.json");
    if (!reply.ok) throw new Refused("The file page/site.json is missing. Export the site again.", "missing", 404);
    this.facts = await reply.json();
    this.worker = new Worker("page/worker.js", { type: "module" });
    this.worker.addEventListener("message", ({ data }) => {
      const { resolve, reject } = this.calls.get(data.number);
      this.calls.delete(data.number);
      if (data.error) reject(new Refused(data.error, "engine", 500));
      else resolve(data.result);
    });
    const broken = new Promise((_, reject) => this.worker.addEventListener("error", () => reject(new Refused("The graphs cannot be run in this browser.", "engine", 500))));
    await Promise.race([broken, this.call("load", { facts: { ...this.facts, samples: [] } })]);
    report("The model is being tested with its golden samples.");
    await this.test();
  }

  call(name, values) {
    this.number += 1;
    const { number } = this;
    return new Promise((resolve, reject) => {
      this.calls.set(number, { resolve, reject });
      this.worker.postMessage({ number, name, values });
    });
  }

  /** The golden self-test: no answer is given by a page that fails it. */
  async test() {
    const { samples } = this.facts;
    for (const sample of samples) {
      const bytes = Uint8Array.from(atob(sample.image), (character) => character.charCodeAt(0));
      const picture = await readPicture(new Blob([bytes]));
      const key = `golden ${sample.name}`;
      const mask = sample.mask && decodeMask(sample.mask);
      await this.call("encode", { key, ...sizes(picture) });
      const answer = await this.call("ask", { key, text: sample.text, boxes: sample.boxes, points: sample.points, mask, anyDomain: true });
      const problem = differenceOf(answer, sample, this.facts);
      if (problem) throw new Refused(`This browser does not compute what the bundle's golden sample ${sample.name} says: ${problem}. It gives no answers.`, "verification", 500);
    }
    this.passed = samples.length;
  }

  async model() {
    const { id, numeric } = this.facts;
    return { id, device: `in this browser, ${this.passed} golden samples passed`, entities: numeric.entities, modalities: numeric.trained };
  }

  async upload(blobs) {
    const ids = [];
    for (const blob of blobs) {
      const id = `${this.pictures.size}`;
      this.pictures.set(id, await readPicture(blob));
      ids.push(id);
    }
    return { ids, leftOut: 0 };
  }

  async series(ids) {
    const frames = ids.map((image) => {
      const { width, height } = this.pictures.get(image);
      return { image, frame: 0, width, height, spacing_mm: null, position_mm: null };
    });
    return { frames, stacks: [], modality: null, number: 1, series: [{ modality: null, frames: frames.length }], notes: [] };
  }

  async picture({ image }) {
    return { bitmap: this.pictures.get(image).bitmap, window: null };
  }

  async prepare({ image }) {
    await this.call("encode", { key: image, ...sizes(this.pictures.get(image)) });
    return { spacing_mm: null, spacing_source: null, modality: null };
  }

  async ask(body, _draft, signal) {
    const start = performance.now();
    const picture = this.pictures.get(body.image);
    this.check(body);
    await this.call("encode", { key: body.image, ...sizes(picture) });
    const mask = body.mask && decodeMask(body.mask);
    const { text, boxes, points, contours, modality, any_domain: anyDomain } = body;
    const answer = await this.call("ask", { key: body.image, text, boxes, points, mask, contours, modality, anyDomain });
    if (signal.aborted) throw new DOMException("stopped", "AbortError");
    return { ...answer, generated: null, finish_reason: null, timings_ms: { total: performance.now() - start } };
  }

  check({ boxes, points, mask, text }) {
    const { max_boxes: mostBoxes, max_points: mostPoints } = this.facts.numeric;
    const { longest_text: longest } = this.facts.language.answers;
    if (Array.from(text).length > longest) throw new Refused(`The text has more than ${longest} characters. Ask a shorter question.`, "invalid", 422);
    if (boxes.length > mostBoxes) throw new Refused(`There are ${boxes.length} boxes. This model takes at most ${mostBoxes}.`, "invalid", 422);
    if (points.length > mostPoints) throw new Refused(`There are ${points.length} points. This model takes at most ${mostPoints}.`, "invalid", 422);
    if (!text.trim() && !boxes.length && !mask && points.every(([, , label]) => !label)) {
      throw new Refused("There are points beside the target only. Add a name, a box, a mask or a point on the target.", "invalid", 422);
    }
  }
}

const sizes = ({ pixels, width, height }) => ({ pixels, width, height });
