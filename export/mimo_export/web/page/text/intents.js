// What a request asks for, and the structures that it names: mimo_runtime/text/intents.py.
import { clauses, isQuestion, matches, plain, withoutFiller } from "./frames.js";
import { foreignFrame } from "./languages.js";
import { fold, isOneEdit } from "./names.js";
import { fullMatch, letters, split, strip } from "./strings.js";
import { facts } from "./tables.js";
import { find, hasWord, split as splitNames } from "./vocabulary.js";

const intent = (kind, values = {}) => ({ kind, subjects: [], relation: "", others: [], frame: "", reason: "", ...values });
const unsupported = (reason, values = {}) => intent("unsupported", { reason, ...values });
const pointedAt = (text) => fullMatch(facts.intents.pointedAt, text);

/** The entities of the subjects, each once. */
export const entitiesOf = ({ subjects }) => [...new Set(subjects.map(({ entity }) => entity).filter((entity) => entity !== null))];

/** What the model does not know. */
export const unknownOf = ({ subjects, others }) => [...subjects, ...others].filter(({ entity }) => entity === null);

/** Whether it asks how structures lie relative to others. */
export const isRelative = ({ kind }) => kind === "relation" || kind === "neighbours";

/** Whether it has no answer without a reference. */
export function needsReference(of) {
  if (isRelative(of)) return !of.others.length || (of.kind === "relation" && !of.subjects.length);
  if (of.kind === "describe" || of.kind === "open") return facts.intents.frames_of_one.includes(of.frame);
  return of.kind === "how_large" && !of.subjects.length && !of.others.length;
}

/** Read a request: {kind, subjects, relation, others, frame, reason} with subjects {text, entity}. */
export function parseRequest(text) {
  const sentence = plain(text);
  if (!strip(text)) return intent("describe");
  if (!/\p{L}/u.test(sentence)) return unsupported("not understood");
  const parts = clauses(text);
  const together = joined(parts);
  if (together) return together;
  let first = parse(sentence);
  if (isAnswerable(first)) return first;
  const remarked = withRemarks(parts);
  if (remarked) return remarked;
  if (unknownOf(first).some((unknown) => facts.frames.clauseEnd.some.test(unknown.text))) {
    first = unsupported("unsupported question", { subjects: mentioned(sentence) });
  }
  const foreign = foreignFrame(sentence, isQuestion(sentence) ? 2 : 1);
  const corrected = parse(withFrameWords(sentence));
  if (isAnswerable(corrected)) return corrected;
  if (foreign !== null && (first.kind === "unsupported" || !first.frame)) {
    return unsupported("other language", { subjects: mentioned(sentence), frame: foreign });
  }
  return first;
}

const isAnswerable = (of) => of.kind !== "unsupported" && !unknownOf(of).length;

/** One intent for several clauses about structures; null where one of them has no answer. */
function joined(parts) {
  const { joined_kinds: kinds, kind_of_frame: kindOf } = facts.intents;
  const intents = [];
  for (const part of parts) {
    let read = parse(part);
    const isNamed = read.subjects.length || read.others.length;
    if (intents.length && intents[0].subjects.length && !isNamed && isAnswerable(read) && !isRelative(read)) {
      if (read.kind === "open") return null;
      read = intent(kindOf[read.frame] ?? "name", { subjects: intents.at(-1).subjects, frame: read.frame });
    }
    intents.push(read);
  }
  if (intents.length === 1 && isAnswerable(intents[0])) return intents[0];
  const answerable = intents.filter(isAnswerable);
  const isRead = (read) => kinds.includes(read.kind) && (read.frame || isAnswerable(read));
  if (intents.length < 2 || !answerable.length || !intents.every(isRead)) return null;
  const subjects = new Map();
  for (const subject of intents.flatMap((read) => read.subjects)) {
    const key = JSON.stringify([subject.entity, subject.entity ? "" : subject.text]);
    if (!subjects.has(key)) subjects.set(key, subject);
  }
  if (subjects.size && intents.some((read) => !read.subjects.length)) return null;
  const order = (read) => kinds.indexOf(read.kind);
  const first = answerable.reduce((best, read) => (order(read) < order(best) ? read : best));
  return intent(first.kind, { subjects: [...subjects.values()], frame: first.frame });
}

/** The intent of the clauses with an answer; remarks beside them are unknown subjects. Null where another clause asks. */
function withRemarks(parts) {
  const isAsked = (part) => {
    const read = parse(part);
    return isAnswerable(read) && read.subjects.length > 0;
  };
  const asked = new Set(parts.filter(isAsked));
  const remarks = parts.filter((part) => !asked.has(part));
  if (remarks.some((remark) => isQuestion(remark) || find(remark) !== null)) return null;
  const together = joined(parts.filter((part) => asked.has(part)));
  return together && { ...together, subjects: [...together.subjects, ...remarks.map((text) => ({ text, entity: null }))] };
}

