// The backend of a page without a service: pictures are read here, a worker runs the graphs.
import { Refused } from "./api.js";
import { decodeMask } from "./masks.js";
import { differenceOf } from "./numeric/selftest.js";
import { readPicture } from "./pictures.js";

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
    this.reading = { ...this.facts.images, modalities: this.facts.numeric.modalities };
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
      const picture = await readPicture(new Blob([bytes]), this.reading);
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

  /** Read files; their ids. What is no image is counted, and left out unless it is the only one. */
  async upload(blobs) {
    const ids = [];
    let refusal = null;
    for (const blob of blobs) {
      try {
        const picture = await readPicture(blob, this.reading);
        ids.push(`${this.pictures.size}`);
        this.pictures.set(ids.at(-1), picture);
      } catch (error) {
        if (error.status !== 422) throw error;
        refusal = error;
      }
    }
    if (!ids.length) throw refusal ?? new Refused("There is no file.", "empty", 0);
    return { ids, leftOut: blobs.length - ids.length };
  }

  async series(ids) {
    const frames = ids.map((image) => {
      const { width, height, spacing_mm: spacing } = this.pictures.get(image);
      return { image, frame: 0, width, height, spacing_mm: spacing, position_mm: null };
    });
    const stated = new Set(ids.map((image) => this.pictures.get(image).modality));
    const modality = stated.size === 1 ? [...stated][0] : null;
    return { frames, stacks: [], modality, number: 1, series: [{ modality, frames: frames.length }], notes: [] };
  }

  /** A picture as people see it; the model reads the image with its own window. */
  async picture({ image }, modality, window) {
    const picture = await this.pictureOf(image, modality);
    return window && picture.window ? picture.again({ modality, window }) : picture;
  }

  /** The picture of an image whose modality a person states where the file does not. */
  async pictureOf(image, modality) {
    const picture = this.pictures.get(image);
    if (!modality || !picture.again || picture.modality) return picture;
    if (picture.read?.modality !== modality) picture.read = { modality, picture: await picture.again({ modality }) };
    return picture.read.picture;
  }

  async prepare({ image }, modality) {
    const picture = await this.encode(image, modality);
    return { spacing_mm: picture.spacing_mm, spacing_source: picture.spacing_source, modality: picture.modality };
  }

  async encode(image, modality) {
    const picture = await this.pictureOf(image, modality);
    await this.call("encode", { key: keyOf(image, modality), ...sizes(picture) });
    return picture;
  }

  async ask(body, _draft, signal) {
    const start = performance.now();
    this.check(body);
    const picture = await this.encode(body.image, body.modality);
    const mask = body.mask && decodeMask(body.mask);
    const { text, boxes, points, contours, any_domain: anyDomain } = body;
    const { spacing_mm: spacing, spacing_source: spacingSource } = picture;
    const modality = picture.modality ?? body.modality;
    const answer = await this.call("ask", { key: keyOf(body.image, body.modality), text, boxes, points, mask, contours, modality, anyDomain, spacing, spacingSource });
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

const keyOf = (image, modality) => `${image} ${modality ?? ""}`;
