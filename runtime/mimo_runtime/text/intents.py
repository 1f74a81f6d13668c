"""What a request asks for: its kind, and the structures that it names, among those of a model."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from . import frames
from .languages import foreign_frame
from .names import fold, is_one_edit, words_of
from .vocabulary import Vocabulary

#: "describe" is about the region that a reference points at, "open" about the whole image.
KINDS = ("name", "where", "how_many", "how_large", "relation", "neighbours", "describe", "open", "unsupported")
#: Words for what a reference points at.
POINTED_AT = re.compile(
    r"(?:(?:this|that|it|these|those|them|they|here|there)(?: one)?"
    r"|(?:the |this |that )?(?:marked |referred |given |indicated |selected )?"
    r"(?:region|area|box|structure|object|target|selection|roi|thing|spot|mask)(?: here)?"
    r"(?: (?:in|inside|within|at|under) (?:the|this|that|my) (?:marked |given |indicated |selected )?"
    r"(?:box|rectangle|region|area|point|mask|marker|selection|roi|circle))?)",
    re.IGNORECASE,
)
#: Words for another structure than the one before: a request does not know what was asked before it.
ANOTHER = re.compile(
    r"(?:the |that )?(?:left|right|upper|lower|middle|other|same|next|last|first|second|third|big|bigger|biggest"
    r"|larger?|largest|small|smaller|smallest) ones?",
    re.IGNORECASE,
)
#: The two subjects of a relation, each to the other one.
EACH_OTHER = re.compile(r"(?:each|one) (?:an)?other", re.IGNORECASE)
ITSELF = re.compile(r"(?:it|them)sel(?:f|ves)", re.IGNORECASE)
#: Kinds of joined clauses, the first that occurs counts; and kinds by the frame of a clause about "it".
JOINED_KINDS = ("how_large", "how_many", "where", "name", "describe")
KIND_OF_FRAME = {"size": "how_large", "count": "how_many", "where": "where"}
#: Frames that need a name or a reference: "Where is it?"
FRAMES_OF_ONE = ("where", "count", "presence", "show", "segment")
DETERMINER = re.compile(
    r"^(?:only|just|either|the|an?|any|some|all|every|each|this|that|these|those|my|his|her|both|of|possible|visible|patient's)\s+(?=\S)",
    re.IGNORECASE,
)
NO_NAME = ("the", "a", "an", "any", "all", "are", "is", "of", "there", "are there")
AT_THE_END = re.compile(r"(?:\s+(?:shown|seen|visible|present|here|there|located)|'s)$", re.IGNORECASE)
#: More words are a text, no name.
MOST_WORDS = 6
FRAME_WORDS = words_of(
    "where locate find segment outline mark show highlight count many which what describe visible relative there structures"
    " below above left right does have large size area diameter image"
)
#: Words of everyday language that are no typing error of :data:`FRAME_WORDS`.
EVERYDAY = words_of(
    "how here these those that than dark side sides site sites kind fine mind find fund light night sight might tight lift mask"
    " masks gave save wave some done dose mount court park bark hat shot slow snow grow blow lest lobe hive area areas above"
)
#: Words of requests that name nothing when they stand by themselves.
NAMELESS = words_of(
    "segment segmentation outline contour count size sizes measure measurement measurements locate find mark show highlight"
    " area diameter label draw where how which location position number"
) | {"how many", "how large", "how big", "how much"}


@dataclass(frozen=True)
class Subject:
    """A structure that a request names: its words there, and the model's entity, None for an unknown name."""

    text: str
    entity: str | None = None


