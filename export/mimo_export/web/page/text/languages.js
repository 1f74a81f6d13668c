// Questions in languages other than English: mimo_runtime/text/languages.py.
import { fold } from "./names.js";
import { letters, split } from "./strings.js";
import { facts } from "./tables.js";

/** The frame of a question in another language; null for what looks like English. */
export function foreignFrame(text, least = 1) {
  const { words: languages, chinese, latinEnd, englishToo } = facts.languages;
  const folded = fold(text);
  const own = letters(folded).filter((c) => /\p{L}/u.test(c));
  if (!own.length) return null;
  if (own.filter((c) => c.codePointAt(0) > latinEnd).length * 2 >= own.length) {
    return chinese.find(([, pattern]) => pattern.some.test(text))?.[0] ?? "where";
  }
  const words = [...new Set(split(folded))];
  let best = null;
  for (const frames of Object.values(languages)) {
    const hits = Object.entries(frames).map(([frame, listed]) => [frame, words.filter((word) => listed.has(word)).length]);
    const total = hits.reduce((sum, [, count]) => sum + count, 0);
    const isKnown = Object.values(frames).some((listed) => words.some((word) => listed.has(word) && !englishToo.has(word)));
    if (!isKnown || total < least || (best !== null && total <= best[0])) continue;
    const named = hits.filter(([frame]) => frame);
    const most = Math.max(...named.map(([, count]) => count));
    best = [total, named.find(([, count]) => count === most)?.[0] ?? "where"];
  }
  return best === null ? null : best[1];
}
