"""The metrics of acceptance, numpy only: overlap of masks, presence as a classifier, calibration, bootstrap intervals."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from .results import ReliabilityBin

BOOTSTRAP_SAMPLES = 1000
#: How :func:`bootstrap_means` and :func:`interval` make a 95 % interval, for people.
INTERVAL = (
    f"95 % percentile interval of {BOOTSTRAP_SAMPLES} bootstrap resamples of whole cases (patients) with all their images; "
    "over sets, every set is resampled on its own and the means are averaged"
)
ECE_BINS = 15


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient of two bool masks of one shape; 1 if both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / total) if total else 1.0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool masks of one shape; 1 if both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def ellipse_in_box(box: Sequence[float], height: int, width: int) -> np.ndarray:
    """The ellipse inscribed in a box as a bool mask ``[H, W]``: the pixels whose centres lie inside. A trivial baseline."""
    x0, y0, x1, y1 = box
    x = (np.arange(width) + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
    y = (np.arange(height) + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
    return x[None, :] ** 2 + y[:, None] ** 2 <= 1


def precision_recall_f1(truth: Sequence[bool], predicted: Sequence[bool]) -> tuple[float | None, float | None, float | None]:
    """Of the positive class. None where a denominator is zero."""
    t, p = np.asarray(truth, bool), np.asarray(predicted, bool)
    hits = int(np.count_nonzero(t & p))

    def ratio(a: float, b: float) -> float | None:
        return float(a / b) if b else None

    return (
        ratio(hits, int(np.count_nonzero(p))),
        ratio(hits, int(np.count_nonzero(t))),
        ratio(2 * hits, int(np.count_nonzero(t) + np.count_nonzero(p))),
    )


def auc(truth: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half. None with one class only."""
    t, s = np.asarray(truth, bool), np.asarray(scores, float)
    positives, negatives = s[t], np.sort(s[~t])
    if not len(positives) or not len(negatives):
        return None
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    return float((below + not_above).sum() / 2 / (len(positives) * len(negatives)))


def ece(truth: Sequence[bool], probabilities: Sequence[float], bins: int = ECE_BINS) -> float | None:
    """Expected calibration error of a binary probability, in bins of equal width (Guo et al. 2017, arXiv:1706.04599).

    The mean over samples of |mean probability - rate of positives| of the sample's bin. None without samples.
    """
    filled = reliability(truth, probabilities, bins)
    if not filled:
        return None
    gaps = [b["n"] * abs(b["mean_probability"] - b["rate"]) for b in filled]
    return float(sum(gaps) / sum(b["n"] for b in filled))


def reliability(truth: Sequence[bool], probabilities: Sequence[float], bins: int = ECE_BINS) -> list[ReliabilityBin]:
    """The reliability diagram of a binary probability, in bins of equal width (Guo et al. 2017, arXiv:1706.04599).

    Returns:
        ``{"low", "high", "mean_probability", "rate", "n"}`` of every bin that has samples; ``rate`` is that of positives.
    """
    t, p = np.asarray(truth, float), np.asarray(probabilities, float)
    bin_of = np.clip((p * bins).astype(int), 0, bins - 1)
    counts, predicted, true = (np.bincount(bin_of, weights, bins) for weights in (None, p, t))
    return [
        {
            "low": float(k / bins),
            "high": float((k + 1) / bins),
            "mean_probability": float(predicted[k] / counts[k]),
            "rate": float(true[k] / counts[k]),
            "n": int(counts[k]),
        }
        for k in np.flatnonzero(counts)
    ]


def bootstrap_means(
    values: Sequence[float], groups: Sequence[object] | None = None, seed: int = 0, samples: int = BOOTSTRAP_SAMPLES
) -> np.ndarray:
    """Means of ``samples`` bootstrap resamples, float64 ``[samples]``.

    Whole groups (all that was measured on one patient) are drawn, because slices of one patient are not independent.
    """
    v = np.asarray(values, float)
    if groups is None:
        group_of, count = np.arange(len(v)), len(v)
    else:
        numbers: dict[object, int] = {}
        group_of = np.array([numbers.setdefault(g, len(numbers)) for g in groups])
        count = len(numbers)
    if not count:
        raise ValueError("nothing to resample")
    sums, sizes = np.bincount(group_of, v, count), np.bincount(group_of, minlength=count)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(count, size=(samples, count))
    means: np.ndarray = sums[drawn].sum(1) / sizes[drawn].sum(1)
    return means


def interval(means: np.ndarray, level: float = 0.95) -> list[float]:
    """The percentile interval of bootstrap means."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def bootstrap_ci(values: Sequence[float], groups: Sequence[object] | None = None, seed: int = 0) -> list[float]:
    """The 95 % interval ``[low, high]`` of a mean; see :func:`bootstrap_means`."""
    return interval(bootstrap_means(values, groups, seed))


def mean_over_sets(
    values: Mapping[str, Sequence[float]], groups: Mapping[str, Sequence[object]], seed: int = 0
) -> tuple[float, list[float]]:
    """The mean over sets of the means of their ``values``, and its 95 % interval; see :func:`bootstrap_means`.

    Every set is resampled on its own, with random numbers that depend only on ``seed`` and the set's name.
    """
    means = [bootstrap_means(v, groups[of], zlib.crc32(f"{seed}/{of}".encode())) for of, v in values.items()]
    return float(np.mean([np.mean(v) for v in values.values()])), interval(np.mean(means, 0))
