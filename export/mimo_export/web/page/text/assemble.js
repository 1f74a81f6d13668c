// The sentence of an answer from its plan and its findings: mimo_runtime/results/assembly.py, without a draft.
import { areaOf } from "../masks.js";
import { longestDiameter } from "../numeric/measure.js";
import { composeNamed, composeNeighbours, composeOpen, composeReference, composeRelations } from "./compose.js";
import { isRelative } from "./intents.js";
import { refusalSentence } from "./refusals.js";
import { oneDecimal, roundEven } from "./strings.js";
import { facts } from "./tables.js";

/**
 * The text of an answer with its markup. `prediction`: null where nothing was computed; `findings`: of it.
 * `image`: {modality, spacing_mm, spacing_source}, "" or null where unknown.
 */
export function answerText(plan, prediction, findings, image = {}) {
  const { modality = "" } = image;
  const head = (facts.modalities[modality] ?? facts.modalities[""]).head;
  const sentence = prediction ? sentenceOf(plan, prediction, findings, head, image) : "";
  const refused = plan.refusal === null ? "" : refusalSentence(plan.refusal, plan.question);
  return [sentence, plan.note, refused].filter(Boolean).join(" ").replace(/<seg\d+>/g, "<seg>");
}

function sentenceOf(plan, prediction, findings, head, image) {
  const { intent } = plan;
  const masks = findings.map((finding) => namedMask(finding, prediction, intent.kind === "how_large" ? image : null));
  if (plan.refusal !== null) return masks.length ? composeNamed(masks, head, prediction) : "";
  if (intent.kind === "open") return composeOpen(masks, head);
  if (!isRelative(intent)) return composeNamed(masks, head, prediction);
  const referred = masks.filter(({ query }) => !query);
  const related = masks.filter(({ query }) => query);
  const rest = (some) => some.map((one) => composeReference(one, prediction));
  if (related.some(({ mask }) => !mask)) return [composeNamed(related, head, prediction), ...rest(referred)].join(" ");
  const count = intent.others.length;
  const others = count ? related.slice(-count) : referred;
  const isOfReference = intent.kind === "relation" && !intent.subjects.length;
  const subjects = isOfReference ? referred : count ? related.slice(0, -count) : related;
  const sentence = intent.kind === "relation"
    ? composeRelations(subjects, others, head)
    : composeNeighbours(subjects, intent.relation, others, head, prediction);
  return [sentence, ...rest(referred.filter((one) => !subjects.includes(one) && !others.includes(one)))].join(" ");
}

/** What is known of a finding; its size where `image` is given. */
function namedMask({ phrase: name, query, present, confident, excluded }, prediction, image) {
  const mask = present ? prediction.mask(query) : null;
  const size = image && mask ? sizeWords(mask, prediction, image) : "";
  return { name, query, mask, centre: prediction.centre(query), certain: confident, excluded, size };
}

/** Area and longest diameter in words: in mm, and in which plane they hold; in pixels where the spacing is unknown. */
function sizeWords(mask, { width, height }, { spacing_mm: spacing = null, spacing_source: source = null }) {
  const area = areaOf(mask);
  const diameter = longestDiameter(mask, width, height, spacing ?? [1, 1], facts.limits.centre_bias);
  if (!spacing) return `an area of ${area} pixels and a longest diameter of ${oneDecimal(diameter)} pixels: the pixel spacing is unknown`;
  const words = `an area of ${digits(area * spacing[0] * spacing[1])} mm² and a longest diameter of ${digits(diameter)} mm`;
  return source?.includes("detector") ? `${words} in the detector plane, where structures are magnified` : words;
}

/** At most one decimal, and four significant digits. */
const digits = (value) => (value < 1000 ? oneDecimal(value) : `${roundEven(value)}`);
