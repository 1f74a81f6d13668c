// The names that the model understands: mimo_runtime/text/vocabulary.py. The tables come ready from Python.
import { fold, isOneEdit, keyOf, wordsOfKey } from "./names.js";
import { byCodePoint, letters, split as words, strip } from "./strings.js";
import { facts, keyText } from "./tables.js";

const WORD = /[\p{L}\p{N}]+/gu;

/** The entities that a name means: several for a name of several, none for an unknown or ambiguous one. */
export function resolve(name) {
  const sided = withSide(name);
  const entities = sided === name ? [] : resolveWhole(sided);
  return entities.length ? entities : resolveWhole(name);
}

function resolveWhole(name) {
  const { names, place } = facts.vocabulary;
  const key = keyOf(name);
  if (!key || place.some.test(fold(name)) || meanings(name).length) return [];
  if (names.has(key)) return names.get(key);
  const bracket = name.indexOf("(");
  if (bracket >= 0) {
    const entities = names.get(keyOf(name.slice(0, bracket)));
    if (String(entities) === String(names.get(keyOf(name.slice(bracket + 1))))) return entities ?? [];
  }
  return corrected(name);
}

/** The entities that an ambiguous name may mean; none for a name that is not ambiguous. */
export function meanings(name) {
  const { plurals, ambiguous } = facts.vocabulary;
  const key = keyOf(name);
  const entity = plurals.get(key);
  const last = (text) => fold(text).split(" ").at(-1);
  if (entity !== undefined && last(name) !== last(entity) && wider(name).length > 1) return wider(name);
  return ambiguous.get(key) ?? [];
}

/** The entities that an unknown name may mean. */
export function candidates(name) {
  const { entities, not_the_same: notTheSame, partWords } = facts.vocabulary;
  const ambiguous = meanings(name);
  const narrower = ambiguous.length ? ambiguous : wider(name);
  if (narrower.length) return narrower;
  const folded = fold(name);
  if (Object.hasOwn(notTheSame, folded)) return notTheSame[folded];
  const key = new Set(wordsOfKey(name));
  const inside = entities.filter((entity) => wordsOfKey(entity).every((word) => key.has(word)));
  const nouns = new Set([...key].filter((word) => !partWords.has(word)));
  return [inside, withWords(nouns), withWords(near(nouns))].find((some) => some.length) ?? [];
}

/** Entities whose names have one of some words. */
const withWords = (some) => facts.vocabulary.entities.filter((entity) => wordsOfKey(entity).some((word) => some.has(word)));

/** Known words that a typing error makes one of some words of four letters and more. */
function near(some) {
  const long = [...some].filter((word) => letters(word).length > 3);
  return new Set([...facts.vocabulary.words].filter((right) => long.some((word) => isOneEdit(word, right))));
}

/** Names in a list, as [name, entities]; unknown names have no entities. */
export function split(list) {
  const [bare, separators] = partsOf(list);
  const whole = isOneName(bare) ? resolve(list) : [];
  if (whole.length) return [[strip(list), whole]];
  const parts = withSharedNoun(bare);
  const result = [];
  let i = 0;
  while (i < parts.length) {
    let end = Math.min(parts.length, i + facts.vocabulary.most_parts);
    let [joined, entities] = ["", []];
    for (; ; end -= 1) {
      joined = parts.slice(i, end).map((part, k) => part + (i + k < end - 1 ? separators[i + k] : "")).join("");
      entities = isOneName(parts.slice(i, end)) ? resolve(joined) : [];
      if (end === i + 1 || entities.length) break;
    }
    result.push([strip(joined), entities]);
    i = end;
  }
  return result;
}

/** Whether parts of a list may be one name: "kidney, left", not "lungs, nodule", whose first part is a name. */
function isOneName(parts) {
  const others = parts.filter((part) => !resolve(part).length);
  const areParts = others.length > 0 && others.every((part) => isPart(fold(part).replace(facts.vocabulary.one.all, "")));
  return parts.length === 1 || others.length === parts.length || areParts;
}

