"""Where to clip an activation: four methods, each a function from a histogram of |x| to the largest value that is kept.

Quantisation is symmetric to 8 bits: ``q = clip(round(x / s), -127, 127)`` with ``s = clip / 127``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .histogram import BINS, HistogramObserver

LEVELS = 127
#: Share of the values that the percentile method keeps.
PERCENTILE = 0.99995
#: Clips that the searching methods try, as shares of the largest value.
CANDIDATES = np.linspace(0.1, 1.0, 91)


def minmax(seen: HistogramObserver) -> float:
    """The largest value."""
    return seen.maximum


def percentile(seen: HistogramObserver) -> float:
    """The value that :data:`PERCENTILE` of all values do not exceed."""
    share = np.cumsum(seen.counts) / max(seen.counts.sum(), 1.0)
    edge = (int(np.searchsorted(share, PERCENTILE)) + 1) * (seen.limit / BINS)
    return min(edge, seen.maximum)


def mse(seen: HistogramObserver) -> float:
    """The clip of the least mean squared error between the middles of the bins and what INT8 makes of them."""
    x, counts = seen.centres(), seen.counts
    best, least = seen.maximum, np.inf
    for share in CANDIDATES:
        step = share * seen.maximum / LEVELS
        if step <= 0:
            continue
        error = float((counts * np.square(x - np.minimum(np.rint(x / step), LEVELS) * step)).sum())
        if error < least:
            best, least = share * seen.maximum, error
    return best


def entropy(seen: HistogramObserver) -> float:
    """The clip whose quantised distribution differs least from the true one in Kullback-Leibler divergence.

    After Migacz, 8-bit inference with TensorRT (GTC 2017): the mass beyond the clip counts to the last bin of the reference.
    """
    counts = seen.counts
    best, least = seen.maximum, np.inf
    for share in CANDIDATES:
        bins = max(LEVELS + 1, min(BINS, round(share * seen.maximum / seen.limit * BINS)))
        reference = counts[:bins].copy()
        reference[-1] += counts[bins:].sum()
        if not reference.sum():
            continue
        edges = np.linspace(0, bins, LEVELS + 2).astype(int)
        approximation = np.zeros(bins)
        for low, high in zip(edges[:-1], edges[1:]):
            part = counts[low:high]
            filled = part > 0
            if filled.any():
                approximation[low:high][filled] = part.sum() / filled.sum()
        p, q = reference / reference.sum(), approximation / max(approximation.sum(), 1e-12)
        both = p > 0
        divergence = float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-9))).sum())
        if divergence < least:
            best, least = bins * seen.limit / BINS, divergence
    return min(best, seen.maximum)


METHODS: dict[str, Callable[[HistogramObserver], float]] = {
    "minmax": minmax, "percentile": percentile, "entropy": entropy, "mse": mse,
}  # fmt: skip


def amax(seen: HistogramObserver, method: str) -> float:
    """The clip of a tensor; never zero, so that a tensor that was always zero still has a scale."""
    return max(float(METHODS[method](seen)), 1e-8)
