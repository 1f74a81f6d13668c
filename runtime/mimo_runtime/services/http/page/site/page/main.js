// The page: connects its parts.
import { connect } from "./backend.js";
import { Asking } from "./asking.js";
import { showDownloads } from "./downloads.js";
import { filesOfDrop, unpacked } from "./files.js";
import { Frames } from "./frames.js";
import { element, Results, sizeText } from "./results.js";
import { hasReferences, NO_PROMPT, Store } from "./state.js";
import { Teaching } from "./teaching.js";
import { drawsMask, Tools } from "./tools.js";
import { View } from "./view.js";

const at = (id) => document.getElementById(id);
const KEYS = { b: "box", p: "plus", n: "minus", m: "brush", o: "outline", e: "erase", h: "pan", w: "window" };
const store = new Store({
  series: null, index: 0, frame: null, bitmap: null, window: null, windowShown: null, filter: "", modality: "",
  tool: "box", brush: 8, prompt: NO_PROMPT, learner: null, sketch: null, cursor: null,
  answer: null, findings: [], asked: null, draft: "", busy: false, firstMs: 0, allMs: 0, lit: null, contours: true, teaching: false, revealed: false,
});
const view = new View(at("canvas"), store);
let backend, frames, asking, tools;

const report = (text) => (at("status").textContent = text);
const fail = (error) => {
  console.debug(error);
  at("alert").replaceChildren(element("p", { textContent: error.message }), element("button", { type: "button", textContent: "Close", onclick: () => at("alert").replaceChildren() }));
};

/** Do something that can fail; its refusal is shown. */
async function attempt(work) {
  at("alert").replaceChildren();
  try {
    await work();
  } catch (error) {
    fail(error);
  }
}

const ask = (anyDomain = false) => attempt(() => asking.ask(at("text").value.trim(), anyDomain));

/** A step of drawing: it can be undone, and it is asked about. */
function commit(prompt) {
  frames.current.history.push({ ...prompt, learner: store.value.learner });
  store.set({ prompt });
  ask();
}

function travel(step) {
  if (!store.value.frame) return;
  const { history } = frames.current;
  const before = history.current;
  const { learner, ...prompt } = step(history);
  const asks = ["boxes", "points", "mask"].some((name) => before[name] !== prompt[name]);
  store.set({ prompt, learner, sketch: null });
  if (asks) ask();
}

const undo = () => travel((history) => history.undo());
const redo = () => travel((history) => history.redo());
const clear = () => store.value.frame && commit(NO_PROMPT);

const actions = {
  commit,
  commitLearner: (learner) => {
    frames.current.history.push({ ...store.value.prompt, learner });
    store.set({ learner, revealed: false });
  },
  step: (count) => attempt(() => frames.show((frames.target ?? store.value.index) + count)),
  window: () => frames.window,
  setWindow: (window) => attempt(() => frames.setWindow(window)),
  hover: (position) => showPosition(position),
};

function showPosition(position) {
  const { frame, sketch } = store.value;
  const readout = at("readout");
  if (sketch?.kind === "box") {
    const [x0, y0, x1, y1] = sketch.box;
    readout.textContent = sizeText([Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)], frame);
  } else if (position && frame && position[0] >= 0 && position[1] >= 0 && position[0] < frame.width && position[1] < frame.height) {
    readout.textContent = `x ${Math.floor(position[0])}  y ${Math.floor(position[1])}`;
  } else readout.textContent = "";
}

async function openFiles(list) {
  asking.stop();
  await attempt(async () => {
    report("The file is being read.");
    await frames.open(list, report);
    at("canvas").focus({ preventScroll: true });
  });
}

// -- what is shown of the state -----------------------------------------------------------------------------------------

