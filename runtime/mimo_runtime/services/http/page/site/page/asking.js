// Questions: what is sent, in two steps so that masks come before the sentence, and what is known already.
import { encodeMask } from "./masks.js";
import { drawableFindings } from "./results.js";
import { hasReferences } from "./state.js";

const MOST_ANSWERS = 40;

/** Asks about the frame of the store; the newest question ends an earlier one. */
export class Asking {
  constructor(store, backend, frames) {
    this.store = store;
    this.backend = backend;
    this.frames = frames;
    this.known = new Map();
    this.numbers = new WeakMap();
  }

  /** The JSON of the question. */
  body(text, anyDomain) {
    const { series, index, frame, prompt, modality } = this.store.value;
    const { image, frame: number } = series.frames[index];
    return {
      image, frame: number, text, boxes: prompt.boxes, points: prompt.points,
      mask: prompt.mask ? encodeMask(prompt.mask, frame.width, frame.height) : null,
      contours: true, any_domain: anyDomain, ...(modality ? { modality } : {}),
    };
  }

  key(text, anyDomain) {
    const { index, prompt, modality } = this.store.value;
    if (prompt.mask && !this.numbers.has(prompt.mask)) this.numbers.set(prompt.mask, Math.random());
    return JSON.stringify([this.frames.ids, index, modality, text, anyDomain, prompt.boxes, prompt.points, prompt.mask && this.numbers.get(prompt.mask)]);
  }

  stop() {
    this.running?.abort();
    this.running = null;
    this.store.set({ busy: false, draft: "" });
  }

  /** Ask, and show what comes. Without a text and without references there is nothing to ask. */
  async ask(text, anyDomain = false) {
    this.stop();
    const { prompt, frame, index } = this.store.value;
    if (!frame) return;
    if (!text && !hasReferences(prompt)) {
      this.show(index, null);
      return;
    }
    const key = this.key(text, anyDomain);
    if (this.known.has(key)) {
      this.store.set({ firstMs: 0, allMs: 0 });
      this.show(index, this.known.get(key));
      return;
    }
    const body = this.body(text, anyDomain);
    const { signal } = (this.running = new AbortController());
    this.store.set({ busy: true, firstMs: 0, allMs: 0 });
    this.started = performance.now();
    try {
      await this.answer(body, index, key, signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.stop();
      throw error;
    }
    if (!signal.aborted) this.store.set({ busy: false });
  }

  async answer(body, index, key, signal) {
    const masks = await this.backend.ask({ ...body, text_answer: false }, () => {}, signal);
    if (signal.aborted) return;
    const findings = drawableFindings(masks);
    this.store.set({ firstMs: Math.round(performance.now() - this.started) });
    this.show(index, { answer: masks, findings, asked: body });
    if ((masks.refusal && !masks.findings.length) || !this.backend.hasText) {
      this.keep(key, { answer: masks, findings, asked: body });
      return;
    }
    const whole = await this.backend.ask(body, (draft) => !signal.aborted && this.store.set({ draft }), signal);
    if (signal.aborted) return;
    const shown = { answer: whole, findings: drawableFindings(whole), asked: body };
    this.keep(key, shown);
    this.store.set({ allMs: Math.round(performance.now() - this.started) });
    this.show(index, shown);
  }

  keep(key, shown) {
    this.known.set(key, shown);
    if (this.known.size > MOST_ANSWERS) this.known.delete(this.known.keys().next().value);
  }

  show(index, shown) {
    this.frames.of(index).shown = shown;
    if (this.store.value.index !== index) return;
    const empty = { answer: null, findings: [], asked: null };
    this.store.set({ ...(shown ?? empty), draft: "", lit: null, revealed: false });
  }
}
