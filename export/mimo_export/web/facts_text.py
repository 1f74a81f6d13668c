"""What the page in the browser needs to read questions and to write sentences: tables, patterns and names of a model.

``page/text`` computes with them what ``mimo_runtime.text`` and ``mimo_runtime.results`` compute.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TypedDict

from mimo_runtime.modalities import KNOWN, canonical
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import BOS, EOS, PAD, Tokenizer
from mimo_runtime.postprocessing import connected_components, instances, measure
from mimo_runtime.preprocessing.prompts import MAX_CHARACTERS
from mimo_runtime.results import findings, plan, refusals
from mimo_runtime.results.domain_rules import excluded_entities
from mimo_runtime.text import compose, frames, grammar, intents, languages, names, observe, questions, vocabulary
from mimo_runtime.text.synonyms import NOT_THE_SAME, synonyms
from mimo_runtime.text.vocabulary import Vocabulary

from .patterns import CharacterFacts, character_facts, js_pattern

#: A name, and the entities that it means.
Meaning = tuple[list[str], list[str]]


class NamesFacts(TypedDict):
    """Tables of ``text/names.py``."""

    small_words: list[str]
    ligatures: dict[str, str]
    spellings: tuple[tuple[str, str], ...]
    no_plural: str
    irregular_plural: str


class GrammarFacts(TypedDict):
    """Words of ``text/grammar.py``."""

    counts: tuple[str, ...]
    sizes: tuple[str, ...]
    shapes: tuple[str, ...]
    locations: tuple[str, ...]
    relations: tuple[str, ...]
    irregular: tuple[tuple[str, str], ...]
    single: list[str]


class VocabularyFacts(TypedDict):
    """The vocabulary of the model (``text/vocabulary.py``)."""

    entities: tuple[str, ...]
    names: list[Meaning]
    ambiguous: list[Meaning]
    words: list[str]
    plurals: list[tuple[list[str], str]]
    not_the_same: dict[str, list[str]]
    part_words: list[str]
    foreign_part_words: list[str]
    one: str
    other_words: list[str]
    separator: str
    place: str
    sides: dict[str, str]
    side_before: str
    side_behind: str
    most_parts: int
    chinese_above: int
    most_words: int


class FramesFacts(TypedDict):
    """Patterns of ``text/frames.py``."""

    patterns: list[tuple[str, str, str]]
    relations: list[tuple[str, str]]
    next_to: str
    filler: str
    in_the_image: str
    no_question: str
    contraction: str
    negative: str
    markup: str
    hidden: dict[str, str]
    clause_end: str
    predicate: str
    all: str
    around: str
    asking: list[str]
    quotes: dict[str, str]


class LanguagesFacts(TypedDict):
    """Words of ``text/languages.py`` by language and frame; patterns of Chinese by frame."""

    words: dict[str, dict[str, list[str]]]
    english_too: list[str]
    chinese: list[tuple[str, str]]
    latin_end: int


class IntentsFacts(TypedDict):
    """Tables of ``text/intents.py``."""

    pointed_at: str
    another: str
    each_other: str
    itself: str
    joined_kinds: tuple[str, ...]
    kind_of_frame: dict[str, str]
    frames_of_one: tuple[str, ...]
    everyday: list[str]
    nameless: list[str]
    determiner: str
    no_name: tuple[str, ...]
    at_the_end: str
    most_words: int
    frame_words: list[str]


class QuestionsFacts(TypedDict):
    """Templates of ``text/questions.py``, and the patterns that read them."""

    templates: dict[str, tuple[str, ...]]
    several: tuple[str, ...]
    everything: str
    counting: list[str]
    naming: list[str]
    open: list[str]


class LimitsFacts(TypedDict):
    """Numbers of ``text/observe.py`` and of what it uses."""

    size_limits: tuple[float, ...]
    solidity: float
    round: float
    oval: float
    outline_pixels: int
    near: float
    many: int
    instance_min_pixels: int
    instance_min_share: float
    many_components: int
    comparable_share: float
    neck_share: float
    grid: int
    max_distance: int
    largest_distance: int
    max_maxima: int
    line_points: int
    centre_bias: float


class AnswerFacts(TypedDict):
    """Words and numbers of ``results/plan.py``, ``findings.py`` and ``refusals.py``."""

    referred: str
    yes_or_no: tuple[str, ...]
    unnamed: tuple[str, ...]
    relation_presence: float
    nothing_known: str
    no_neighbour: str
    most_names: int
    most_letters: int
    longest_text: int


class ModalityFacts(TypedDict):
    """What a stated modality changes: its word, the head of the sentence, the order of names, and what is absent for sure."""

    word: str
    head: str
    entities: tuple[str, ...]
    excluded: list[str]


class TokenizerFacts(TypedDict):
    """The tokenizer of the model: tokens by id; merges of byte-level BPE, or None for WordPiece."""

    tokens: list[str]
    merges: list[list[str]] | None
    strip_accents: bool
    lowercase: bool
    chinese: bool
    clean: bool
    unknown: int
    longest_word: int
    longest_token: int
    begin: int
    end: int
    padding: int
    max_length: int


class TextFacts(TypedDict):
    """All that the page needs to read a question and to answer in a sentence."""

    characters: CharacterFacts
    names: NamesFacts
    grammar: GrammarFacts
    vocabulary: VocabularyFacts
    frames: FramesFacts
    languages: LanguagesFacts
    intents: IntentsFacts
    questions: QuestionsFacts
    limits: LimitsFacts
    answers: AnswerFacts
    modalities: dict[str, ModalityFacts]
    tokenizer: TokenizerFacts


def text_facts(config: MimoConfig, model_vocabulary: Vocabulary, tokenizer: Tokenizer) -> TextFacts:
    """The facts of a model; modalities under their names, and under "" what holds where none is stated."""
    return {
        "characters": character_facts(),
        "names": _names(),
        "grammar": {
            "counts": grammar.COUNTS, "sizes": grammar.SIZES, "shapes": grammar.SHAPES, "locations": grammar.LOCATIONS,
            "relations": grammar.RELATIONS, "irregular": grammar.IRREGULAR,
            "single": sorted(compose.SINGLE),
        },
        "vocabulary": _vocabulary(model_vocabulary),
        "frames": _frames(),
        "languages": {
            "words": {
                language: {frame: words.split() for frame, words in of.items()} for language, of in languages.WORDS.items()
            },
            "english_too": sorted(languages.ENGLISH_TOO),
            "chinese": [(frame, js_pattern(re.compile(pattern))) for frame, pattern in languages.CHINESE],
            "latin_end": languages.LATIN_END,
        },
        "intents": {
            "pointed_at": js_pattern(intents.POINTED_AT), "another": js_pattern(intents.ANOTHER),
            "each_other": js_pattern(intents.EACH_OTHER), "itself": js_pattern(intents.ITSELF),
            "joined_kinds": intents.JOINED_KINDS, "kind_of_frame": intents.KIND_OF_FRAME,
            "frames_of_one": intents.FRAMES_OF_ONE, "everyday": sorted(intents.EVERYDAY),
            "nameless": sorted(intents.NAMELESS),
            "determiner": js_pattern(intents.DETERMINER),
            "no_name": intents.NO_NAME, "at_the_end": js_pattern(intents.AT_THE_END), "most_words": intents.MOST_WORDS,
            "frame_words": sorted(intents.FRAME_WORDS),
        },
        "questions": {
            "templates": questions.QUESTIONS, "several": questions.SEVERAL, "everything": questions.EVERYTHING,
            "counting": [js_pattern(pattern) for pattern in questions.COUNTING],
            "naming": [js_pattern(pattern) for pattern in questions.NAMING],
            "open": [js_pattern(pattern) for pattern in questions.OPEN],
        },
        "limits": _limits(),
        "answers": {
            "referred": plan.REFERRED, "yes_or_no": plan.YES_OR_NO,
            "unnamed": plan.UNNAMED, "relation_presence": findings.RELATION_PRESENCE,
            "nothing_known": compose.NOTHING_KNOWN, "no_neighbour": compose.NO_NEIGHBOUR,
            "most_names": refusals.MOST_NAMES, "most_letters": refusals.MOST_LETTERS,
            "longest_text": MAX_CHARACTERS,
        },
        "modalities": {modality: _modality(config, modality) for modality in dict.fromkeys(("", *config.modalities, *KNOWN))},
        "tokenizer": _tokenizer(tokenizer, config.text.max_length),
    }  # fmt: skip


def _letters(table: Mapping[int, int] | Mapping[int, str] | Mapping[int, int | str]) -> dict[str, str]:
    """A table of ``str.maketrans``, by letter."""
    return {chr(code): replaced if isinstance(replaced, str) else chr(replaced) for code, replaced in table.items()}


def _names() -> NamesFacts:
    return {
        "small_words": sorted(names.SMALL_WORDS),
        "ligatures": _letters(names.LIGATURES),
        "spellings": names.SPELLINGS,
        "no_plural": js_pattern(names.NO_PLURAL),
        "irregular_plural": js_pattern(names.IRREGULAR_PLURAL),
    }


def _vocabulary(of: Vocabulary) -> VocabularyFacts:
    return {
        "entities": of.entities,
        "names": [(list(key), list(entities)) for key, entities in of.names.items()],
        "ambiguous": [(list(key), list(entities)) for key, entities in of.ambiguous.items()],
        "words": sorted(of.words),
        "plurals": [(list(key), entity) for key, entity in of.plurals.items()],
        "not_the_same": {
            name: entities for name in sorted(NOT_THE_SAME) if (entities := [e for e in of.entities if name in synonyms(e)])
        },
        "part_words": sorted(vocabulary.PART_WORDS),
        "foreign_part_words": sorted(vocabulary.FOREIGN_PART_WORDS),
        "one": js_pattern(vocabulary.ONE),
        "other_words": sorted(vocabulary.OTHER_WORDS),
        "separator": js_pattern(vocabulary.SEPARATOR),
        "place": js_pattern(vocabulary.PLACE),
        "sides": vocabulary.SIDES,
        "side_before": js_pattern(vocabulary.SIDE_BEFORE),
        "side_behind": js_pattern(vocabulary.SIDE_BEHIND),
        "most_parts": vocabulary.MOST_PARTS,
        "chinese_above": vocabulary.CHINESE_ABOVE,
        "most_words": vocabulary.MOST_WORDS,
    }


def _frames() -> FramesFacts:
    return {
        "patterns": [(kind, frame, js_pattern(frames.compiled(words))) for kind, frame, words in frames.PATTERNS],
        "relations": [(js_pattern(pattern), relation) for pattern, relation in frames.RELATION_PATTERNS],
        "next_to": frames.NEXT_TO,
        "filler": js_pattern(frames.FILLER),
        "in_the_image": js_pattern(frames.IN_THE_IMAGE),
        "no_question": js_pattern(frames.NO_QUESTION),
        "contraction": js_pattern(frames.CONTRACTION),
        "negative": js_pattern(frames.NEGATIVE),
        "markup": js_pattern(frames.MARKUP),
        "hidden": _letters(frames.HIDDEN),
        "clause_end": js_pattern(frames.CLAUSE_END),
        "predicate": js_pattern(frames.PREDICATE),
        "all": js_pattern(frames.ALL),
        "around": js_pattern(frames.AROUND),
        "asking": sorted(frames.ASKING),
        "quotes": _letters(frames.QUOTES),
    }


def _limits() -> LimitsFacts:
    return {
        "size_limits": observe.SIZE_LIMITS,
        "solidity": observe.SOLIDITY_LIMIT,
        "round": observe.ROUND_LIMIT,
        "oval": observe.OVAL_LIMIT,
        "outline_pixels": observe.OUTLINE_PIXELS,
        "near": observe.NEAR,
        "many": observe.MANY,
        "instance_min_pixels": connected_components.INSTANCE_MIN_PIXELS,
        "instance_min_share": connected_components.INSTANCE_MIN_SHARE,
        "many_components": instances.MANY_COMPONENTS,
        "comparable_share": instances.COMPARABLE_SHARE,
        "neck_share": instances.NECK_SHARE,
        "grid": instances.GRID,
        "max_distance": instances.MAX_DISTANCE,
        "largest_distance": instances.LARGEST,
        "max_maxima": instances.MAX_MAXIMA,
        "line_points": instances.LINE_POINTS,
        "centre_bias": measure.CENTRE_BIAS,
    }


def _modality(config: MimoConfig, modality: str) -> ModalityFacts:
    stated = modality or None
    return {
        "word": canonical(stated) or "",
        "head": grammar.describe_head(grammar.Description(modality)),
        "entities": refusals.entities_in_order(config, stated),
        "excluded": sorted(excluded_entities(config, stated)),
    }


def _tokenizer(tokenizer: Tokenizer, max_length: int) -> TokenizerFacts:
    data = json.loads(tokenizer.to_json())
    model, normalizer = data["model"], data["normalizer"] or {}
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = model.get("merges")
    accents = normalizer.get("strip_accents")
    return {
        "tokens": tokens,
        "merges": None if merges is None else [m.split(" ") if isinstance(m, str) else m for m in merges],
        "strip_accents": bool(normalizer.get("lowercase") if accents is None else accents),
        "lowercase": bool(normalizer.get("lowercase")),
        "chinese": bool(normalizer.get("handle_chinese_chars")),
        "clean": bool(normalizer.get("clean_text")),
        "unknown": model["vocab"][model["unk_token"]],
        "longest_word": model.get("max_input_chars_per_word", 0),
        "longest_token": max(map(len, tokens)),
        "begin": BOS, "end": EOS, "padding": PAD, "max_length": max_length,
    }  # fmt: skip
