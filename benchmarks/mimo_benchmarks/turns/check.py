"""Whether measuring in turns changes a result: each contender measured again as the only process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from ..contenders import Sample
from ..report.results import AloneCheck, AloneKind
from ..request import KINDS, Request
from ..worker import Worker
from .order import Rounds, Samples, shuffled, take_turn

#: The largest difference of two medians that counts as equal.
LIMIT = 0.05


def sample_alone(start: Callable[[], Worker], request: Request, rounds: Rounds) -> Samples:
    """Samples of a contender while no other one exists.

    Args:
        start: makes its process.
        request: as it is timed in turns.
        rounds: as in turns.
    """
    samples: Samples = {kind: [] for kind in KINDS}
    with start() as worker:
        for repeat in range(rounds.warmup + rounds.repeats):
            ((_, kinds),) = shuffled([worker], rounds.seed, repeat)
            taken = take_turn(worker, request, kinds)
            for kind in KINDS if repeat >= rounds.warmup else ():
                samples[kind].append(taken[kind])
    return samples


def compare_alone(turns: Mapping[str, Samples], alone: Mapping[str, Samples]) -> AloneCheck:
    """Medians in turns against medians of each contender by itself, by contender and kind."""
    contenders = {name: {kind: _compare(turns[name][kind], alone[name][kind]) for kind in KINDS} for name in alone}
    largest = max(abs(kind["difference"]) for of_kind in contenders.values() for kind in of_kind.values())
    return {"limit": LIMIT, "largest_difference": largest, "passed": largest < LIMIT, "contenders": contenders}


def _compare(turns: Sequence[Sample], alone: Sequence[Sample]) -> AloneKind:
    in_turns, by_itself = (median(sample.total_ms for sample in samples) for samples in (turns, alone))
    return {
        "turns_p50_ms": round(in_turns, 3),
        "alone_p50_ms": round(by_itself, 3),
        "difference": round(in_turns / by_itself - 1, 4),
    }
