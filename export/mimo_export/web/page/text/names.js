// How names are compared: mimo_runtime/text/names.py.
import { isPlural, singular } from "./grammar.js";
import { byCodePoint, casefold, isCombining, letters, split, translate } from "./strings.js";
import { facts, keyText } from "./tables.js";

const NO_WORD = /[^\p{L}\p{N}]/gu;

/** Texts whose comparison form is kept: the names in a request are compared many times. */
const MOST_KEPT = 1024;

/** A function of a text that keeps its last results. */
function kept(make) {
  const values = new Map();
  return (text) => {
    if (!values.has(text)) {
      if (values.size >= MOST_KEPT) values.delete(values.keys().next().value);
      values.set(text, make(text));
    }
    return values.get(text);
  };
}

/** Lower case without accents and punctuation, words separated by one space. */
export const fold = kept((text) => {
  const { ligatures } = facts.names;
  const lower = translate(casefold(text.normalize("NFKC")), ligatures);
  const bare = letters(lower.normalize("NFKD")).filter((c) => !isCombining(c)).join("");
  return split(translate(bare, ligatures).replace(NO_WORD, " ")).join(" ");
});

/** Whether a name takes "are": "ventricles", not "pancreas". */
export const takesAre = (name) => isPlural(name) && !facts.names.noPlural.some.test(name);

/** The words of a name that make it another one, sorted, each in the singular. */
export const wordsOfKey = kept((name) => split(fold(name)).filter((word) => !facts.names.smallWords.has(word)).map(wordKey).sort(byCodePoint));

/** As `wordsOfKey`, as one text; "" for a name without any. */
export const keyOf = (name) => keyText(wordsOfKey(name));

function wordKey(text) {
  const { spellings, irregularPlural, noPlural } = facts.names;
  let word = text;
  for (const [british, american] of spellings) {
    if (word.startsWith(british)) word = american + word.slice(british.length);
  }
  if (irregularPlural.some.test(word)) return singular(word);
  return letters(word).length < 4 || noPlural.some.test(word) ? word : singular(word);
}

/** Whether a letter added, dropped or replaced, or two neighbours swapped, makes one of the other; equal words are not. */
export function isOneEdit(one, other) {
  let [a, b] = [letters(one), letters(other)];
  if (one === other || Math.abs(a.length - b.length) > 1) return false;
  if (a.length > b.length) [a, b] = [b, a];
  let start = a.findIndex((c, i) => c !== b[i]);
  if (start < 0) start = a.length;
  const isSame = (x, y) => x.join("") === y.join("");
  if (a.length < b.length) return isSame(a.slice(start), b.slice(start + 1));
  const swapped = [...a.slice(start + 1, start + 2), ...a.slice(start, start + 1), ...a.slice(start + 2)];
  return isSame(a.slice(start + 1), b.slice(start + 1)) || isSame(swapped, b.slice(start));
}
