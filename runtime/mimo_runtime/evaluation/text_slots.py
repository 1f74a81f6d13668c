"""What a text answer says: slot by slot (finding, modality, location, size, count), and whether what was asked for is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..text import grammar
from .results import Share, SlotResult, SlotShares, StatementResult

Slots = dict[str, bool]


def read_slots(answer: str, truth: grammar.Description) -> Slots:
    """Which slots of a text answer are right, for a truth with one phrase.

    Location, size and count are those of the phrase that names the finding, or of the first phrase if none does.
    """
    description, wanted = grammar.parse(answer), truth.phrases[0]
    matching = [p for p in description.phrases if p.name.lower() == wanted.name.lower()]
    phrase = next(iter(matching or description.phrases), None)
    return {
        "finding": bool(matching),
        "modality": description.modality == truth.modality,
        "location": phrase is not None and phrase.location == wanted.location,
        "size": phrase is not None and phrase.size == wanted.size,
        "count": phrase is not None and phrase.count == wanted.count,
    }


class Statement(NamedTuple):
    """What the sentence of one answer to a class name says of it, beside the decision that its finding tells."""

    #: As in ``summary.Presence``.
    kind: str
    #: Whether it says that just this class is absent.
    denies: bool
    #: Whether it names structures where the finding is not present, or says that something is absent where it is.
    contradicts: bool

    @staticmethod
    def of(answer: str, name: str, kind: str, present: bool) -> Statement:
        """Args: the text of an answer about class ``name``, and whether its finding is ``present``."""
        description = grammar.parse(answer)
        denies = description.absent is not None and description.absent.casefold() == name.casefold()
        nothing = not description.phrases and (description.absent is not None or "no finding" in answer.lower())
        return Statement(kind, denies, nothing if present else bool(description.phrases))


def summarise_statements(statements: Sequence[Statement], generated: Sequence[Statement]) -> StatementResult:
    """``absent_text`` and ``contradictions`` of the JSON; shares are None without any question.

    Args:
        statements: of every answer whose text was asked for.
        generated: of the same answers as the decoder wrote them.
    """
    pairs = list(zip(statements, generated, strict=True))

    def share(what: str, *kinds: str) -> Share:
        answered = [
            (getattr(delivered, what), getattr(written, what)) for delivered, written in pairs if delivered.kind in kinds
        ]
        shares = np.mean(answered, axis=0).tolist() if answered else (None, None)
        return {"share": shares[0], "generated": shares[1], "n": len(answered)}

    absent = ("within", "across")
    return {
        "absent_text": {
            **share("denies", *absent), "within": share("denies", "within"), "across": share("denies", "across"),
        },
        "contradictions": {
            **share("contradicts", "present", *absent),
            "present": share("contradicts", "present"), "absent": share("contradicts", *absent),
        },
    }  # fmt: skip


def summarise_slots(answers: Sequence[tuple[str, Slots]]) -> SlotResult:
    """``text`` (shares over all answers; None without any) and ``text_sets`` (per set) of the JSON.

    Args:
        answers: set name and slots of every answer.
    """
    of_set: dict[str, list[Slots]] = {}
    for set_name, slots in answers:
        of_set.setdefault(set_name, []).append(slots)
    return {
        "text": _shares([slots for _, slots in answers]),
        "text_sets": {set_name: {**_shares(answered), "n": len(answered)} for set_name, answered in of_set.items()},
    }


def _shares(answers: Sequence[Slots]) -> SlotShares:
    def share(slot: str) -> float | None:
        return float(np.mean([slots[slot] for slots in answers])) if answers else None

    return {
        "finding": share("finding"), "modality": share("modality"), "location": share("location"), "size": share("size"),
        "count": share("count"),
    }  # fmt: skip