@dataclass(frozen=True)
class Intent:
    """What a request asks.

    Args:
        kind: one of :data:`KINDS`.
        subjects: what it asks about, in its order; empty for what a reference points at, and for open questions. A name of
            several structures ("lungs") gives one subject for each.
        relation: of kind "neighbours", one of ``grammar.RELATIONS`` or ``frames.NEXT_TO``.
        others: the structures that the subjects, or the neighbours, lie relative to: several where a name means several. Empty
            for what a reference points at.
        frame: how it is phrased: a kind of ``questions.QUESTIONS``, or "size"; "" for a bare name.
        reason: why kind "unsupported" has no answer: a reason of ``results.answer.REFUSAL_REASONS``.
    """

    kind: str
    subjects: tuple[Subject, ...] = ()
    relation: str = ""
    others: tuple[Subject, ...] = ()
    frame: str = ""
    reason: str = ""

    @property
    def named(self) -> tuple[Subject, ...]:
        """The subjects and the other structures."""
        return (*self.subjects, *self.others)

    @property
    def is_relative(self) -> bool:
        """Whether it asks how structures lie relative to others."""
        return self.kind in ("relation", "neighbours")

    @property
    def needs_reference(self) -> bool:
        """Whether it asks about what a box, a point or a mask points at, and has no answer without one."""
        if self.is_relative:
            return not self.others or (self.kind == "relation" and not self.subjects)
        if self.kind in ("describe", "open"):
            return self.frame in FRAMES_OF_ONE
        return self.kind == "how_large" and not self.named

    @property
    def entities(self) -> tuple[str, ...]:
        """The entities of the subjects, each once."""
        return tuple(dict.fromkeys(s.entity for s in self.subjects if s.entity is not None))

    @property
    def unknown(self) -> tuple[Subject, ...]:
        """What the model does not know."""
        return tuple(subject for subject in self.named if subject.entity is None)


#: Characters of a text whose intent is kept.
_LONGEST_KEPT = 200


def parse_request(text: str, vocabulary: Vocabulary) -> Intent:
    """Read a request. Never raises: what is not understood is of kind "unsupported". The last short ones are kept.

    Args:
        text: a name ("polyp"), several ("heart and lungs"), or a question of English.
        vocabulary: of the model.
    """
    return _parse_cached(text, vocabulary) if len(text) <= _LONGEST_KEPT else _parse_text(text, vocabulary)


@lru_cache(maxsize=64)
def _parse_cached(text: str, vocabulary: Vocabulary) -> Intent:
    return _parse_text(text, vocabulary)


def _parse_text(text: str, vocabulary: Vocabulary) -> Intent:
    sentence = frames.plain(text)
    if not text.strip():
        return Intent("describe")
    if not any(c.isalpha() for c in sentence):
        return Intent("unsupported", reason="not understood")
    clauses = frames.clauses(text)
    if joined := _joined(clauses, vocabulary):
        return joined
    intent = _parse(sentence, vocabulary)
    if _is_answerable(intent):
        return intent
    if remarked := _with_remarks(clauses, vocabulary):
        return remarked
    if any(frames.CLAUSE_END.search(subject.text) for subject in intent.unknown):
        intent = Intent("unsupported", _mentioned(sentence, vocabulary), reason="unsupported question")
    # "was" and "image" are words of several languages.
    foreign = foreign_frame(sentence, 2 if frames.is_question(sentence) else 1)
    corrected = _parse(_with_frame_words(sentence, vocabulary), vocabulary)
    if _is_answerable(corrected):
        return corrected
    if foreign is not None and (intent.kind == "unsupported" or not intent.frame):
        subjects = _mentioned(sentence, vocabulary)
        return Intent("unsupported", subjects, frame=foreign, reason="other language")
    return intent


def _is_answerable(intent: Intent) -> bool:
    return intent.kind != "unsupported" and not intent.unknown


