"""Whether measuring in turns changes a result: each contender once more in a turn that follows its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from ..contenders import Sample
from ..report.results import IsolationCheck, IsolationResult
from .order import Samples

#: The largest difference that counts as equal.
LIMIT = 0.05


def compare_alone(turns: Mapping[str, Samples], alone: Mapping[str, Samples]) -> IsolationCheck:
    """Samples in turns against samples of each contender by itself, by contender and kind.

    Args:
        turns: of turns that follow another contender's.
        alone: of turns that follow a turn of the same contender, one directly after each of ``turns``.
    """
    contenders = {name: {kind: _compare(turns[name][kind], alone[name][kind]) for kind in alone[name]} for name in alone}
    largest = max(abs(kind["difference"]) for of_kind in contenders.values() for kind in of_kind.values())
    return {"limit": LIMIT, "largest_difference": largest, "passed": largest < LIMIT, "contenders": contenders}


def _compare(turns: Sequence[Sample], alone: Sequence[Sample]) -> IsolationResult:
    """The difference is the median over pairs: both samples of a pair are from the same second of the machine."""
    in_turns, by_itself = (median(sample.total_ms for sample in samples) for samples in (turns, alone))
    differences = sorted(a.total_ms / b.total_ms - 1 for a, b in zip(turns, alone))
    return {
        "turns_p50_ms": round(in_turns, 3),
        "alone_p50_ms": round(by_itself, 3),
        "difference": round(median(differences), 4),
        "ci95": [round(value, 4) for value in median_interval(differences)],
    }


def median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a median by the ranks of a binomial distribution, approximated by a normal one.

    With fewer than six values it is their whole range. Source: Conover, Practical Nonparametric Statistics (1999), 3.2.

    Args:
        ordered: ascending.
    """
    count = len(ordered)
    half = 0.98 * math.sqrt(count)
    low, high = math.floor(count / 2 - half), math.ceil(count / 2 + half)
    return ordered[max(0, low)], ordered[min(count - 1, high)]
