// The open series: which frame is shown, with which window, and what was drawn and answered on each.
import { History, NO_PROMPT } from "./state.js";

const MOST_PICTURES = 64;
const EIGHT_BIT = [127.5, 255];

/** Opens files and shows frames; the store has `series`, `index`, `frame`, `bitmap`, `window`, and the answer of the frame. */
export class Frames {
  constructor(store, backend) {
    this.store = store;
    this.backend = backend;
    this.pictures = new Map();
    this.forget();
  }

  forget() {
    this.kept = new Map();
    this.pictures.clear();
    this.chosen = null;
    this.default = null;
  }

  /** Open files as a series. */
  async open(blobs, report) {
    if (!blobs.length) return;
    this.forget();
    const { ids, leftOut } = await this.backend.upload(blobs, (done, all) => report(all > 1 ? `File ${done + 1} of ${all}.` : "The file is being read."));
    this.ids = ids;
    await this.choose(1);
    const { frames, stacks, notes } = this.store.value.series;
    const problem = stacks.find((stack) => stack.problem)?.problem;
    const count = frames.length > 1 ? `${frames.length} slices${problem ? ` (${problem})` : ""}.` : "";
    report([count, leftOut ? `${leftOut} files are no images that can be read.` : "", ...notes.map((note) => `${note}.`)].join(" ").trim() || "The image is open.");
  }

  /** One of several series among the files, from 1. */
  async choose(number) {
    const series = await this.backend.series(this.ids, number);
    this.forget();
    this.store.set({ series, modality: "", frame: null, bitmap: null });
    await this.show(Math.floor((series.frames.length - 1) / 2));
  }

  /** What is kept of a frame: history, answer. */
  of(index) {
    if (!this.kept.has(index)) this.kept.set(index, { history: new History({ ...NO_PROMPT, learner: null }), shown: null });
    return this.kept.get(index);
  }

  get current() {
    return this.of(this.store.value.index);
  }

  /** Show a frame, with what was drawn and answered on it. */
  async show(index) {
    const { series } = this.store.value;
    const place = Math.min(series.frames.length - 1, Math.max(0, index));
    const listed = series.frames[place];
    this.target = place;
    const picture = await this.picture(listed);
    if (!picture || this.target !== place) return;
    const known = this.of(place);
    const { width, height } = picture.bitmap;
    known.frame = known.frame ?? { ...listed, width, height };
    const { learner, ...prompt } = known.history.current;
    this.store.set({
      index: place, frame: known.frame, bitmap: picture.bitmap, window: picture.window, filter: this.filter(picture.window),
      prompt, learner, revealed: false, draft: "", sketch: null, lit: null, cursor: null,
      answer: known.shown?.answer ?? null, findings: known.shown?.findings ?? [], asked: known.shown?.asked ?? null,
    });
    this.prepare(place);
  }

  /** The picture of a frame in the chosen window; null where another was wanted meanwhile. */
  async picture(listed) {
    this.loading?.abort();
    const { signal } = (this.loading = new AbortController());
    const window = this.default === EIGHT_BIT ? null : this.chosen;
    const { modality } = this.store.value;
    const key = [listed.image, listed.frame, modality, window].join(" ");
    if (!this.pictures.has(key)) {
      try {
        this.pictures.set(key, await this.backend.picture(listed, modality, window, signal));
      } catch (error) {
        if (error.name === "AbortError") return null;
        throw error;
      }
      if (this.pictures.size > MOST_PICTURES) this.pictures.delete(this.pictures.keys().next().value);
    }
    const picture = this.pictures.get(key);
    if (!this.default || !picture.window) this.default = picture.window ?? EIGHT_BIT;
    return picture;
  }

  /** Let the service encode the frame soon, so that the first answer comes fast. */
  prepare(place) {
    clearTimeout(this.timer);
    this.preparing?.abort();
    this.timer = setTimeout(async () => {
      const { signal } = (this.preparing = new AbortController());
      const { series, modality } = this.store.value;
      const facts = await this.backend.prepare(series.frames[place], modality, signal).catch(() => null);
      if (!facts || !this.store.value.frame || this.store.value.index !== place) return;
      const known = this.of(place);
      known.frame = { ...known.frame, spacing_mm: facts.spacing_mm, spacing_source: facts.spacing_source, modality: facts.modality };
      this.store.set({ frame: known.frame });
    }, 200);
  }

  /** Centre and width that the picture shows. */
  get window() {
    return this.chosen ?? this.default ?? EIGHT_BIT;
  }

  /** Show another window; null is the first one. Pictures of 8 bit are changed in the page. */
  async setWindow(window) {
    this.chosen = window;
    if (this.default === EIGHT_BIT) {
      this.store.set({ filter: this.filter(null), windowShown: this.window });
      return;
    }
    this.store.set({ windowShown: this.window });
    if (this.isDrawing) return;
    this.isDrawing = true;
    while (this.drawn !== this.chosen) {
      this.drawn = this.chosen;
      const { series, index } = this.store.value;
      const picture = await this.picture(series.frames[index]).finally(() => (this.isDrawing = false));
      this.isDrawing = true;
      if (picture && this.store.value.index === index) this.store.set({ bitmap: picture.bitmap, window: picture.window });
    }
    this.isDrawing = false;
  }

  filter(window) {
    if (window || !this.chosen) return "";
    const [centre, width] = [Math.max(1, this.chosen[0]), Math.max(1, this.chosen[1])];
    return `brightness(${127.5 / centre}) contrast(${(2 * centre) / width})`;
  }
}
