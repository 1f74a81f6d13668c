// The answer in words and numbers, beside the picture.
import { decodeMask } from "./masks.js";
import { COLOURS } from "./view.js";

/** Names that a refusal offers as buttons. */
const MOST_NAMES = 12;

/** An element with properties and children. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const percent = (value) => `${(100 * value).toFixed(value > 0.995 && value < 1 ? 1 : 0)} %`;

/** Findings of an answer with their masks as pixels and their colours; those with a mask of the frame's size. */
export function drawableFindings(answer) {
  return answer.findings.map((finding, index) => {
    const pixels = (mask) => (mask ? decodeMask(mask) : null);
    return {
      ...finding, colour: COLOURS[index % COLOURS.length], pixels: finding.present ? pixels(finding.mask) : null,
      innerPixels: finding.present ? pixels(finding.inner) : null, outerPixels: finding.present ? pixels(finding.outer) : null,
    };
  });
}

/** The text of an answer without its markup, also where a tag is not complete yet. */
export const plain = (text) => text.replace(/<\/?p>|<seg\d*>/g, "").replace(/<[^>]*$/, "");

/** The parts of a sentence as [words, indices of findings]; findings are in the order of the text. */
export function phrasesOf(text, findings) {
  const present = findings.flatMap((finding, index) => (finding.present ? [index] : []));
  const open = [...present];
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(/<p>((?:(?!<\/?p>).)*)<\/p>\s*((?:<seg\d*>\s*)*<seg\d*>)/gs)) {
    parts.push([plain(text.slice(end, match.index)), []]);
    const count = match[2].match(/<seg/g).length;
    const named = (some) => some.filter((index) => findings[index].phrase === match[1]);
    // A sentence about several relations names a structure again. A plural has the name of no finding: the next one is meant.
    const own = ([named(open), named(present), open].find((some) => some.length >= count) ?? []).slice(0, count);
    for (const index of own) if (open.includes(index)) open.splice(open.indexOf(index), 1);
    parts.push([match[1], own]);
    end = match.index + match[0].length;
  }
  parts.push([plain(text.slice(end)), []]);
  return parts.filter(([words]) => words);
}

/** Shows answers. `light(index)` marks a finding in the picture, null none. */
export class Results {
  constructor(store, light, retry) {
    this.store = store;
    this.light = light;
    this.retry = retry;
    this.at = (id) => document.getElementById(id);
    store.subscribe((state, names) => {
      if (["answer", "findings", "draft", "teaching", "revealed", "allMs"].some((name) => names.has(name))) this.show(state);
      if (names.has("lit")) this.mark(state.lit);
    });
  }

  show(state) {
    const isHidden = state.teaching && !state.revealed;
    this.at("answer").hidden = isHidden || (!state.answer && !state.draft);
    if (isHidden) return;
    const { answer, findings, draft } = state;
    this.showSentence(answer, findings, draft);
    this.showRefusal(answer?.refusal ?? null);
    this.showDomain(answer?.domain ?? null);
    this.at("warnings").replaceChildren(...(answer?.warnings ?? []).map((text) => element("li", { textContent: text })));
    this.at("findings").replaceChildren(...findings.map((finding, index) => this.item(finding, index, state.frame)));
    this.at("findings-title").hidden = !findings.length;
    this.showLegend(findings);
    this.at("contours-label").hidden = !findings.some((finding) => finding.innerPixels);
    this.at("times").textContent = state.firstMs ? `First mask after ${state.firstMs} ms${state.allMs ? `, all after ${state.allMs} ms` : ""}.` : "";
  }

  showSentence(answer, findings, draft) {
    const sentence = this.at("sentence");
    const isDraft = !answer?.text && Boolean(draft);
    sentence.className = isDraft ? "draft" : "";
    if (isDraft) sentence.replaceChildren(plain(draft));
    else sentence.replaceChildren(...phrasesOf(answer?.text ?? "", findings).map(([words, own]) => (own.length ? this.phrase(words, own) : words)));
    sentence.hidden = !sentence.textContent;
  }

  phrase(words, own) {
    const button = element("button", { type: "button", className: "phrase", textContent: words });
    button.dataset.finding = own.join(" ");
    button.style.setProperty("--colour", `rgb(${this.store.value.findings[own[0]].colour.join(" ")})`);
    this.lights(button, own[0]);
    return button;
  }

  /** Hover and focus light the mask; a press keeps it lit. */
  lights(target, index) {
    target.addEventListener("pointerenter", () => this.light(index));
    target.addEventListener("pointerleave", () => this.light(null));
    target.addEventListener("focus", () => this.light(index));
    target.addEventListener("blur", () => this.light(null));
  }

