"""Latency of several engines of one graph, interleaved: what else the machine does meanwhile hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Run = Callable[[Mapping[str, np.ndarray]], object]


def interleaved(
    runs: Mapping[str, Run], inputs: Sequence[Mapping[str, np.ndarray]], *, seconds: float = 4.0, least: int = 12
) -> dict[str, float]:
    """Median milliseconds per run, by name.

    Args:
        inputs: take turns.
        seconds: about how long to measure; every contender runs at least ``least`` times.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for given in inputs[:2]:
            run(given)
    start, turn = time.perf_counter(), 0
    while turn < least or (time.perf_counter() - start < seconds and turn < 400):
        given = inputs[turn % len(inputs)]
        # The order changes: none is always the one that finds the caches as another left them.
        names = list(runs) if turn % 2 else list(runs)[::-1]
        for name in names:
            begin = time.perf_counter()
            runs[name](given)
            taken[name].append((time.perf_counter() - begin) * 1000)
        turn += 1
    return {name: float(np.median(values)) for name, values in taken.items()}
