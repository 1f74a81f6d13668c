"""Words that the masks decide: how many, how large, where, and how one structure lies relative to another.

The text decoder writes the sentence before anything is drawn, so it can only guess at them, and a sentence that says "upper
left" beside a mask in the middle makes both worthless. Where a phrase names the query that draws it, these words are therefore
measured: number and size on the mask, places on its centre, which is known also where too little is sure for a mask. All other
words, and phrases without a query, stay as they were written. Nothing is added but the
structures that a question for neighbours asks for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .evaluation import grammar
from .evaluation.grammar import COUNTS, LOCATIONS, SHAPES, SIZES, Description, Phrase


class Seen(NamedTuple):
    """What words are measured on; asked only when it is needed, and may wait for the mask decoder.

    Args:
        mask: of a query, bool ``[H, W]`` of the image; None where nothing is drawn.
        centre: of a query's thing, ``(x, y)`` in pixels of the image; None where there is no such query.
        entities: query by name of every entity that is in the image.
        size: height and width of the image in pixels.
    """

    mask: Callable[[int], np.ndarray | None]
    centre: Callable[[int], tuple[float, float] | None]
    entities: Callable[[], Mapping[str, int]]
    size: tuple[int, int]


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


class Measured:
    """The text of one answer on its way to the caller: what can still change waits, the rest passes.

    Args:
        question: the request's text. An answer about how structures lie is known when it is complete.
        seen: what the words are measured on.
    """

    def __init__(self, question: str, seen: Seen) -> None:
        self._seen = seen
        self._relation, self._neighbours = grammar.asks_for_relation(question), grammar.neighbours_asked(question)
        self._waiting, self._head = "", False

    def feed(self, piece: str) -> str:
        """Take a piece of markup; give the markup that is final."""
        self._waiting += piece
        if self._head:
            return ""
        if self._relation or self._neighbours:
            end = self._waiting.find(": ") + 2
            self._head = end > 1
            end = end if self._head else 0
        else:
            unfinished = _UNFINISHED.search(self._waiting)
            end = unfinished.start() if unfinished else len(self._waiting)
        ready, self._waiting = self._waiting[:end], self._waiting[end:]
        return measure_phrases(ready, self._seen)

    def finish(self) -> str:
        """What is left when the decoder has ended."""
        if self._relation:
            return measure_relation(self._waiting, self._seen)
        if self._neighbours:
            return measure_neighbours(self._waiting, *self._neighbours, self._seen)
        return measure_phrases(self._waiting, self._seen)


def measure_answer(markup: str, question: str, seen: Seen) -> str:
    """A whole answer at once; arguments as for :class:`Measured`."""
    measured = Measured(question, seen)
    return measured.feed(markup) + measured.finish()


def measure_phrases(markup: str, seen: Seen) -> str:
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
        observed = None if mask is None else grammar.observe_phrase(mask, phrase.name, phrase.query)
        wanted = () if observed is None else ("size",) if phrase.count == "one" else ("count", "size")
        slots = {slot: getattr(observed, slot) for slot in wanted if getattr(phrase, slot)}
        if phrase.location and centre is not None:
            slots["location"] = grammar.location_word(centre[0] / seen.size[1], centre[1] / seen.size[0])
        better = replace(phrase, **slots)
        return match.group() if better == phrase else grammar.write_phrase(better)

    return grammar.PHRASE.sub(measured, markup)


def measure_relation(sentence: str, seen: Seen) -> str:
    """``A right of the B.`` with the relation that the centres of A and B have; unchanged where one has no query."""
    said = grammar.parse(sentence)
    if said.other is None or len(said.phrases) != 1:
        return sentence
    one, other = (None if p.query is None else seen.centre(p.query) for p in (said.phrases[0], said.other))
    if one is None or other is None:
        return sentence
    return _without_head(replace(said, relation=grammar.relation_of_centres(one, other)))


def measure_neighbours(sentence: str, relation: str, name: str, seen: Seen) -> str:
    """``A and B below the C.`` with the structures that are drawn and whose centres lie so, in the order of their queries.

    Unchanged where the structure that was asked about has no query.

    Args:
        relation, name: what was asked.
    """
    said, entities = grammar.parse(sentence), seen.entities()
    known = {entity.lower(): Phrase(entity, query) for entity, query in entities.items()}
    other = known.get(name.lower()) or said.other
    reference = None if other is None or other.query is None else seen.centre(other.query)
    if reference is None:
        return sentence
    phrases = []
    for entity, query in entities.items():
        centre = None if query == other.query or seen.mask(query) is None else seen.centre(query)
        if centre is not None and grammar.relation_of_centres(centre, reference) == relation:
            phrases.append(Phrase(entity, query))
    return _without_head(Description(phrases=tuple(phrases), relation=relation, other=other))


def _without_head(description: Description) -> str:
    """The sentence behind "CT of the abdomen: ", which the caller has already."""
    return grammar.describe(description).partition(": ")[2]
