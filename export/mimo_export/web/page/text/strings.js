// What Python's str, re and unicodedata do otherwise than JavaScript; lengths and places are those of code points.
import { facts } from "./tables.js";

/** The code points of a text. */
export const letters = (text) => Array.from(text);

/** The words between white space. */
export const split = (text) => text.split(facts.spaces).filter(Boolean);

/** str.strip() of white space. */
export const strip = (text) => text.replace(facts.spacesAround, "");

/** Words with single spaces. */
export const single = (text) => split(text).join(" ");

/** str.rstrip() of some letters. */
export function stripEnd(text, some) {
  let end = text.length;
  while (end && some.includes(text[end - 1])) end -= 1;
  return text.slice(0, end);
}

/** Full case folding. */
export const casefold = (text) => letters(text).map((c) => facts.characters.casefold[c] ?? c.toLowerCase()).join("");

/** Whether a letter combines with the one before it. */
export function isCombining(c) {
  const code = c.codePointAt(0);
  return code >= 0x300 && facts.characters.combining.some(([first, last]) => first <= code && code <= last);
}

/** Replace letters by a table. */
export const translate = (text, table) => letters(text).map((c) => (Object.hasOwn(table, c) ? table[c] : c)).join("");

/** Strings in the order of their code points. */
export function byCodePoint(a, b) {
  const [one, other] = [letters(a), letters(b)];
  for (let i = 0; i < Math.min(one.length, other.length); i += 1) {
    if (one[i] !== other[i]) return one[i].codePointAt(0) - other[i].codePointAt(0);
  }
  return one.length - other.length;
}

/** The match of a whole text, or null. */
export function fullMatch(pattern, text) {
  return pattern.whole.exec(text);
}

/** A number with one decimal, a tie to the even digit. */
export function oneDecimal(value) {
  if (!Number.isInteger(value * 4) || Number.isInteger(value * 2)) return value.toFixed(1);
  const below = Math.floor(value * 10);
  return ((below + (below % 2)) / 10).toFixed(1);
}

/** The nearest whole number, a tie to the even one. */
export function roundEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 ? below + 1 : below;
}
