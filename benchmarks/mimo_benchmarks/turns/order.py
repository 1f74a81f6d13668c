"""Rounds of turns: every contender once, in an order that is shuffled for each round."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..contenders import Sample
from ..request import KINDS, Request
from ..worker import Worker

#: Samples of a contender: kind -> one per repeat.
Samples = dict[str, list[Sample]]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Rounds:
    """``warmup`` rounds without samples, then ``repeats`` rounds with one sample per contender and kind.

    Args:
        seed: of the order in all rounds.
    """

    repeats: int
    warmup: int = 0
    seed: int = 0


def shuffled(items: Sequence[Item], seed: int, repeat: int) -> list[tuple[Item, list[str]]]:
    """The turns of one round: every item once, with the order of its kinds. Equal seeds give equal rounds."""
    generator = random.Random(f"{seed} {repeat}")
    return [(item, generator.sample(list(KINDS), len(KINDS))) for item in generator.sample(list(items), len(items))]


def take_turn(worker: Worker, request: Request, kinds: Sequence[str]) -> dict[str, Sample]:
    """One sample per kind, while the other workers are stopped.

    The first request of the turn is not counted: it finds the processor's caches filled by another contender.
    """
    with worker.turn():
        worker.ask(request, kinds[0])
        return {kind: worker.ask(request, kind) for kind in kinds}
