// Teaching: the answer stays hidden until the learner has drawn theirs; then Dice and both outlines.
import { areaOf, dice, union } from "./masks.js";
import { element } from "./results.js";

/** How the learner's mask agrees with findings: rows {name, dice, learner, model} with areas in pixels. */
export function compareWith(learner, findings) {
  const present = findings.filter((finding) => finding.pixels);
  const own = areaOf(learner);
  const row = (name, mask) => ({ name, dice: dice(learner, mask), learner: own, model: areaOf(mask) });
  const rows = present.map((finding) => row(finding.phrase, finding.pixels));
  if (present.length !== 1) rows.push(row(present.length ? "all together" : "nothing", union(present.map((f) => f.pixels), learner.length)));
  return rows;
}

/** The panel of the teaching mode. `actions`: start(), end(), reset(). */
export class Teaching {
  constructor(store, actions) {
    this.store = store;
    const at = (id) => document.getElementById(id);
    [this.panel, this.step, this.table, this.compare, this.nothing] = ["lesson", "lesson-step", "scores", "compare", "nothing"].map(at);
    this.compare.addEventListener("click", () => this.reveal(this.store.value.learner));
    this.nothing.addEventListener("click", () => {
      const { width, height } = this.store.value.frame;
      this.reveal(new Uint8Array(width * height));
    });
    at("again").addEventListener("click", () => actions.again());
    store.subscribe((state) => this.show(state));
  }

  reveal(learner) {
    this.store.set({ learner, revealed: true });
    const { findings, frame } = this.store.value;
    const mm2 = frame.spacing_mm ? frame.spacing_mm[0] * frame.spacing_mm[1] : null;
    const area = (pixels) => (mm2 ? `${(pixels * mm2).toFixed(0)} mm²` : `${pixels} px`);
    const rows = compareWith(learner, findings).map((row) => element("tr", {},
      element("th", { scope: "row", textContent: row.name }),
      ...[row.dice.toFixed(2), area(row.learner), area(row.model)].map((text) => element("td", { textContent: text }))));
    this.table.tBodies[0].replaceChildren(...rows);
  }

  show(state) {
    this.panel.hidden = !state.teaching;
    this.table.hidden = !state.revealed;
    const isReady = Boolean(state.answer) && !state.busy;
    this.compare.disabled = !isReady || !state.learner || state.revealed;
    this.nothing.disabled = !isReady || state.revealed;
    this.step.textContent = stepOf(state, isReady);
  }
}

function stepOf(state, isReady) {
  if (!state.frame) return "Open an image.";
  if (state.revealed) return state.answer.refusal ? "The model did not answer." : "White: your outline. Colours: the model, which can be wrong, too.";
  if (!isReady) return state.busy ? "The model answers. Its answer stays hidden." : "Name a structure, and press Ask. The answer stays hidden.";
  return state.learner ? "Compare when you are content with your outline." : "The answer is there, and hidden. Now paint or outline what you see.";
}