def _joined(clauses: list[str], vocabulary: Vocabulary) -> Intent | None:
    """One intent for several clauses about structures; None where one of them has no answer."""
    if not clauses:
        return None
    intents: list[Intent] = []
    for clause in clauses:
        intent = _parse(clause, vocabulary)
        if intents and intents[0].subjects and not intent.named and _is_answerable(intent) and not intent.is_relative:
            if intent.kind == "open":
                return None
            intent = Intent(KIND_OF_FRAME.get(intent.frame, "name"), intents[-1].subjects, frame=intent.frame)
        intents.append(intent)
    answerable = [of for of in intents if _is_answerable(of)]
    if len(intents) == 1:
        return answerable[0] if answerable else None
    if not answerable or not all(of.kind in JOINED_KINDS and (of.frame or of in answerable) for of in intents):
        return None
    named = [subject for of in intents for subject in of.subjects]
    subjects = {(subject.entity, "" if subject.entity else subject.text): subject for subject in reversed(named)}
    if subjects and any(not of.subjects for of in intents):
        return None
    first = min(answerable, key=lambda of: JOINED_KINDS.index(of.kind))
    return Intent(first.kind, tuple(reversed(subjects.values())), frame=first.frame)


def _with_remarks(clauses: list[str], vocabulary: Vocabulary) -> Intent | None:
    """The intent of the clauses with an answer; remarks beside them are unknown subjects. None where another clause asks."""
    intents = [(clause, _parse(clause, vocabulary)) for clause in clauses]
    asked = [clause for clause, intent in intents if _is_answerable(intent) and intent.subjects]
    remarks = [clause for clause, _ in intents if clause not in asked]
    if any(frames.is_question(remark) or vocabulary.find(remark) for remark in remarks):
        return None
    joined = _joined(asked, vocabulary)
    return joined and replace(joined, subjects=(*joined.subjects, *map(Subject, remarks)))


def _parse(sentence: str, vocabulary: Vocabulary) -> Intent:
    for bare in dict.fromkeys((sentence, frames.without_filler(sentence))):
        named = Intent("name", _subjects(bare, vocabulary), frame="")
        if named.subjects and not named.unknown:
            return named
    best: Intent | None = None
    for match in frames.matches(sentence):
        intent = _intent_of(match, vocabulary)
        if _is_answerable(intent):
            return intent
        # Of several ways to read a sentence, one that knows a structure.
        if best is None or (intent.entities and not best.entities):
            best = intent
    if best is not None and (best.kind != "unsupported" or best.reason == "empty subject"):
        return _judged(best, sentence, vocabulary)
    return _without_frame(sentence, vocabulary)


def _intent_of(match: frames.Match, vocabulary: Vocabulary) -> Intent:
    kind, frame = match.kind, match.frame
    if kind in ("describe", "open"):
        return Intent(kind, frame=frame)
    if match.subject is None:  # neighbours
        others = _others(match.other or "", vocabulary)
        if others is None or not match.relation:
            return Intent("unsupported", frame=frame, reason="empty subject")
        return Intent(kind, (), match.relation, others, frame)
    points = POINTED_AT.fullmatch(match.subject)
    if points and kind != "relation":
        return Intent(kind if kind == "how_large" else "describe", frame=frame)
    if frames.ALL.fullmatch(match.subject) and kind != "relation":
        many = Intent("unsupported", frame=frame, reason="empty subject")
        return many if kind == "how_large" else Intent("open", frame="describe")
    subjects = () if points else _subjects(match.subject, vocabulary)
    if not subjects and not points:
        return Intent("unsupported", frame=frame, reason="empty subject")
    if kind != "relation":
        return Intent(kind, subjects, frame=frame)
    if len(subjects) == 2 and EACH_OTHER.fullmatch(match.other or ""):
        return Intent(kind, subjects[:1], "", subjects[1:], frame)
    others = _others(match.other or "", vocabulary)
    known = {other.entity for other in others or () if other.entity is not None}
    is_same = ITSELF.fullmatch(match.other or "") or any(subject.entity in known for subject in subjects)
    if others is None or not (subjects or others) or is_same:
        return _no_relation(frame)
    return Intent(kind, subjects, "", others, frame)


