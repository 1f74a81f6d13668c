"""The few statistics that the tables need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

#: Percentiles in every table: the usual, the slow one in ten, nearly the worst.
PERCENTILES = (50, 90, 99)


class Percentiles(TypedDict):
    p50_ms: float
    p90_ms: float
    p99_ms: float


def percentiles(values_ms: Sequence[float]) -> Percentiles:
    """Linear between samples (with fewer than 100 samples p99 is close to the slowest)."""
    levels = np.percentile(np.asarray(values_ms, float), PERCENTILES)
    p50, p90, p99 = (round(float(value), 3) for value in levels)
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99}
