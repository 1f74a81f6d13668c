"""Words that the masks decide: whether what a question names is there at all, how many, how large, where, and how one
structure lies relative to another.

The text decoder writes the sentence before anything is drawn, so it can only guess at them, and a sentence that says "upper
left" beside a mask in the middle makes both worthless. Where a phrase names the query that draws it, these words are therefore
measured: number and size on the mask, places on its centre, which is known also where too little is sure for a mask. Where
the question names a structure, whether the sentence says that it is there follows the decision that the findings tell. All
other words, and phrases without a query, stay as they were written. Nothing is added but what a question asks for by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import NamedTuple

import numpy as np

from ..postprocessing.mask_prediction import MaskPrediction, target_of
from . import grammar, observe, questions
from .grammar import COUNTS, LOCATIONS, SHAPES, SIZES, Description, Phrase


class MaskFacts(NamedTuple):
    """What words are measured on; asked only when it is needed, and may wait for the mask decoder.

    Args:
        mask: of a query, bool ``[H, W]`` of the image; None where nothing is drawn, so that its thing is not present.
        centre: of a query's thing, ``(x, y)`` in pixels of the image; None where there is no such query.
        entities: query by name of every entity that is in the image though nobody named it, which takes more than a mask.
        known: query by name of every entity of the model.
        size: height and width of the image in pixels.
    """

    mask: Callable[[int], np.ndarray | None]
    centre: Callable[[int], tuple[float, float] | None]
    entities: Callable[[], Mapping[str, int]]
    known: Mapping[str, int]
    size: tuple[int, int]

    @staticmethod
    def of(drawn: Callable[[], MaskPrediction], entities: Sequence[str], size: tuple[int, int]) -> MaskFacts:
        """What was drawn for a request.

        Args:
            drawn: gives it; asked only when it is needed.
            entities: of the model, in query order.
        """
        return MaskFacts(
            lambda query: drawn().mask(query),
            lambda query: drawn().centre(query),
            lambda: drawn().entities(),
            {name: 1 + i for i, name in enumerate(entities)},
            size,
        )

    def phrase(self, name: str) -> Phrase | None:
        """The entity of that name, None if the model has none."""
        known = (Phrase(entity, query) for entity, query in self.known.items() if entity.casefold() == name.casefold())
        return next(known, None)


_SLOT_WORDS = (*COUNTS, *SIZES, *SHAPES)


def _prefixes(*words: str) -> str:
    """A pattern for every beginning of some words, the empty one and the whole ones included; longest first."""
    found = {word[:length] for word in words for length in range(len(word) + 1)}
    return "|".join(map(re.escape, sorted(found, key=len, reverse=True)))


#: The end of an unfinished text that may yet become a phrase, or get a location: its words must wait.
_UNFINISHED = re.compile(
    r"(?:(?:\b(?:{slots}) )|(?:\bareas of ))*"
    r"(?:\b(?:{slot_beginnings})|{tag}|<p>[^<>]*(?:{closing})|<p>[^<>]*</p>(?:<seg\d{{0,6}}|<seg\d{{1,6}}>(?:{places})))$".format(
        slots="|".join(_SLOT_WORDS),
        slot_beginnings=_prefixes(*_SLOT_WORDS, "areas of "),
        tag=_prefixes("<p>"),
        closing=_prefixes("</p>", "</p><seg"),
        places=_prefixes(*(f" in the {place}" for place in LOCATIONS)),
    )
)


#: The beginning of a sentence, "CT of the abdomen: ", and what may yet become one.
_HEAD, _HEAD_BEGUN = re.compile(r"[^:<>]*: "), re.compile(r"[^:<>]*:?")
#: A sentence that says of something that it is not there.
_DENIAL = "no "


class _Now(Enum):
    """What happens to a text that comes in."""

    HEAD = auto()  # it passes, and where its head ends is looked for
    BODY = auto()  # its first words are waited for, to hold them against what is in the image
    KEPT = auto()  # it waits for the end
    FREE = auto()  # it passes, measured


class AnswerPostEditor:
    """The text of one answer on its way to the caller: what can still change waits, the rest passes.

    An answer about how structures lie is known when it is complete, and so is one that says that something is not there.

    Args:
        question: the request's text.
        seen: what the words are measured on. It is asked as late as can be: the mask decoder has the time until then.
    """

    def __init__(self, question: str, seen: MaskFacts) -> None:
        self._seen = seen
        self._relation, self._neighbours = questions.relation_asked(question), questions.neighbours_asked(question)
        self._target = target_of(question)
        named = self._relation or self._neighbours or self._target
        self._now = _Now.HEAD if named else _Now.FREE
        self._head, self._waiting = "", ""

    def feed(self, piece: str) -> str:
        """Take a piece of markup; give the markup that is final."""
        self._waiting += piece
        ready = self._pass_head() if self._now is _Now.HEAD else ""
        if self._now is _Now.BODY and not _DENIAL.startswith(self._waiting[: len(_DENIAL)].lower()) and self._settled:
            self._now = _Now.KEPT if self._seen.mask(0) is None else _Now.FREE
        return ready + (edit_phrases(self._take(self._settled), self._seen) if self._now is _Now.FREE else "")

    def finish(self) -> str:
        """What is left when the decoder has ended."""
        if self._now in (_Now.HEAD, _Now.FREE):
            return edit_phrases(self._waiting, self._seen)
        if self._relation:
            return edit_relation(self._waiting, *self._relation, self._seen)
        if self._neighbours:
            return edit_neighbours(self._waiting, *self._neighbours, self._seen)
        return edit_target(self._waiting, self._target, self._seen)

    def _pass_head(self) -> str:
        text = self._head + self._waiting
        if head := _HEAD.match(text):
            self._now = _Now.BODY if self._target else _Now.KEPT
            ready = self._take(head.end() - len(self._head))
        elif _HEAD_BEGUN.fullmatch(text):
            ready = self._take(self._settled)
        else:
            self._now, ready = _Now.FREE, ""
        self._head += ready
        return ready

    @property
    def _settled(self) -> int:
        """How much of what waits can be measured."""
        unfinished = _UNFINISHED.search(self._waiting)
        return unfinished.start() if unfinished else len(self._waiting)

    def _take(self, end: int) -> str:
        taken, self._waiting = self._waiting[:end], self._waiting[end:]
        return taken


def edit_answer(markup: str, question: str, seen: MaskFacts) -> str:
    """A whole answer at once; arguments as for :class:`AnswerPostEditor`."""
    measured = AnswerPostEditor(question, seen)
    return measured.feed(markup) + measured.finish()


def edit_phrases(markup: str, seen: MaskFacts) -> str:
    """The same text with the count and size of every phrase that names a drawn mask measured on it, and the location of every
    phrase that names a query by its centre.

    Only words that are there are replaced. Size is the mean over the parts of the mask, as the grammar defines it. "one"
    stands: on whether there is more than one thing the decoder is right more often than the crumbs of a mask; how many there
    are is for the mask to say.
    """

    def measured(match: re.Match[str]) -> str:
        phrase = grammar.phrase_of(match)
        if phrase is None or phrase.query is None or not (phrase.count or phrase.size or phrase.location):
            return match.group()
        mask, centre = seen.mask(phrase.query), seen.centre(phrase.query)
        observed = None if mask is None else observe.observe_phrase(mask, phrase.name, phrase.query)
        wanted = () if observed is None else ("size",) if phrase.count == "one" else ("count", "size")
        slots = {slot: getattr(observed, slot) for slot in wanted if getattr(phrase, slot)}
        if phrase.location and centre is not None:
            slots["location"] = observe.location_word(centre[0] / seen.size[1], centre[1] / seen.size[0])
        better = replace(phrase, **slots)
        return match.group() if better == phrase else grammar.write_phrase(better)

    return grammar.PHRASE.sub(measured, markup)


def edit_target(sentence: str, name: str, seen: MaskFacts) -> str:
    """What the findings tell: a sentence that denies what query 0 draws becomes ``one small <p>polyp</p><seg0> …``, one that
    speaks of nothing that is drawn becomes ``no polyp is visible.`` Otherwise as :func:`edit_phrases`.

    Args:
        name: what was asked for.
    """
    said, mask = grammar.parse(sentence), seen.mask(0)
    if mask is not None:
        denied = sentence.lower().startswith(_DENIAL) and not said.phrases
        phrase = observe.observe_phrase(mask, name, 0) if denied else None
        return edit_phrases(f"{grammar.write_phrase(phrase)}." if phrase else sentence, seen)
    if said.phrases and all(p.query is None or seen.mask(p.query) is None for p in said.phrases):
        return _without_head(Description(absent=name))
    return edit_phrases(sentence, seen)


def edit_relation(sentence: str, name: str, other: str, seen: MaskFacts) -> str:
    """``A right of the B.`` with the relation that the centres of A and B have, or ``no A is visible.``

    The structures are those asked for, or, where the model knows them by another name, those that the sentence speaks of.
    Unchanged where that leaves one without a query, and where it is not such a sentence at all. Every structure is expected
    somewhere, so only what is drawn has a place.

    Args:
        name, other: what was asked for.
    """
    said = grammar.parse(sentence)
    if said.other is not None and len(said.phrases) == 1:
        written: tuple[Phrase | None, ...] = (said.phrases[0], said.other)
    elif said.absent is not None:
        written = (None, None)
    else:
        return sentence
    phrases = [seen.phrase(asked) or phrase for asked, phrase in zip((name, other), written)]
    centres = [seen.centre(p.query) if p and p.query is not None else None for p in phrases]
    for phrase, centre in zip(phrases, centres):
        if phrase and centre is not None and seen.mask(phrase.query) is None:
            return _without_head(Description(absent=phrase.name))
    if None in centres:
        return sentence
    relation = observe.relation_of_centres(*centres)
    return _without_head(Description(phrases=(phrases[0],), relation=relation, other=phrases[1]))


def edit_neighbours(sentence: str, relation: str, name: str, seen: MaskFacts) -> str:
    """``A and B below the C.`` with the structures that are drawn and whose centres lie so, in the order of their queries, or
    ``no C is visible.``

    Unchanged where the structure that was asked about has no query.

    Args:
        relation, name: what was asked.
    """
    other = seen.phrase(name) or grammar.parse(sentence).other
    reference = None if other is None or other.query is None else seen.centre(other.query)
    if reference is None:
        return sentence
    if seen.mask(other.query) is None:
        return _without_head(Description(absent=other.name))
    phrases = []
    for entity, query in seen.entities().items():
        centre = None if query == other.query or seen.mask(query) is None else seen.centre(query)
        if centre is not None and observe.relation_of_centres(centre, reference) == relation:
            phrases.append(Phrase(entity, query))
    return _without_head(Description(phrases=tuple(phrases), relation=relation, other=other))


def _without_head(description: Description) -> str:
    """The sentence behind "CT of the abdomen: ", which the caller has already."""
    return grammar.describe(description).partition(": ")[2]