/** The longest known name within a text, as it is written there, and its entities; null if there is none. */
export function find(text) {
  const { names, place, most_words: mostWords, chinese_above: chineseAbove } = facts.vocabulary;
  const found = [...text.matchAll(WORD)];
  for (let length = Math.min(mostWords, found.length); length > 0; length -= 1) {
    for (let first = 0; first + length <= found.length; first += 1) {
      const last = found[first + length - 1];
      const span = text.slice(found[first].index, last.index + last[0].length);
      const entities = names.get(keyOf(span));
      if (entities && !place.some.test(fold(span))) return [span, entities];
    }
  }
  const folded = fold(text);
  let longest = null;
  for (const key of names.keys()) {
    if (key.includes(" ") || !(key.codePointAt(0) > chineseAbove) || !folded.includes(key)) continue;
    if (longest === null || letters(key).length > letters(longest).length) longest = key;
  }
  return longest === null ? null : [longest, names.get(longest)];
}

/** Whether a word is part of a known English name. */
export function hasWord(word) {
  const [first] = wordsOfKey(word);
  return first !== undefined && facts.vocabulary.words.has(first);
}

/** Entities whose names have all the words of a name. */
function wider(name) {
  const key = wordsOfKey(name);
  if (!key.length) return [];
  return facts.vocabulary.entities.filter((entity) => {
    const own = wordsOfKey(entity);
    return key.every((word) => own.includes(word));
  });
}

/** The entities of a name with one typing error, if only one name is so near. */
function corrected(name) {
  const { names, words: known, otherWords } = facts.vocabulary;
  const keys = new Map(words(fold(name)).map((word) => [word, wordsOfKey(word)]));
  const wrong = [...keys].filter(([, key]) => key.length && !known.has(key[0])).map(([word]) => word);
  if (wrong.length !== 1 || otherWords.has(wrong[0]) || letters(wrong[0]).length < 4) return [];
  const rest = [...keys].filter(([word, key]) => key.length && word !== wrong[0]).map(([, key]) => key[0]);
  const spellings = [wrong[0], keys.get(wrong[0])[0]];
  const found = new Map();
  for (const right of known) {
    if (!spellings.some((spelling) => isTypo(spelling, right))) continue;
    const entities = names.get(keyText([...rest, right].sort(byCodePoint)));
    if (entities) found.set(String(entities), entities);
  }
  return found.size === 1 ? found.values().next().value : [];
}

/** "L kidney" and "kidney, L" as "left kidney"; other names as they are. */
function withSide(name) {
  const { sides, sideBefore, sideBehind } = facts.vocabulary;
  const before = name.match(sideBefore.some);
  if (before) return `${sides[before[1].toLowerCase()]} ${name.slice(before[0].length)}`;
  const behind = name.match(sideBehind.some);
  return behind ? `${sides[behind[1].toLowerCase()]} ${name.slice(0, behind.index)}` : name;
}

/** Whether a word is a typing error of `right`. A short word keeps its first and last letter and replaces none. */
function isTypo(word, right) {
  if (!isOneEdit(word, right) || facts.vocabulary.partWords.has(right)) return false;
  const [a, b] = [letters(word), letters(right)];
  if (b.length >= 6) return true;
  const sorted = (c) => [...c].sort().join("");
  return b.length === 5 && (a.length !== b.length || sorted(a) === sorted(b)) && a[0] === b[0] && a.at(-1) === b.at(-1);
}

/** The parts of a list and the separators behind each; empty parts are left out. */
function partsOf(list) {
  const [parts, separators] = [[], []];
  let start = 0;
  for (const match of [...list.matchAll(facts.vocabulary.separator.all), null]) {
    const part = strip(list.slice(start, match ? match.index : list.length));
    if (part) {
      parts.push(part);
      separators.push(match ? match[0] : "");
    } else if (separators.length && match) separators[separators.length - 1] += match[0];
    start = match ? match.index + match[0].length : list.length;
  }
  return [parts, separators];
}

/** "left and right kidney", or "left kidney and the right one", as "left kidney", "right kidney". */
function withSharedNoun(parts) {
  const { one } = facts.vocabulary;
  let before = [];
  return parts.map((part, i) => {
    const word = fold(part).replace(one.all, "");
    const shared = nouns(parts[i + 1] ?? "");
    if (isPart(word)) {
      if (shared.length) return `${part} ${shared.join(" ")}`;
      return before.length ? `${word} ${before.join(" ")}` : part;
    }
    before = nouns(part).length < words(part).length ? nouns(part) : [];
    return part;
  });
}

/** The words of a name that are none for a part. */
const nouns = (part) => words(part).filter((word) => !isPart(fold(word)) && fold(word) !== "the");

function isPart(word) {
  const { partWords, foreignPartWords, sides } = facts.vocabulary;
  return partWords.has(word) || foreignPartWords.has(word) || Object.hasOwn(sides, word);
}
