// Questions as token ids: encode_query of mimo_runtime/model/tokenizer.py, byte-level BPE or WordPiece.
import { letters, single } from "./strings.js";
import { facts } from "./tables.js";

/** As the pre-tokenizer ByteLevel splits; a clean text has no other white space than single spaces. */
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^ \p{L}\p{N}]+| +(?! )| +/gu;
const CHINESE = [[0x4e00, 0x9fff], [0x3400, 0x4dbf], [0x20000, 0x2a6df], [0x2a700, 0x2b73f], [0x2b740, 0x2b81f], [0x2b920, 0x2ceaf], [0xf900, 0xfaff], [0x2f800, 0x2fa1f]];
const PUNCTUATION = /[!-/:-@[-`{-~\p{P}]/u;

let tables = null;

/** The ids of tokens and the ranks of merges, read once. */
function ready() {
  const { tokens, merges } = facts.tokenizer;
  if (tables?.of !== tokens) {
    const bytes = [];
    let next = 256;
    for (let byte = 0; byte < 256; byte += 1) {
      const shows = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      bytes.push(String.fromCodePoint(shows ? byte : next));
      if (!shows) next += 1;
    }
    tables = {
      of: tokens, ids: new Map(tokens.map((token, id) => [token, id])), bytes,
      ranks: new Map((merges ?? []).map(([left, right], rank) => [`${left} ${right}`, rank])),
    };
  }
  return tables;
}

/** The padded token ids of a question; null for a text that is too long for the model. */
export function encodeQuery(question) {
  const { begin, end, padding, max_length: length, longest_token: longest, merges } = facts.tokenizer;
  const text = single(question.normalize("NFC").toLowerCase());
  const limit = length - 2;
  if (letters(text).length > limit * longest || /\p{Cs}/u.test(text)) return null;
  const ids = text ? (merges ? bytePairs(` ${text}`) : wordPieces(` ${text}`)) : [];
  if (ids.length > limit) return null;
  return [begin, ...ids, end, ...new Array(limit - ids.length).fill(padding)];
}

/** Whether a text is short enough for the model. */
export const textFits = (text) => encodeQuery(text) !== null;

function bytePairs(text) {
  const { ids, bytes, ranks } = ready();
  return (text.match(PIECES) ?? []).flatMap((piece) => {
    const parts = Array.from(new TextEncoder().encode(piece), (byte) => bytes[byte]);
    for (;;) {
      let [best, place] = [Infinity, -1];
      for (let i = 0; i + 1 < parts.length; i += 1) {
        const rank = ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, place] = [rank, i];
      }
      if (place < 0) return parts.map((part) => ids.get(part));
      parts.splice(place, 2, parts[place] + parts[place + 1]);
    }
  });
}

function wordPieces(text) {
  return bertWords(text).flatMap((word) => piecesOf(letters(word)));
}

/** Words as BertNormalizer and BertPreTokenizer give them. */
function bertWords(question) {
  const { clean, chinese, strip_accents: bare, lowercase } = facts.tokenizer;
  let text = letters(question);
  if (clean) text = text.filter((c) => c !== "\ufffd" && !/\p{C}/u.test(c));
  if (chinese) text = text.map((c) => (CHINESE.some(([a, b]) => a <= c.codePointAt(0) && c.codePointAt(0) <= b) ? ` ${c} ` : c));
  let joined = text.join("");
  if (bare) joined = joined.normalize("NFD").replace(/\p{Mn}/gu, "");
  if (lowercase) joined = joined.toLowerCase();
  return letters(joined).map((c) => (PUNCTUATION.test(c) ? ` ${c} ` : c)).join("").split(/\p{White_Space}+/u).filter(Boolean);
}

/** The longest tokens of a word from its start on; the unknown token where there are none. */
function piecesOf(word) {
  const { ids } = ready();
  const { unknown, longest_word: longest } = facts.tokenizer;
  const pieces = [];
  if (word.length > longest) return [unknown];
  for (let start = 0; start < word.length; ) {
    let end = word.length;
    let id;
    for (; end > start; end -= 1) {
      id = ids.get((start ? "##" : "") + word.slice(start, end).join(""));
      if (id !== undefined) break;
    }
    if (id === undefined) return [unknown];
    pieces.push(id);
    start = end;
  }
  return pieces;
}
