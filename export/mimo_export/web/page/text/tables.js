// The tables of mimo_runtime.text and of the model, as mimo_export/web/facts_text.py writes them, ready for use.

/** Filled by `useTables`. */
export const facts = {};

/** A pattern that searches (`some`, of the first match, and `all`) and one that takes a whole text (`whole`). */
function compiled(source, flags) {
  return { some: new RegExp(source, flags), all: new RegExp(source, `g${flags}`), whole: new RegExp(`^(?:${source})$`, flags) };
}

const plain = (source) => compiled(source, "u");
const anyCase = (source) => compiled(source, "iu");
const mapped = (object, change) => Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value)]));

/** The key of a name as one string: no word holds a space. */
export const keyText = (words) => words.join(" ");

function readVocabulary(of) {
  const byKey = (rows) => new Map(rows.map(([key, value]) => [keyText(key), value]));
  return {
    ...of, names: byKey(of.names), ambiguous: byKey(of.ambiguous), plurals: byKey(of.plurals), words: new Set(of.words),
    otherWords: new Set(of.other_words), partWords: new Set(of.part_words), separator: anyCase(of.separator), place: plain(of.place),
    sideBefore: anyCase(of.side_before), sideBehind: anyCase(of.side_behind), foreignPartWords: new Set(of.foreign_part_words), one: plain(of.one),
  };
}

function readFrames(of) {
  return {
    ...of, patterns: of.patterns.map(([kind, frame, source]) => [kind, frame, anyCase(source)]),
    relations: of.relations.map(([source, relation]) => [anyCase(source), relation]), filler: anyCase(of.filler),
    inTheImage: anyCase(of.in_the_image), noQuestion: anyCase(of.no_question), contraction: anyCase(of.contraction),
    negative: anyCase(of.negative), markup: anyCase(of.markup), clauseEnd: anyCase(of.clause_end),
    predicate: anyCase(of.predicate), all: anyCase(of.all), around: plain(of.around), asking: new Set(of.asking),
  };
}

function readQuestions(of) {
  const each = (sources) => sources.map(anyCase);
  return { ...of, counting: each(of.counting), naming: each(of.naming), open: each(of.open) };
}

/** Take the field "language" of page/site.json. */
export function useTables(language) {
  const { characters, names, intents, languages } = language;
  Object.assign(facts, language, {
    spaces: new RegExp(`[${characters.spaces}]+`, "u"),
    spacesAround: new RegExp(`^[${characters.spaces}]+|[${characters.spaces}]+$`, "gu"),
    names: {
      ...names, smallWords: new Set(names.small_words), noPlural: plain(names.no_plural), irregularPlural: plain(names.irregular_plural),
    },
    vocabulary: readVocabulary(language.vocabulary),
    frames: readFrames(language.frames),
    languages: {
      words: mapped(languages.words, (frames) => mapped(frames, (words) => new Set(words))),
      chinese: languages.chinese.map(([frame, source]) => [frame, plain(source)]), latinEnd: languages.latin_end,
      englishToo: new Set(languages.english_too),
    },
    intents: {
      ...intents, pointedAt: anyCase(intents.pointed_at), determiner: anyCase(intents.determiner), atTheEnd: anyCase(intents.at_the_end),
      frameWords: intents.frame_words, another: anyCase(intents.another), eachOther: anyCase(intents.each_other),
      itself: anyCase(intents.itself), everyday: new Set(intents.everyday), nameless: new Set(intents.nameless),
    },
    questions: readQuestions(language.questions),
  });
}
