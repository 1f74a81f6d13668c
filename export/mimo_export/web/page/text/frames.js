// Sentences around the names of a request, in English: mimo_runtime/text/frames.py.
import { fold } from "./names.js";
import { fullMatch, single, split, translate } from "./strings.js";
import { facts } from "./tables.js";

/** Every way to read a sentence, the most specific first: [{kind, frame, subject, relation, other}]; null where it has none. */
export function* matches(sentence) {
  const text = plain(sentence);
  const shorter = withoutFiller(text);
  for (const [kind, frame, pattern] of facts.frames.patterns) {
    const match = fullMatch(pattern, shorter) ?? (kind === "describe" || kind === "open" ? fullMatch(pattern, text) : null);
    if (!match) continue;
    const { s: subject = null, r = "", o: other = null } = match.groups ?? {};
    const relation = facts.frames.relations.find(([words]) => fullMatch(words, r))?.[1] ?? "";
    yield { kind, frame, subject, relation, other };
  }
}

/**
 * A text with letters of the usual width, single spaces, straight quotes, no markup, and no punctuation around it.
 * A negative question is the question without the negation.
 */
export function plain(text) {
  const { quotes, contraction, around, negative } = facts.frames;
  const words = single(translate(withoutMarkup(text), quotes).normalize("NFKC"));
  return words.replace(contraction.all, "$1 is").replace(around.all, "").replace(negative.all, "$1$2");
}

/** A text without tags, entities and control characters. */
export const withoutMarkup = (text) =>
  translate(text, facts.frames.hidden).replace(facts.frames.markup.all, " ").replaceAll("&amp;", "&");

/** The sentences of a request and its clauses that begin as requests do, without those that only greet. */
export function clauses(text) {
  const { quotes, clauseEnd, filler } = facts.frames;
  return translate(text, quotes).split(clauseEnd.all).map(plain).filter((part) => part && !fullMatch(filler, `${part} `));
}

/** A sentence without "please" before and "in this image" behind it. */
export function withoutFiller(sentence) {
  const { filler, inTheImage } = facts.frames;
  let text = sentence;
  for (;;) {
    const shorter = plain(text.replace(filler.some, "").replace(inTheImage.all, ""));
    if (shorter === text || !shorter) return text;
    text = shorter;
  }
}

/** Whether a text begins as a question or a request does, or is about what no picture of structures tells. */
export function isQuestion(text) {
  const [first] = split(fold(text));
  return first !== undefined && (facts.frames.asking.has(first) || facts.frames.noQuestion.some.test(text));
}