function parse(sentence) {
  for (const bare of new Set([sentence, withoutFiller(sentence)])) {
    const named = intent("name", { subjects: subjectsOf(bare) });
    if (named.subjects.length && !unknownOf(named).length) return named;
  }
  let best = null;
  for (const match of matches(sentence)) {
    const read = intentOf(match);
    if (isAnswerable(read)) return read;
    if (best === null || (entitiesOf(read).length && !entitiesOf(best).length)) best = read;
  }
  if (best !== null && (best.kind !== "unsupported" || best.reason === "empty subject")) return judged(best, sentence);
  return withoutFrame(sentence);
}

function intentOf({ kind, frame, subject, relation, other }) {
  if (kind === "describe" || kind === "open") return intent(kind, { frame });
  if (subject === null) {
    const others = othersOf(other ?? "");
    if (others === null || !relation) return unsupported("empty subject", { frame });
    return intent(kind, { relation, others, frame });
  }
  const points = pointedAt(subject);
  if (points && kind !== "relation") return intent(kind === "how_large" ? kind : "describe", { frame });
  if (fullMatch(facts.frames.all, subject) && kind !== "relation") {
    return kind === "how_large" ? unsupported("empty subject", { frame }) : intent("open", { frame: "describe" });
  }
  const subjects = points ? [] : subjectsOf(subject);
  if (!subjects.length && !points) return unsupported("empty subject", { frame });
  if (kind !== "relation") return intent(kind, { subjects, frame });
  const { eachOther, itself } = facts.intents;
  if (subjects.length === 2 && fullMatch(eachOther, other ?? "")) {
    return intent(kind, { subjects: subjects.slice(0, 1), others: subjects.slice(1), frame });
  }
  const others = othersOf(other ?? "");
  const known = new Set((others ?? []).map(({ entity }) => entity).filter((entity) => entity !== null));
  const isSame = fullMatch(itself, other ?? "") || subjects.some(({ entity }) => known.has(entity));
  if (others === null || !(subjects.length || others.length) || isSame) {
    return unsupported("unsupported question", { frame });
  }
  return intent(kind, { subjects, others, frame });
}

/** An intent with an unknown name, which may be no name at all. */
function judged(of, sentence) {
  const unknown = unknownOf(of);
  if (unknown.some(({ text }) => isQuestion(text))) return withoutFrame(sentence);
  if (unknown.length && facts.frames.predicate.some.test(sentence)) {
    return unsupported("unsupported question", { subjects: mentioned(sentence) });
  }
  if (unknown.some(({ text }) => split(text).length > facts.intents.most_words)) {
    return unsupported(isQuestion(sentence) ? "unsupported question" : "not understood", { subjects: mentioned(sentence) });
  }
  return of;
}

/** A bare name that the model does not know, or a sentence that no pattern matches. */
function withoutFrame(sentence) {
  const { another, nameless } = facts.intents;
  if (pointedAt(sentence)) return intent("describe", { frame: "show" });
  if (fullMatch(another, sentence) || nameless.has(fold(sentence))) return unsupported("empty subject");
  if (isQuestion(sentence)) return unsupported("unsupported question", { subjects: mentioned(sentence) });
  if (split(sentence).length > facts.intents.most_words) return unsupported("not understood", { subjects: mentioned(sentence) });
  const subjects = subjectsOf(sentence);
  return subjects.length ? intent("name", { subjects }) : unsupported("not understood");
}

/** The structures of a list of names, each entity once. */
function subjectsOf(list) {
  if (fullMatch(facts.intents.another, plain(list))) return [];
  const subjects = new Map();
  for (const [name, entities] of splitNames(bare(list))) {
    const text = bare(name);
    if (!/[\p{L}\p{N}]/u.test(text)) continue;
    for (const entity of entities.length ? entities : [null]) {
      const key = JSON.stringify([entity, entity ? "" : fold(text)]);
      if (!subjects.has(key)) subjects.set(key, { text, entity });
    }
  }
  return [...subjects.values()];
}

/** The longest known name within a sentence, as a subject for each of its entities. */
function mentioned(sentence) {
  const match = find(sentence);
  return match === null ? [] : match[1].map((entity) => ({ text: match[0], entity }));
}

/** The structures of a list of names; none for what a reference points at, null without a name. */
function othersOf(list) {
  if (pointedAt(plain(list))) return [];
  const subjects = subjectsOf(list);
  return subjects.length ? subjects : null;
}

/** A name without an article and quotes; "" if nothing is left. */
function bare(text) {
  const { determiner, atTheEnd, no_name: noName } = facts.intents;
  let name = plain(text).replace(/^["']+|["']+$/g, "");
  for (;;) {
    const shorter = name.replace(determiner.all, "");
    if (shorter === name) break;
    name = shorter;
  }
  name = name.replace(atTheEnd.all, "");
  return fullMatch(determiner, `${name} x`) || noName.includes(fold(name)) ? "" : name;
}

/** A sentence with typing errors of its frame corrected. */
function withFrameWords(sentence) {
  const { frameWords } = facts.intents;
  return split(sentence).map((word) => {
    const key = fold(word);
    if (letters(key).length < 3 || frameWords.includes(key) || facts.intents.everyday.has(key) || hasWord(word)) return word;
    const near = frameWords.filter((right) => isOneEdit(key, right));
    return near.length === 1 ? near[0] : word;
  }).join(" ");
}
