"""Words of an answer that the masks decide: presence, number, size, location, and how one structure lies relative to another.

The text decoder writes its draft without the masks. A draft that says "upper left" beside a mask in the center makes both
worthless, so these words are replaced where a phrase names the mask query that shows its structure: number and size from the
mask, location and relation from its centre, which also exists where no mask is present. Whether the sentence says that a named
target is visible follows its finding. All other words, and phrases without a query, stay as the decoder wrote them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from . import grammar
from .grammar import Description, Phrase
from .observe import location_word, observe_phrase, relation_of_centres
from .questions import neighbours_asked, relation_asked, target_of

#: The beginning of a sentence, "CT of the abdomen: ".
_HEAD = re.compile(r"[^:<>]*: ")
#: A sentence that says that a structure is not visible.
_DENIAL = "no "


class MaskFacts(Protocol):
    """What the words are taken from; ``postprocessing.mask_prediction.MaskPrediction`` has all of it."""

    def mask(self, query: int) -> np.ndarray | None:
        """Of a query, bool ``[H, W]``; None where its structure is not present."""

    def centre(self, query: int) -> tuple[float, float] | None:
        """Of a query's structure, ``(x, y)`` in pixels of the image; None where there is no such query."""

    def entities(self) -> Mapping[str, int]:
        """Query by name of every entity that is present, whether or not the request names it."""

    @property
    def entity_names(self) -> tuple[str, ...]:
        """Every entity of the model; the query of ``entity_names[i]`` is ``1 + i``."""

    @property
    def height(self) -> int:
        """Of the image in pixels."""

    @property
    def width(self) -> int:
        """Of the image in pixels."""


def edit_answer(draft: str, question: str, facts: MaskFacts) -> str:
    """The final text of an answer.

    Args:
        draft: markup with query numbers, as the text decoder wrote it; complete.
        question: the request's text.
        facts: what the masks show.
    """
    head = _HEAD.match(draft)
    if head is None:
        return edit_phrases(draft, facts)
    body = draft[head.end() :]
    if relation := relation_asked(question):
        body = edit_relation(body, *relation, facts)
    elif neighbours := neighbours_asked(question):
        body = edit_neighbours(body, *neighbours, facts)
    elif target := target_of(question):
        body = edit_target(body, target, facts)
    else:
        body = edit_phrases(body, facts)
    return head.group() + body


def edit_phrases(markup: str, facts: MaskFacts) -> str:
    """The text with number and size of every phrase taken from its mask, and location from the centre of its query.

    Only words that the draft has are replaced. Size is the mean over the parts of the mask, as the grammar defines it. The
    number "one" stays: whether there is more than one object, the decoder is right more often than the small parts of a mask.
    """

    def edited(match: re.Match[str]) -> str:
        phrase = grammar.phrase_of(match)
        if phrase is None or phrase.query is None or not (phrase.count or phrase.size or phrase.location):
            return match.group()
        mask, centre = facts.mask(phrase.query), facts.centre(phrase.query)
        observed = None if mask is None else observe_phrase(mask, phrase.name, phrase.query)
        slots = () if observed is None else ("size",) if phrase.count == "one" else ("count", "size")
        words = {slot: getattr(observed, slot) for slot in slots if getattr(phrase, slot)}
        if phrase.location and centre is not None:
            words["location"] = location_word(centre[0] / facts.width, centre[1] / facts.height)
        better = replace(phrase, **words)
        return match.group() if better == phrase else grammar.write_phrase(better)

    return grammar.PHRASE.sub(edited, markup)


def edit_target(sentence: str, name: str, facts: MaskFacts) -> str:
    """A sentence about the named target that agrees with its finding.

    A denial of a target that is present becomes ``one small <p>polyp</p><seg0> ...``. A sentence whose phrases are all absent
    becomes ``no polyp is visible.`` Otherwise as :func:`edit_phrases`.

    Args:
        name: of the target in the request.
    """
    draft, mask = grammar.parse(sentence), facts.mask(0)
    if mask is not None:
        is_denied = sentence.lower().startswith(_DENIAL) and not draft.phrases
        phrase = observe_phrase(mask, name, 0) if is_denied else None
        return edit_phrases(f"{grammar.write_phrase(phrase)}." if phrase else sentence, facts)
    if draft.phrases and all(p.query is None or facts.mask(p.query) is None for p in draft.phrases):
        return _without_head(Description(absent=name))
    return edit_phrases(sentence, facts)


def edit_relation(sentence: str, name: str, other: str, facts: MaskFacts) -> str:
    """``A right of the B.`` with the relation of the centres of A and B, or ``no A is visible.``

    A and B are the names of the request; where the model has no entity of that name, those of the draft. The sentence stays
    where one of them has no query, and where it is not a sentence about a relation.

    Args:
        name, other: of the structures in the request.
    """
    draft = grammar.parse(sentence)
    if draft.other is not None and len(draft.phrases) == 1:
        drafted: tuple[Phrase | None, Phrase | None] = draft.phrases[0], draft.other
    elif draft.absent is not None:
        drafted = None, None
    else:
        return sentence
    first, second = _entity(name, facts) or drafted[0], _entity(other, facts) or drafted[1]
    centres = []
    for phrase in (first, second):
        centre = facts.centre(phrase.query) if phrase and phrase.query is not None else None
        if phrase and phrase.query is not None and centre is not None and facts.mask(phrase.query) is None:
            return _without_head(Description(absent=phrase.name))
        centres.append(centre)
    if first is None or centres[0] is None or centres[1] is None:
        return sentence
    relation = relation_of_centres(centres[0], centres[1])
    return _without_head(Description(phrases=(first,), relation=relation, other=second))


def edit_neighbours(sentence: str, relation: str, name: str, facts: MaskFacts) -> str:
    """``A and B below the C.`` with the entities that are present and whose centres lie so, in the order of their queries, or
    ``no C is visible.``

    The sentence stays where C has no query.

    Args:
        relation, name: of the request.
    """
    other = _entity(name, facts) or grammar.parse(sentence).other
    reference = None if other is None or other.query is None else facts.centre(other.query)
    if other is None or other.query is None or reference is None:
        return sentence
    if facts.mask(other.query) is None:
        return _without_head(Description(absent=other.name))
    phrases = []
    for entity, query in facts.entities().items():
        centre = None if query == other.query or facts.mask(query) is None else facts.centre(query)
        if centre is not None and relation_of_centres(centre, reference) == relation:
            phrases.append(Phrase(entity, query))
    return _without_head(Description(phrases=tuple(phrases), relation=relation, other=other))


def _entity(name: str, facts: MaskFacts) -> Phrase | None:
    """The model's entity of that name; None if it has none."""
    matches = (Phrase(e, 1 + i) for i, e in enumerate(facts.entity_names) if e.casefold() == name.casefold())
    return next(matches, None)


def _without_head(description: Description) -> str:
    """The sentence behind "CT of the abdomen: "."""
    return grammar.describe(description).partition(": ")[2]
