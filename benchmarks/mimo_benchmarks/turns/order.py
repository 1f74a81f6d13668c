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
#: Requests at the beginning of a turn that are not counted.
UNTIMED = 2


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
    """One sample per kind that the worker answers, while the other workers are stopped.

    The turn begins with :data:`UNTIMED` requests of the kind that runs most graphs. They are not timed: another contender has
    filled the processor's caches, branch predictors and address translations, and the clock may have changed.
    """
    with worker.turn():
        for _ in range(UNTIMED):
            worker.ask(request, widest(worker.kinds))
        return {kind: worker.ask(request, kind) for kind in kinds if kind in worker.kinds}


def widest(kinds: Sequence[str]) -> str:
    """The kind that runs most graphs: the first of ``KINDS`` that does not know the image."""
    return next(kind for kind in KINDS if kind in kinds and not KINDS[kind].known)
