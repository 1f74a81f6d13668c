"""The few statistics that the tables need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Percentiles in every table: the usual, the slow one in ten, nearly the worst.
PERCENTILES = (50, 90, 99)


def percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    """``{"p50_ms", "p90_ms", "p99_ms"}``, linear between samples (with fewer than 100 samples p99 is close to the slowest)."""
    levels = np.percentile(np.asarray(values_ms, float), PERCENTILES)
    return {f"p{p}_ms": round(float(value), 3) for p, value in zip(PERCENTILES, levels)}
