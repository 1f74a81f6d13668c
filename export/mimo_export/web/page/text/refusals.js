// Why a question is not answered, as data and as a sentence: mimo_runtime/results/refusals.py.
import { cleanName, listed } from "./grammar.js";
import { unknownOf } from "./intents.js";
import { takesAre } from "./names.js";
import { question } from "./questions.js";
import { letters, single, stripEnd, translate } from "./strings.js";
import { facts } from "./tables.js";
import { candidates } from "./vocabulary.js";

const REFERENCE = "a box, a point or a mask";

/** The refusal {reason, subject, works} of a request that has no answer; entities that fit the image come first. */
export function refusalOf(text, intent, entities) {
  if (intent.kind === "unsupported") {
    const own = intent.reason === "empty subject" ? "" : shortened(text);
    return { reason: intent.reason, subject: intent.subjects.length ? intent.subjects[0].text : own, works: questionsFor(intent, entities) };
  }
  const [unknown] = unknownOf(intent);
  if (unknown) {
    const near = candidates(unknown.text);
    return { reason: "unknown subject", subject: shortened(unknown.text), works: near.length ? near : entities };
  }
  return { reason: "empty subject", subject: "", works: [REFERENCE, ...questionsFor(intent, entities)] };
}

/** The refusal of an image that is unlike those of the training. */
export const refusalOfDomain = (pointedAt) => ({ reason: "out of domain", subject: "", works: pointedAt ? [] : [REFERENCE] });

/** The sentence of a refusal. */
export function refusalSentence({ reason, subject, works }, text) {
  if (reason === "unknown subject") return `${unknownSentence(subject)} It knows: ${someNames(works)}.`;
  if (reason === "out of domain") {
    const remedy = works.length ? ` Point at the structure with ${works[0]}.` : "";
    return `This model was not trained on images like this one.${remedy}`;
  }
  const questions = works.slice(0, 3).filter((one) => one !== REFERENCE);
  const quoted = questions.map((one) => (/^\p{Uppercase}/u.test(one) ? `'${one}'` : one));
  const examples = listed(quoted.length ? quoted : ["a name"], "or");
  const [needed, remedy] = works.includes(REFERENCE) ? [", or a reference,", `Give ${REFERENCE}, or ask`] : ["", "Ask"];
  if (reason === "other language") return `This model answers questions in English only. Ask ${examples}.`;
  if (reason === "empty subject") {
    return `This model needs the name of a structure${needed} for '${shortened(text)}'. ${remedy} ${examples}.`;
  }
  return `This model does not ${reason === "not understood" ? "understand" : "answer"} '${shortened(text)}'. Ask ${examples}.`;
}

/** What an answer says of a name that the model does not know. */
export const unknownSentence = (name) => `This model does not know '${shortened(name)}'.`;

/** The first names of a list, and how many more there are. */
function someNames(names) {
  const { most_names: most } = facts.answers;
  return names.slice(0, most).join(", ") + (names.length > most ? ` and ${names.length - most} more` : "") || "no structure";
}

/** A user's words as a sentence repeats them: on one line, without markup. */
function shortened(words) {
  const { most_letters: most } = facts.answers;
  const text = letters(single(translate(words, facts.frames.hidden).replaceAll("<", "(").replaceAll(">", ")").replaceAll("'", "’")));
  return text.length <= most ? text.join("") : `${stripEnd(text.slice(0, most - 1).join(""), " ")}…`;
}

/** Questions that the model answers, about the structure of the request if it is known. */
function questionsFor(intent, entities) {
  const entity = intent.subjects.find((subject) => subject.entity)?.entity ?? entities[0] ?? null;
  if (entity === null) return [facts.questions.everything];
  if (intent.reason === "other language") return [inEnglish(intent.frame, entity)];
  return [inEnglish("where", entity), howLarge(entity), facts.questions.everything];
}

function inEnglish(frame, entity) {
  if (frame === "size") return howLarge(entity);
  const { templates, several } = facts.questions;
  const fits = Object.hasOwn(templates, frame) && ![...several, "what", "describe"].includes(frame);
  return ofNumber(question(fits ? frame : "where", entity), entity);
}

const howLarge = (entity) => ofNumber(`How large is the ${cleanName(entity)}?`, entity);

/** A question about a name in the singular, with the verb that a plural takes. */
function ofNumber(text, entity) {
  if (!takesAre(cleanName(entity))) return text;
  return text.replace(" is the ", " are the ").replace("Is there a ", "Are there ").replace("Is there an ", "Are there ");
}
