"""The few statistics that the tables need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

#: Percentiles in every table: the usual ask, the slow one in ten, the worst.
PERCENTILES = (50, 90, 99)


def percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    """``{"p50_ms", "p90_ms", "p99_ms"}``, linear between samples (with fewer than 100 samples p99 leans on the slowest)."""
    found = np.percentile(np.asarray(values_ms, float), PERCENTILES)
    return {f"p{p}_ms": round(float(value), 3) for p, value in zip(PERCENTILES, found)}


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals ``(start, end)``: engines that run side by side count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total
