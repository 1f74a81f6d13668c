"""The final sentence of an answer, from what the masks show: it names the findings and nothing else.

The draft of the text decoder gives the modality and the body region, and the number "one": whether there is more than one
object, the decoder is right more often than the parts of a mask. Every other word is measured on the masks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import grammar
from .frames import NEXT_TO
from .grammar import Description, Phrase, listed, write_phrase
from .names import is_plural_name
from .observe import is_next_to, location_word, observe_phrase, relation_of_centres

#: Structures that a body has once. Their parts are areas of the one, not several: "two areas of liver".
SINGLE = frozenset((
    "anterior hippocampus", "aorta", "bladder", "brain", "esophagus", "gallbladder", "heart", "hippocampus",
    "inferior vena cava",
    "left adrenal gland", "left atrium", "left kidney", "left lung", "left ventricle", "liver", "pancreas",
    "portal and splenic vein", "posterior hippocampus", "prostate", "right adrenal gland", "right atrium", "right kidney",
    "right lung", "right ventricle", "spine", "spleen", "stomach", "uterus",
))  # fmt: skip
#: What the sentence says where an open question has no answer. It denies no structure in particular.
NOTHING_KNOWN = "none of the structures that this model knows is visible"
#: What lies where none of the model's structures does. Others, which it does not know, may.
NO_NEIGHBOUR = "no known structure"


@dataclass(frozen=True, eq=False)
class NamedMask:
    """What is known of one structure.

    Args:
        name: as the sentence has it.
        query: of the structure.
        mask: bool ``[H, W]``; None where it is not present.
        centre: ``(x, y)`` in pixels of the image; None where it is not known.
        certain: False is worded as "possibly".
        size: its measured size, "an area of 120 mm² and a longest diameter of 14.2 mm"; "" if nobody asks for it.
        excluded: False for a structure that is not present and not excluded with the stated miss rate either.
    """

    name: str
    query: int
    mask: np.ndarray | None
    centre: tuple[float, float] | None
    certain: bool = True
    size: str = ""
    excluded: bool | None = None


def head_of(
    draft: str,
    modalities: Collection[str],
    regions: Collection[str] | None = None,
    modality: str | None = None,
) -> Description:
    """Modality and region of the sentence, without phrases.

    Args:
        draft: of the decoder. A head that is no modality of the grammar or the model is left out.
        modalities: of the model, as data sets name them.
        regions: those in which all named structures may lie, in lower case; None if unknown. Another region is left out.
        modality: of the image, where it is known: it replaces that of the draft, and a region that the draft gives with another
            modality is left out.
    """
    said = grammar.parse(draft)
    known = said.modality in grammar.MODALITIES or said.modality in modalities
    region = said.region if known and (regions is None or said.region.casefold() in regions) else ""
    if modality is None:
        return Description(said.modality if known else "", region)
    return Description(modality, region if said.modality == Description(modality).modality else "")


def compose_named(masks: Sequence[NamedMask], head: Description, draft: str = "") -> str:
    """The sentence about structures that the request names or points at: each with its words, or as not visible.

    Args:
        masks: at least one.
        draft: of the decoder, for the number "one".
    """
    drafted = grammar.parse(draft).phrases
    present = _certain_first(m for m in masks if m.mask is not None)
    observed = [_observed(m, m.mask, drafted) for m in present if m.mask is not None]
    phrases = [_written(phrase) for phrase in observed]
    denials = _denials([m for m in masks if m.mask is None])
    said = [listed(phrases), *denials] if phrases else denials
    sentences = [f"{grammar.describe_head(head)}: {said[0]}.", *(f"N{denial[1:]}." for denial in said[1:])]
    sentences += [_sized(phrase, m.size) for m, phrase in zip(present, observed) if m.size]
    return " ".join(sentences)


def _denials(masks: Sequence[NamedMask]) -> list[str]:
    """What is said of structures without a mask: those that are excluded or not calibrated, and those that may be there."""
    names: tuple[list[str], list[str]] = [], []
    for mask in masks:
        names[mask.excluded is False].append(grammar.clean_name(mask.name))
    ends = "visible", "found, but cannot be excluded"
    return [f"no {listed(of, 'or')} {'are' if is_plural_name(of[-1]) else 'is'} {end}" for of, end in zip(names, ends) if of]


def _sized(phrase: Phrase, size: str) -> str:
    """The sentence about a size. That of several is measured on all of them together."""
    name, verb = phrase.name, "have" if is_plural_name(phrase.name) else "has"
    if phrase.count not in ("", "one") and not _is_single(name) and (plural := grammar.pluralise(name)):
        name, verb = plural, "together have"
    return f"The {'possible ' if phrase.uncertain else ''}{name} {verb} {size}."


def _is_single(name: str) -> bool:
    return name.casefold() in SINGLE


def compose_reference(mask: NamedMask) -> str:
    """The sentence about what a reference points at, behind the answer about other structures."""
    if mask.mask is None:
        return f"The reference shows no {mask.name}."
    return f"The reference shows {_written(_observed(mask, mask.mask, ()))}."


def compose_open(masks: Iterable[NamedMask], head: Description) -> str:
    """The sentence that lists what is visible."""
    phrases = [write_phrase(_bare(m)) for m in _certain_first(masks) if m.mask is not None]
    return f"{grammar.describe_head(head)}: {listed(phrases) if phrases else NOTHING_KNOWN}."


def compose_relations(masks: Sequence[NamedMask], others: Sequence[NamedMask], head: Description) -> str:
    """How structures lie relative to each of others, by their centres; or that one of them is not visible."""
    absent = next((m for m in (*masks, *others) if m.mask is None or m.centre is None), None)
    if absent is not None:
        return _absent(absent, head)
    return _relative(head, [clause for other in others for clause in _by_relation(masks, other)])


def compose_neighbours(masks: Sequence[NamedMask], relation: str, others: Sequence[NamedMask], head: Description) -> str:
    """Which structures lie so relative to each of others.

    Args:
        masks: those that lie so relative to one of ``others``.
        relation: of ``grammar.RELATIONS``, or ``frames.NEXT_TO``: then the sentence says the direction of each.
    """
    absent = next((other for other in others if other.mask is None), None)
    if absent is not None:
        return _absent(absent, head)
    clauses = []
    for other in others:
        own = [mask for mask in masks if lies(mask, relation, other)]
        clauses += _by_relation(own, other) if relation == NEXT_TO and own else [_related(own, relation, other)]
    return _relative(head, clauses)


def _absent(mask: NamedMask, head: Description) -> str:
    return f"{grammar.describe_head(head)}: {_denials([replace(mask, mask=None)])[0]}."


def lies(mask: NamedMask, relation: str, other: NamedMask) -> bool:
    """Whether a structure lies so relative to another one, both present: by the centres, or by the gap between the masks."""
    if relation != NEXT_TO:
        return relation_between(mask, other) == relation
    assert mask.mask is not None and other.mask is not None
    return is_next_to(mask.mask, other.mask)


def relation_between(mask: NamedMask, other: NamedMask) -> str:
    """The relation of the centres of two structures that are present."""
    assert mask.centre is not None and other.centre is not None
    return relation_of_centres(mask.centre, other.centre)


def _by_relation(masks: Sequence[NamedMask], other: NamedMask) -> list[str]:
    """A clause for every relation that some structures have to another one."""
    groups: dict[str, list[NamedMask]] = {}
    for mask in masks:
        groups.setdefault(relation_between(mask, other), []).append(mask)
    return [_related(group, relation, other) for relation, group in groups.items()]


def _related(masks: Sequence[NamedMask], relation: str, other: NamedMask) -> str:
    phrases = [write_phrase(_bare(mask)) for mask in _certain_first(masks)]
    reference = write_phrase(_bare(other)).replace("possibly ", "possible ", 1)
    return f"{listed(phrases) if phrases else NO_NEIGHBOUR} {relation} the {reference}"


def _relative(head: Description, clauses: Sequence[str]) -> str:
    return f"{grammar.describe_head(head)}: {'; '.join(clauses)} in the image."


def _certain_first(masks: Iterable[NamedMask]) -> list[NamedMask]:
    """Uncertain structures last: in "possibly A and B", B would read as uncertain, too."""
    return sorted(masks, key=lambda mask: not mask.certain)


def _bare(mask: NamedMask) -> Phrase:
    return Phrase(mask.name, mask.query, uncertain=not mask.certain)


def _written(phrase: Phrase) -> str:
    return write_phrase(phrase, of_image=True, in_areas=_is_single(phrase.name))


def _observed(named: NamedMask, mask: np.ndarray, drafted: Sequence[Phrase]) -> Phrase:
    """The phrase of a mask with number, size, shape and location."""
    observed = observe_phrase(mask, named.name, named.query)
    assert observed is not None
    location = observed.location
    if named.centre is not None:
        location = location_word(named.centre[0] / mask.shape[1], named.centre[1] / mask.shape[0])
    said = next((p for p in drafted if p.query == named.query), None)
    count = "one" if said is not None and said.count == "one" else observed.count
    return replace(observed, count=count, location=location, uncertain=not named.certain)
