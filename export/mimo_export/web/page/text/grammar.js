// How the grammar writes: mimo_runtime/text/grammar.py.
import { single, stripEnd } from "./strings.js";
import { facts } from "./tables.js";

/** A name as the grammar prints it. */
export const cleanName = (name) => stripEnd(single(name.replaceAll("<", "(").replaceAll(">", ")")), ".?! ");

/** "A, B and C". */
export const listed = (parts, word = "and") =>
  `${parts.slice(0, -1).join(", ")}${parts.length > 1 ? ` ${word} ` : ""}${parts[parts.length - 1]}`;

/** A phrase {name, query, count, size, shape, location, uncertain} with its markup. */
export function writePhrase(phrase, ofImage = false, inAreas = false) {
  const words = [phrase.count, phrase.size, phrase.shape].filter(Boolean);
  let name = cleanName(phrase.name);
  if (phrase.count && phrase.count !== "one") {
    const plural = inAreas ? null : pluralise(name);
    if (plural === null) words.push("areas of");
    else name = plural;
  }
  const place = phrase.location ? ` in the ${phrase.location}${ofImage ? " of the image" : ""}` : "";
  return [...(phrase.uncertain ? ["possibly"] : []), ...words, `<p>${name}</p><seg${phrase.query}>${place}`].join(" ");
}

/** The plural, or null where `singular` would not lead back. */
export function pluralise(name) {
  let plural = null;
  for (const [ending, replacement] of facts.grammar.irregular) {
    if (name.endsWith(ending)) plural = name.slice(0, name.length - ending.length) + replacement;
  }
  if (plural === null) {
    const last = name.split(/[ -]/).at(-1);
    if (!/^[a-z]+$/.test(last) || isPlural(name)) return null;
    if (/[^aeiou]y$/u.test(name)) plural = `${name.slice(0, -1)}ies`;
    else plural = name + (/(?:s|x|z|ch|sh)$/.test(name) ? "es" : "s");
  }
  return singular(plural) === name ? plural : null;
}

/** The singular of a plural that `pluralise` wrote; other names come back unchanged. */
export function singular(name) {
  for (const [ending, replacement] of facts.grammar.irregular) {
    if (name.endsWith(replacement)) return name.slice(0, name.length - replacement.length) + ending;
  }
  if (/[^aeiou]ies$/u.test(name)) return `${name.slice(0, -3)}y`;
  if (/(?:s|x|z|ch|sh)es$/.test(name)) return name.slice(0, -2);
  return /[^s]s$/u.test(name) ? name.slice(0, -1) : name;
}

/** Whether a name has the ending of a plural; some singular names have it, too. */
export const isPlural = (name) => /[^siu]s$/u.test(name) || facts.grammar.irregular.some(([, plural]) => name.endsWith(plural));
