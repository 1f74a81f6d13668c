// What is computed for a request, and what is refused: mimo_runtime/results/plan.py.
import { domainWarnings } from "./domain_rules.js";
import { entitiesOf, isRelative, needsReference, parseRequest, unknownOf } from "./intents.js";
import { fold } from "./names.js";
import { question, subjectOf, targetOf, templates } from "./questions.js";
import { refusalOf, refusalOfDomain, unknownSentence } from "./refusals.js";
import { facts } from "./tables.js";
import { textFits } from "./tokens.js";

/**
 * Read a request {text, boxes, points, mask}.
 * `modality`: of the image, "" where none is stated. `domain`: its check {verdict, score, modality, contradicts_stated}, or null.
 * Returns {intent, prompt, question, named, names, refusal, warnings, note, excluded}: `prompt` is what the graphs read, whether its
 * text names a target, and which; `named` has [phrase, query] of the findings that the request decides, `names` those of several
 * structures that are each answered as by itself, `excluded` queries that are absent for sure.
 */
export function planRequest(prompt, modality = "", domain = null, anyDomain = false) {
  const ofModality = facts.modalities[modality] ?? facts.modalities[""];
  let intent = parseRequest(prompt.text);
  if (!facts.vocabulary.entities.length) intent = withAnyName(intent);
  const isPointed = pointsAtTarget(prompt);
  const isNaming = intent.kind === "name" && intent.frame === "what" && intent.subjects.length && !unknownOf(intent).length;
  if (isPointed && isNaming) intent = { ...intent, kind: "describe", subjects: [] };
  if (intent.kind === "open" || intent.kind === "describe") intent = { ...intent, kind: isPointed ? "describe" : "open" };
  const nearest = domain === null || domain.verdict === "out" ? "" : domain.modality;
  const { entities } = facts.modalities[modality || nearest] ?? ofModality;
  let [refusal, warnings] = refused(prompt.text, intent, entities, isPointed);
  const unknown = unknownOf(intent);
  if (refusal === null && domain !== null && domain.verdict === "out" && !anyDomain) {
    [refusal, warnings] = [refusalOfDomain(isPointed), []];
  }
  if (refusal === null && unknown.length) intent = { ...intent, subjects: intent.subjects.filter(({ entity }) => entity !== null) };
  let named = namedOf(intent, refusal, isPointed);
  const ofNearest = domain !== null && domain.verdict === "in" ? (facts.modalities[modality || nearest] ?? ofModality) : null;
  const unnamed = ofNearest !== null && facts.answers.unnamed.includes(intent.kind) ? ofNearest.excluded : [];
  const never = ((isPointed && ofNearest) || ofModality).excluded;
  const own = new Set(named.map(([, query]) => query));
  const isExcluded = (entity, query) => ofModality.excluded.includes(entity) || (unnamed.includes(entity) && !own.has(query));
  let excluded = facts.vocabulary.entities.flatMap((entity, i) => (isExcluded(entity, i + 1) ? [i + 1] : []));
  if (named.length === 1 && named[0][1] === 0 && never.includes(named[0][0])) {
    if (isPointed) named = [[facts.answers.referred, 0]];
    else excluded = [0, ...excluded];
  }
  const text = textsOf(prompt.text, intent, refusal, isPointed).find((one) => !one || textFits(one)) ?? (isPointed ? "" : prompt.text);
  return {
    intent, prompt: readPrompt(prompt, text), question: prompt.text, named, refusal,
    names: isRelative(intent) ? [] : named.filter(([name, query]) => query && textFits(name)),
    warnings: [...domainWarnings(domain, ofModality.word), ...warnings],
    note: refusal === null && intent.subjects.length ? unknown.map((subject) => unknownSentence(subject.text)).join(" ") : "",
    excluded,
  };
}

/** A request as the graphs read it, whether its text names a target, and which. */
const readPrompt = (prompt, text) => ({ ...prompt, text, isNamed: Boolean(subjectOf(text)), target: targetOf(text) });

/** A request by the name of a structure alone. */
export const nameAlone = (name) => readPrompt({ boxes: [], points: [], mask: null }, name);

/** Whether a request has a box, a mask or a point on the target. */
export const pointsAtTarget = ({ boxes, points, mask }) => Boolean(boxes.length || mask || points.some(([, , label = 1]) => label));

/** Whether the graphs run: a refused request has only what a reference points at. */
export const hasAnswer = ({ refusal, named }) => refusal === null || named.length > 0;

/** An intent for a model without entities: query 0 may draw anything. */
function withAnyName(intent) {
  if (isRelative(intent) || !intent.subjects.length) return intent;
  const name = intent.subjects.map(({ text }) => text).join(" and ");
  return { ...intent, subjects: [{ text: name, entity: name }] };
}

/** The refusal of a request, and warnings about the part that is not answered. */
function refused(text, intent, entities, isPointed) {
  const unknown = unknownOf(intent);
  if (intent.kind === "unsupported" || (needsReference(intent) && !isPointed)) return [refusalOf(text, intent, entities), []];
  if (!unknown.length) return [null, []];
  const onlyPoints = isPointed && !isRelative(intent) && !facts.answers.yes_or_no.includes(intent.frame);
  if ((isRelative(intent) || !entitiesOf(intent).length) && !onlyPoints) return [refusalOf(text, intent, entities), []];
  return [null, unknown.map((subject) => unknownSentence(subject.text))];
}

function namedOf(intent, refusal, isPointed) {
  const entities = refusal ? [] : entitiesOf(intent);
  const others = refusal ? [] : intent.others.map(({ entity }) => entity).filter((entity) => entity !== null);
  if (entities.length === 1 && !isRelative(intent)) return [[entities[0], 0]];
  const own = [...entities, ...others].map((entity) => [entity, 1 + facts.vocabulary.entities.indexOf(entity)]);
  return isPointed ? [[facts.answers.referred, 0], ...own] : own;
}

/** Whether training asks such a question: about one structure, relative to one other one in a direction. */
function hasTemplate(intent) {
  if (isRelative(intent)) {
    const subjects = intent.kind === "relation" ? entitiesOf(intent).length : 1;
    return subjects === 1 && intent.others.length === 1 && intent.relation !== facts.frames.next_to;
  }
  return intent.kind !== "open" && intent.kind !== "describe" && entitiesOf(intent).length === 1;
}

/** What the graphs may read, the best first. */
function textsOf(text, intent, refusal, isPointed) {
  const { templates: byKind, everything } = facts.questions;
  // Case, quotes and punctuation change what graphs answer: they read the question as training asks it.
  const templateOf = (some) => (some.includes(text) ? text : some.find((one) => fold(one) === fold(text)));
  if (refusal || !hasTemplate(intent)) {
    const unnamed = refusal || intent.subjects.length ? undefined : templateOf(isPointed ? byKind.what : byKind.describe);
    return [unnamed ?? (isPointed ? "" : everything)];
  }
  const name = entitiesOf(intent)[0] ?? "";
  const other = intent.others[0]?.entity ?? "";
  const template = templateOf(templates(name, other, intent.relation));
  const asked = template === undefined ? [] : [template];
  if (isRelative(intent)) return [...asked, question(intent.kind, name, other, intent.relation), everything];
  const kind = { where: "where", how_many: "count" }[intent.kind];
  return [...asked, ...(kind ? [question(kind, name)] : []), name];
}
