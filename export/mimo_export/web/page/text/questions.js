// Questions of training, and what they name: mimo_runtime/text/questions.py.
import { cleanName, pluralise, singular } from "./grammar.js";
import { fullMatch, single } from "./strings.js";
import { facts } from "./tables.js";

const filled = (template, values) => template.replace(/\{(\w+)\}/g, (_, slot) => values[slot]);
const withArticle = (name) => ("aeiou".includes(name.slice(0, 1).toLowerCase()) ? "an " : "a ") + name;

/** The first question of a kind. */
export function question(kind, name = "", other = "", relation = "") {
  const clean = cleanName(name);
  const values = { name: clean, a: withArticle(clean), many: pluralise(clean) ?? clean, other: cleanName(other), relation };
  return filled(facts.questions.templates[kind][0], values);
}

/** Every question about a structure that training asks with; those about two if `other` is given. */
export function templates(name, other = "", relation = "") {
  const { templates: byKind, several } = facts.questions;
  const values = { name, a: withArticle(name), many: pluralise(name) ?? name, other, relation };
  return Object.entries(byKind).flatMap(([kind, ofKind]) =>
    ofKind.filter((template) => template.includes("{") && Boolean(other) === several.includes(kind)).map((template) => filled(template, values)),
  );
}

/** What a question asks for, a bare name as it is but for "the"; null for open questions and those about several structures. */
export function subjectOf(request) {
  const text = single(request);
  const { open, naming, counting } = facts.questions;
  if (!cleanName(text) || open.some((pattern) => fullMatch(pattern, text))) return null;
  for (const pattern of naming) {
    const name = cleanName(fullMatch(pattern, text)?.[1] ?? "");
    if (name) return name;
  }
  for (const pattern of counting) {
    const name = cleanName(fullMatch(pattern, text)?.[1] ?? "");
    if (name) return isUpper(name) ? singular(name.toLowerCase()).toUpperCase() : singular(name);
  }
  return cleanName(text).replace(/^the (?=[^\n])/i, "");
}

/** What a question of a template names, without an article; null where it names nothing. */
export function targetOf(text) {
  return subjectOf(text)?.replace(/^(?:the|an?) +/i, "") ?? null;
}

const isUpper = (text) => /\p{Uppercase}/u.test(text) && !/\p{Lowercase}|\p{Lt}/u.test(text);