function showTools(state) {
  for (const button of document.querySelectorAll("#tools [data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
  at("canvas").dataset.tool = state.tool;
  at("brush-label").hidden = state.tool !== "brush" && state.tool !== "erase";
  at("brush").value = String(state.brush);
  at("brush-text").textContent = `${state.brush} px`;
  const history = state.frame ? frames.current.history : null;
  at("undo").disabled = !history?.canUndo;
  at("redo").disabled = !history?.canRedo;
  at("clear").disabled = !hasReferences(state.prompt);
  at("fit").disabled = !state.frame;
}

function showBars(state) {
  const count = state.series?.frames.length ?? 0;
  at("slices").hidden = count < 2 && (state.series?.series.length ?? 0) < 2;
  at("slice").max = String(Math.max(1, count));
  at("slice").value = String(state.index + 1);
  const place = state.frame?.position_mm;
  const stack = state.series?.stacks.find(({ start, stop }) => start <= state.index && state.index < stop);
  const parts = [`${state.index + 1} of ${count}`, Number.isFinite(place) ? `${place.toFixed(1)} mm` : "", stack?.label ?? ""];
  at("slice-text").textContent = parts.filter(Boolean).join(" · ");
  at("window").hidden = !state.frame;
  if (state.frame && document.activeElement !== at("centre") && document.activeElement !== at("width")) {
    const [centre, width] = frames.window;
    at("centre").value = String(Math.round(centre * 10) / 10);
    at("width").value = String(Math.round(width * 10) / 10);
  }
  at("drop").hidden = Boolean(state.series);
}

function showImage(state) {
  const { frame, series, index } = state;
  const name = frame ? `${frame.modality ?? series.modality ?? "image"}, ${frame.width} by ${frame.height} pixels, slice ${index + 1} of ${series.frames.length}` : "No image";
  at("canvas").setAttribute("aria-label", name);
  const stated = frame?.modality ?? series?.modality;
  at("modality-label").hidden = !frame || (Boolean(stated) && !state.modality);
}

function showSeries(series) {
  at("series-label").hidden = !series || series.series.length < 2;
  at("series").replaceChildren(...(series?.series ?? []).map((one, i) => element("option", { value: String(i + 1), textContent: `${i + 1}: ${one.modality ?? "images"}, ${one.frames}` })));
  if (series) at("series").value = String(series.number);
}

function showReferences({ prompt, frame }) {
  const without = (name, index) => () => commit({ ...prompt, [name]: prompt[name].filter((_, i) => i !== index) });
  const row = (text, remove) => element("li", {}, text, element("button", { type: "button", textContent: "×", ariaLabel: `Remove ${text}`, onclick: remove }));
  at("references").replaceChildren(
    ...prompt.boxes.map((box, i) => row(`Box ${sizeText(box, frame)}`, without("boxes", i))),
    ...prompt.points.map(([x, y, label], i) => row(`${label ? "On it" : "Not it"} ${Math.round(x)}, ${Math.round(y)}`, without("points", i))),
    ...(prompt.mask ? [row("Rough mask", () => commit({ ...prompt, mask: null }))] : []),
  );
}

function showBusy(state) {
  at("stop").hidden = !state.busy;
  at("go").hidden = state.busy;
  at("panel").setAttribute("aria-busy", String(state.busy));
  if (state.busy) report(state.answer && !state.teaching ? "The masks are here. The sentence is being written." : "The model answers.");
  else if (state.answer) report(state.teaching && !state.revealed ? "The answer is there, and hidden." : summaryOf(state));
}

function summaryOf({ answer, findings }) {
  const present = findings.filter((finding) => finding.present).length;
  if (answer.finish_reason === "deadline" || answer.finish_reason === "cancelled") return "The answer is not complete.";
  if (answer.refusal && !present) return "Not answered.";
  return present === 1 ? "One structure found." : `${present || "No"} structures found.`;
}

store.subscribe((state, names) => {
  const has = (...wanted) => wanted.some((name) => names.has(name));
  showTools(state);
  if (has("series")) showSeries(state.series);
  if (has("series", "index", "frame", "window", "windowShown", "filter")) showBars(state);
  if (has("series", "frame", "modality")) showImage(state);
  if (has("prompt", "frame")) showReferences(state);
  if (has("busy", "answer", "revealed", "teaching")) showBusy(state);
  if (has("bitmap") && state.bitmap && view.isFitted) view.fit();
  if (has("sketch") && !state.sketch) at("readout").textContent = "";
});

// -- controls -----------------------------------------------------------------------------------------------------------

const press = (id, action) => at(id).addEventListener("click", action);

function listenToControls() {
  for (const button of document.querySelectorAll("#tools [data-tool]")) button.addEventListener("click", () => choose(button.dataset.tool));
  at("tools").addEventListener("keydown", moveInToolbar);
  press("undo", undo);
  press("redo", redo);
  press("clear", clear);
  press("fit", () => view.fit());
  press("stop", () => asking.stop());
  press("teach", () => teach());
  press("theme", () => changeTheme());
  press("help", () => at("keys").showModal());
  press("window-reset", () => attempt(() => frames.setWindow(null)));
  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!store.value.frame) report("Open an image first.");
    else if (!at("text").value.trim() && !hasReferences(store.value.prompt)) report("Type a name or a question, or point at something.");
    else ask();
  });
  at("files").addEventListener("change", async () => {
    const chosen = [...at("files").files];
    at("files").value = "";
    await attempt(async () => openFiles(await unpacked(chosen)));
  });
  at("slice").addEventListener("input", () => attempt(() => frames.show(Number(at("slice").value) - 1)));
  at("series").addEventListener("change", () => attempt(() => frames.choose(Number(at("series").value))));
  at("modality").addEventListener("change", () => {
    store.set({ modality: at("modality").value });
    attempt(() => frames.show(store.value.index));
  });
  at("brush").addEventListener("input", () => store.set({ brush: Number(at("brush").value) }));
  at("contours").addEventListener("change", () => store.set({ contours: at("contours").checked }));
  for (const id of ["centre", "width"]) at(id).addEventListener("change", setWindowFromFields);
}

