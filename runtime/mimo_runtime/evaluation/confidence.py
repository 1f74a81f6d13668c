"""Does a high score mean a good mask? Selective prediction: accept the findings with the highest scores, measure their error.

The risk of a finding is ``1 - Dice``. The selective risk at a coverage is the mean risk of the accepted share. The curve of
risk over coverage is that of Geifman and El-Yaniv 2017, arXiv:1705.08500. Every data set has the same weight, whatever its
size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .results import Confidence, ConfidenceSummary, PredictedIou
from .summary import MASK_PROMPTS, Overlap

#: Points of a curve in the JSON.
POINTS = 20
#: An abstention threshold keeps at least this share of the findings.
LEAST_COVERAGE = 0.5


class RiskCurve(NamedTuple):
    """Coverage and selective risk at every score where something is accepted, from the highest score on; float64 ``[K]``."""

    scores: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray

    @property
    def aurc(self) -> float:
        """The area under risk over coverage: the mean selective risk, 0 at best."""
        return float(np.diff(self.coverage, prepend=0.0) @ self.risk)


class Choice(NamedTuple):
    """An abstention threshold and what it does where it was chosen."""

    threshold: float
    coverage: float
    risk: float
    #: Whether the wanted risk is kept.
    reached: bool


def set_weights(set_names: Sequence[str]) -> np.ndarray:
    """Weights ``[N]`` that sum to 1 and give every set the same share."""
    counts = Counter(set_names)
    return np.array([1 / (len(counts) * counts[name]) for name in set_names])


def risk_curve(scores: np.ndarray, dices: np.ndarray, weights: np.ndarray) -> RiskCurve:
    """The curve of findings ``[N]``, N > 0. No threshold parts findings of one score, so they are accepted together."""
    order = np.argsort(-scores, kind="stable")
    ranked, mass = scores[order], np.cumsum(weights[order])
    loss = np.cumsum((weights * (1 - dices))[order])
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    return RiskCurve(ranked[last], mass[last] / mass[-1], loss[last] / mass[last])


def at_threshold(scores: np.ndarray, dices: np.ndarray, weights: np.ndarray, threshold: float) -> tuple[float, float | None]:
    """``(coverage, risk)`` of the findings whose score is at least ``threshold``; no risk without any."""
    kept = scores >= threshold
    mass = weights[kept].sum()
    return float(mass / weights.sum()), float(weights[kept] @ (1 - dices[kept]) / mass) if mass else None


def choose_threshold(scores: np.ndarray, dices: np.ndarray, weights: np.ndarray, wanted: float) -> Choice:
    """The smallest threshold whose selective risk is at most ``wanted``.

    It must keep at least half of the findings (:data:`LEAST_COVERAGE`). Where none does, the one that keeps at least half with
    the least risk: abstention alone does not make a model right that is wrong too often.

    Args:
        scores, dices, weights: of the findings, float ``[N]``, N > 0.
        wanted: mean of ``1 - Dice`` that is still acceptable.
    """
    curve = risk_curve(scores, dices, weights)
    enough = np.flatnonzero(curve.coverage >= LEAST_COVERAGE - 1e-9)
    fine = enough[curve.risk[enough] <= wanted + 1e-9]
    best = int(fine[-1]) if len(fine) else int(enough[np.argmin(curve.risk[enough])])
    threshold = 0.0
    if best < len(curve.scores) - 1:  # halfway to the first score that is refused, in few digits, never above the accepted
        threshold = math.floor(1e6 * (curve.scores[best] + curve.scores[best + 1]) / 2) / 1e6
    coverage, risk = at_threshold(scores, dices, weights, threshold)
    assert risk is not None  # the threshold is at most the score of an accepted finding
    return Choice(threshold, coverage, risk, risk <= wanted + 1e-9)


def correlation(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float | None:
    """Pearson's correlation with weights that sum to 1; None where one of the two does not vary."""
    a, b = a - weights @ a, b - weights @ b
    scale = float((weights @ a**2) * (weights @ b**2)) ** 0.5
    return float(weights @ (a * b)) / scale if scale > 1e-12 else None


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse.reshape(-1)]


def summarise_confidence(overlaps: Sequence[Overlap], threshold: float | None) -> Confidence:
    """``confidence`` of the JSON, per prompt and over all prompts; prompts without a finding are missing.

    How well the predicted IoU fits the true one is measured where a mask was drawn (``n_drawn``). The rest is measured where
    there was a target (``n``); no mask at all counts as the worst mask.

    Args:
        threshold: the model's abstention threshold, None where it has none.
    """
    rows = [row for row in overlaps if row.score is not None]
    by_prompt = {prompt: [row for row in rows if row.prompt == prompt] for prompt in MASK_PROMPTS}
    return {name: _summary(own, threshold) for name, own in {**by_prompt, "all": rows}.items() if own}


def _summary(rows: Sequence[Overlap], threshold: float | None) -> ConfidenceSummary:
    scores, dices = np.array([row.score for row in rows]), np.array([row.dice for row in rows])
    weights = set_weights([row.set_name for row in rows])
    curve = risk_curve(scores, dices, weights)
    wanted = np.arange(1, POINTS + 1) / POINTS
    points = np.unique(np.searchsorted(curve.coverage, wanted - 1e-9).clip(max=len(curve.coverage) - 1))
    coverage, risk = (None, None) if threshold is None else at_threshold(scores, dices, weights, threshold)
    return {
        **_predicted_iou([row for row in rows if row.drawn]),
        "n": len(rows),
        "aurc": curve.aurc,
        "risk_coverage": {"coverage": curve.coverage[points].tolist(), "risk": curve.risk[points].tolist()},
        "threshold": threshold,
        "coverage_at_threshold": coverage,
        "risk_at_threshold": risk,
    }


def _predicted_iou(rows: Sequence[Overlap]) -> PredictedIou:
    if not rows:
        return {"iou_pearson": None, "iou_spearman": None, "iou_mae": None, "n_drawn": 0}
    predicted, true = np.array([row.predicted_iou for row in rows]), np.array([row.iou for row in rows])
    weights = set_weights([row.set_name for row in rows])
    return {
        "iou_pearson": correlation(predicted, true, weights),
        "iou_spearman": correlation(ranks(predicted), ranks(true), weights),
        "iou_mae": float(weights @ np.abs(predicted - true)),
        "n_drawn": len(rows),
    }
