"""Range estimators: four methods, each a function from a histogram of |x| to ``amax``, the largest magnitude that INT8 holds.

Quantization is symmetric: ``q = clip(round(x / s), -127, 127)`` with ``s = amax / 127``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .histogram import BINS, HistogramObserver

LEVELS = 127
#: Share of the values that the percentile method keeps.
PERCENTILE = 0.99995
#: Values of amax that ``mse`` and ``entropy`` try, as shares of the maximum.
CANDIDATES = np.linspace(0.1, 1.0, 91)


def minmax(histogram: HistogramObserver) -> float:
    """The maximum."""
    return histogram.maximum


def percentile(histogram: HistogramObserver) -> float:
    """The value that a share of :data:`PERCENTILE` of all values does not exceed."""
    share = np.cumsum(histogram.counts) / max(histogram.counts.sum(), 1.0)
    edge = (int(np.searchsorted(share, PERCENTILE)) + 1) * (histogram.limit / BINS)
    return min(edge, histogram.maximum)


def mse(histogram: HistogramObserver) -> float:
    """The amax with the least mean squared error between the centres of the bins and their quantized values."""
    x, counts = histogram.centres(), histogram.counts
    best, least = histogram.maximum, np.inf
    for share in CANDIDATES:
        step = share * histogram.maximum / LEVELS
        if step <= 0:
            continue
        error = float((counts * np.square(x - np.minimum(np.rint(x / step), LEVELS) * step)).sum())
        if error < least:
            best, least = share * histogram.maximum, error
    return best


def entropy(histogram: HistogramObserver) -> float:
    """The amax whose quantized distribution has the least Kullback-Leibler divergence from the measured one.

    After Migacz, 8-bit inference with TensorRT (GTC 2017): the mass beyond amax counts to the last bin of the reference.
    """
    counts = histogram.counts
    best, least = histogram.maximum, np.inf
    for share in CANDIDATES:
        bins = max(LEVELS + 1, min(BINS, round(share * histogram.maximum / histogram.limit * BINS)))
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
            best, least = bins * histogram.limit / BINS, divergence
    return min(best, histogram.maximum)


METHODS: dict[str, Callable[[HistogramObserver], float]] = {
    "minmax": minmax, "percentile": percentile, "entropy": entropy, "mse": mse,
}  # fmt: skip


def amax(histogram: HistogramObserver, method: str) -> float:
    """The amax of a tensor by one of :data:`METHODS`; at least 1e-8, so that a tensor of zeros has a scale."""
    return max(float(METHODS[method](histogram)), 1e-8)