function setWindowFromFields() {
  const [centre, width] = [Number(at("centre").value), Number(at("width").value)];
  if (Number.isFinite(centre) && width > 0) attempt(() => frames.setWindow([centre, width]));
}

function choose(tool) {
  tools.giveUp();
  store.set({ tool });
}

function moveInToolbar(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const buttons = [...at("tools").querySelectorAll("button:not(:disabled)")];
  buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length].focus();
  event.preventDefault();
}

function teach() {
  const teaching = !store.value.teaching;
  at("teach").setAttribute("aria-pressed", String(teaching));
  store.set({ teaching, revealed: false, learner: teaching ? store.value.learner : null });
  if (teaching && !drawsMask(store.value.tool)) choose("outline");
}

function changeTheme() {
  const isDark = getComputedStyle(document.documentElement).colorScheme.startsWith("dark");
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
  at("theme").textContent = isDark ? "Dark" : "Light";
}

function onKey(event) {
  const isTyping = event.target.closest?.("input:not([type=range]):not([type=checkbox]), select, textarea, dialog");
  const isCommand = event.ctrlKey || event.metaKey;
  if (isCommand && event.key.toLowerCase() === "z" && !isTyping) (event.shiftKey ? redo : undo)();
  else if (event.key === "Escape" && !event.target.closest?.("dialog")) store.value.sketch ? tools.giveUp() : asking.stop();
  else if (isTyping || isCommand || event.altKey) return;
  else if (KEYS[event.key]) choose(KEYS[event.key]);
  else if (event.key === "[" || event.key === "]") store.set({ brush: Math.min(60, Math.max(1, store.value.brush + (event.key === "]" ? 2 : -2))) });
  else if (event.key === "+" || event.key === "=") view.zoom(1.25);
  else if (event.key === "-") view.zoom(0.8);
  else if (event.key === "0") view.fit();
  else if (event.key === "Delete") clear();
  else if (event.key === "t") teach();
  else if (event.key === "?") at("keys").showModal();
  else if (event.key === "/") at("text").focus();
  else return;
  if (event.key !== "Escape") event.preventDefault();
}

function listenToDrops() {
  const stage = document.body;
  stage.addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("dragging");
  });
  stage.addEventListener("dragleave", (event) => event.relatedTarget ?? stage.classList.remove("dragging"));
  stage.addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("dragging");
    attempt(async () => openFiles(await filesOfDrop(event.dataTransfer)));
  });
}

/** The key of the service, from the person. */
function askKey() {
  const dialog = at("key-dialog");
  at("key").value = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(at("key").value.trim()), { once: true }));
}

async function start() {
  changeThemeText();
  document.addEventListener("keydown", onKey);
  backend = await connect(report, askKey);
  const model = await backend.model();
  at("model").textContent = `${model.id}${model.device ? ` · ${model.device}` : ""}`;
  at("names").replaceChildren(...["What do you see?", ...model.entities].map((name) => element("option", { value: name })));
  at("modality").append(...model.modalities.map((name) => element("option", { value: name, textContent: name })));
  frames = new Frames(store, backend);
  asking = new Asking(store, backend, frames);
  tools = new Tools(view, store, actions);
  new Results(store, (lit) => store.set({ lit }), ({ text, anyDomain }) => {
    if (text) at("text").value = text;
    ask(Boolean(anyDomain));
  });
  new Teaching(store, { again: () => commitAgain() });
  showDownloads(at("downloads"), backend, view, () => store.value, report, attempt);
  listenToControls();
  listenToDrops();
  showTools(store.value);
  report("Ready. Open an image.");
  document.documentElement.dataset.ready = "true";
}

function commitAgain() {
  if (store.value.frame) actions.commitLearner(null);
}

function changeThemeText() {
  at("theme").textContent = getComputedStyle(document.documentElement).colorScheme.startsWith("dark") ? "Light" : "Dark";
}

start().catch(fail);
