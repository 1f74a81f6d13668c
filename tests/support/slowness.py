"""How slow this machine is, for tests of how long work takes, and what only a slow machine prints."""

from __future__ import annotations

import re
import time
from functools import cache

#: Seconds of :func:`_work` on one free core of the machine that the limits were chosen on.
_USUAL_S = 0.004


def _work() -> int:
    total = 0
    for number in range(100_000):
        total += number & 3
    return total


@cache
def slowness() -> float:
    """How many times longer than usual one core takes for the same work, at least 1; a limit in seconds is multiplied by it."""
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        _work()
        times.append(time.perf_counter() - begin)
    return max(1.0, min(times) / _USUAL_S)


def without_progress(stderr: str) -> str:
    """Standard error of a command without the line a minute that says how far long work is."""
    return re.sub(r"^\d+ s: .+ \d+/\d+\n", "", stderr, flags=re.MULTILINE)