def _no_relation(frame: str) -> Intent:
    return Intent("unsupported", frame=frame, reason="unsupported question")


def _judged(intent: Intent, sentence: str, vocabulary: Vocabulary) -> Intent:
    """An intent with an unknown name, which may be no name at all."""
    if any(frames.is_question(subject.text) for subject in intent.unknown):
        return _without_frame(sentence, vocabulary)
    if intent.unknown and frames.PREDICATE.search(sentence):
        return Intent("unsupported", _mentioned(sentence, vocabulary), reason="unsupported question")
    if any(len(subject.text.split()) > MOST_WORDS for subject in intent.unknown):
        reason = "unsupported question" if frames.is_question(sentence) else "not understood"
        return Intent("unsupported", _mentioned(sentence, vocabulary), reason=reason)
    return intent


def _without_frame(sentence: str, vocabulary: Vocabulary) -> Intent:
    """A bare name that the model does not know, or a sentence that no pattern matches."""
    if POINTED_AT.fullmatch(sentence):
        return Intent("describe", frame="show")
    if ANOTHER.fullmatch(sentence) or fold(sentence) in NAMELESS:
        return Intent("unsupported", reason="empty subject")
    if frames.is_question(sentence):
        subjects = _mentioned(sentence, vocabulary)
        return Intent("unsupported", subjects, reason="unsupported question")
    if len(sentence.split()) > MOST_WORDS:
        return Intent("unsupported", _mentioned(sentence, vocabulary), reason="not understood")
    subjects = _subjects(sentence, vocabulary)
    return Intent("name", subjects) if subjects else Intent("unsupported", reason="not understood")


def _subjects(names: str, vocabulary: Vocabulary) -> tuple[Subject, ...]:
    """The structures of a list of names, each entity once; () for a list without a name."""
    if ANOTHER.fullmatch(frames.plain(names)):
        return ()
    subjects: dict[tuple[str | None, str], Subject] = {}
    for name, entities in vocabulary.split(_bare(names)):
        text = _bare(name)
        if not any(c.isalnum() for c in text):
            continue
        for entity in entities or (None,):
            subjects.setdefault((entity, "" if entity else fold(text)), Subject(text, entity))
    return tuple(subjects.values())


def _mentioned(sentence: str, vocabulary: Vocabulary) -> tuple[Subject, ...]:
    """The longest known name within a sentence, as a subject for each of its entities."""
    match = vocabulary.find(sentence)
    return () if match is None else tuple(Subject(match[0], entity) for entity in match[1])


def _others(names: str, vocabulary: Vocabulary) -> tuple[Subject, ...] | None:
    """The structures of a list of names; () for what a reference points at, None without a name."""
    return () if POINTED_AT.fullmatch(frames.plain(names)) else _subjects(names, vocabulary) or None


def _bare(name: str) -> str:
    """A name without an article and quotes; "" if nothing is left."""
    name = frames.plain(name).strip("\"'")
    while (shorter := DETERMINER.sub("", name)) != name:
        name = shorter
    name = AT_THE_END.sub("", name)
    return "" if DETERMINER.fullmatch(name + " x") or fold(name) in NO_NAME else name


def _with_frame_words(sentence: str, vocabulary: Vocabulary) -> str:
    """A sentence with typing errors of its frame corrected: "Wher is the liver"."""
    words = sentence.split()
    for i, word in enumerate(words):
        key = fold(word)
        if len(key) >= 3 and key not in FRAME_WORDS and key not in EVERYDAY and not vocabulary.has_word(word):
            near = [right for right in FRAME_WORDS if is_one_edit(key, right)]
            words[i] = near[0] if len(near) == 1 else word
    return " ".join(words)


def without_unknown(intent: Intent) -> Intent:
    """An intent about the structures that the model knows."""
    return replace(intent, subjects=tuple(s for s in intent.subjects if s.entity is not None))
