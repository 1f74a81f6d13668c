"""What a text answer says, slot by slot: the finding, the modality, the location, the size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import grammar
from .summary import TEXT_SLOTS

Slots = dict[str, bool]


def read_slots(answer: str, truth: grammar.Description) -> Slots:
    """Which slots of a text answer are right, for a truth with one phrase.

    Location and size are those of the phrase that names the finding, or of the first phrase if none does.
    """
    said, wanted = grammar.parse(answer), truth.phrases[0]
    matching = [p for p in said.phrases if p.name.lower() == wanted.name.lower()]
    phrase = (matching or [*said.phrases, None])[0]
    return {
        "finding": bool(matching),
        "modality": said.modality == truth.modality,
        "location": phrase is not None and phrase.location == wanted.location,
        "size": phrase is not None and phrase.size == wanted.size,
    }


def summarise_slots(answers: Sequence[tuple[str, Slots]]) -> dict[str, Any]:
    """``text`` (shares over all answers; None without any) and ``text_sets`` (per set) of the JSON.

    Args:
        answers: set name and slots of every answer.
    """
    of_set: dict[str, list[Slots]] = {}
    for set_name, slots in answers:
        of_set.setdefault(set_name, []).append(slots)
    return {
        "text": _shares([slots for _, slots in answers]) if answers else dict.fromkeys(TEXT_SLOTS),
        "text_sets": {set_name: _shares(found) | {"n": len(found)} for set_name, found in of_set.items()},
    }


def _shares(found: Sequence[Slots]) -> dict[str, float]:
    return {slot: float(np.mean([slots[slot] for slots in found])) for slot in TEXT_SLOTS}