  item(finding, index, frame) {
    const item = element("li", { className: finding.present ? "" : "absent" });
    item.dataset.finding = String(index);
    item.style.setProperty("--colour", `rgb(${finding.colour.join(" ")})`);
    const name = element("button", { type: "button", className: "name", textContent: finding.phrase });
    item.append(element("span", { className: "swatch", ariaHidden: "true" }), finding.present ? name : element("strong", { textContent: finding.phrase }));
    const facts = finding.present ? presentFacts(finding, frame) : absentFacts(finding);
    item.append(element("span", { className: "facts", textContent: facts.join(" · ") }));
    if (finding.present) {
      item.append(element("span", { className: finding.confident ? "good" : "caution", textContent: finding.confident ? "confident" : "review it" }));
      this.lights(item, index);
      this.lights(name, index);
    }
    return item;
  }

  mark(lit) {
    for (const part of document.querySelectorAll("[data-finding]")) {
      part.classList.toggle("lit", lit !== null && part.dataset.finding.split(" ").includes(String(lit)));
    }
  }

  showRefusal(refusal) {
    const box = this.at("refusal");
    box.hidden = !refusal;
    if (!refusal) return;
    const subject = refusal.subject ? `: “${refusal.subject}”` : "";
    const again = refusal.reason === "out of domain"
      ? [element("button", { type: "button", textContent: "Answer anyway", onclick: () => this.retry({ anyDomain: true }) })]
      : refusal.works.slice(0, MOST_NAMES).map((works) => element("button", { type: "button", textContent: works, onclick: () => this.retry({ text: works }) }));
    const others = refusal.works.slice(MOST_NAMES);
    box.replaceChildren(
      element("p", {}, element("strong", { textContent: `Not answered: ${refusal.reason}${subject}` })),
      ...(again.length ? [element("p", { className: "quiet", textContent: refusal.reason === "out of domain" ? "The image is unlike those of the training." : "This model answers:" }), element("div", { className: "row wrap" }, ...again)] : []),
      ...(others.length ? [element("p", { className: "quiet", textContent: `Also: ${others.join(", ")}.` })] : []),
    );
  }

  showDomain(domain) {
    const line = this.at("domain");
    line.hidden = !domain;
    if (!domain) return;
    const words = { in: "like those of the training", borderline: "at the border of what the training had", out: "unlike those of the training" };
    const other = domain.contradicts_stated ? " It looks like another kind of image than stated." : "";
    line.className = domain.verdict === "in" && !domain.contradicts_stated ? "good" : "caution";
    line.textContent = `Image: ${words[domain.verdict] ?? domain.verdict} (nearest: ${domain.modality}).${other}`;
  }

  showLegend(findings) {
    const stated = findings.find((finding) => finding.coverage !== null && finding.coverage !== undefined && finding.innerPixels);
    const legend = this.at("legend");
    legend.hidden = !stated;
    if (!stated) return;
    legend.textContent = `Dotted: inner contour. Dashed: outer contour. Each holds for ${percent(stated.coverage)} of the masks.`;
  }
}

function presentFacts(finding, frame) {
  const facts = [`score ${finding.score.toFixed(2)}`];
  if (finding.area_mm2 !== null) facts.push(`${finding.area_mm2.toFixed(finding.area_mm2 < 100 ? 1 : 0)} mm²`);
  else facts.push(`${finding.area_px} px`);
  if (finding.longest_diameter_mm !== null) facts.push(`longest diameter ${finding.longest_diameter_mm.toFixed(1)} mm`);
  if (finding.box) facts.push(sizeText(finding.box, frame));
  if (finding.refined) facts.push("refined");
  if (finding.calibrated === false) facts.push("no contours: too few calibration cases");
  return facts;
}

function absentFacts(finding) {
  const facts = ["not found", `presence ${finding.presence.toFixed(2)}`];
  if (finding.excluded) facts.push("excluded with the stated miss rate");
  return facts;
}

/** Width and height of a box, in mm where the spacing is known. */
export function sizeText([x0, y0, x1, y1], frame) {
  const spacing = frame?.spacing_mm;
  const [width, height] = spacing ? [(x1 - x0) * spacing[1], (y1 - y0) * spacing[0]] : [x1 - x0, y1 - y0];
  return `${width.toFixed(spacing ? 1 : 0)} × ${height.toFixed(spacing ? 1 : 0)} ${spacing ? "mm" : "px"}`;
}
