"""The check of one image against the statistics of its model.

The distance of an image to the training images, in whitened principal components of pooled features, scaled by the local
density of those images. After nearest-neighbour detection of outliers (Sun et al. 2022, arXiv:2204.06507) and local scaling
(Breunig et al. 2000, 10.1145/342009.335388).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from ..modalities import canonical, contradict
from ..preprocessing.letterbox import Letterbox
from .statistics import DomainStatistics, describe_features

#: Verdicts, from like the training images to unlike them.
IN, BORDERLINE, OUT = "in", "borderline", "out"
#: Stored images whose distances are averaged.
NEIGHBOURS = 3


class DomainJson(TypedDict):
    """A domain check in JSON."""

    verdict: str
    score: float
    modality: str
    contradicts_stated: bool


@dataclass(frozen=True)
class DomainCheck:
    """How much an image is like the training images.

    Args:
        verdict: "in", "borderline" or "out".
        score: distance to the nearest training images, of the stated modality if one is stated; 1 is where borderline begins.
        modality: of the nearest training images of all, whatever is stated.
        contradicts_stated: whether a modality is stated and the nearest training images are of another one.
    """

    verdict: str
    score: float
    modality: str
    contradicts_stated: bool = False

    def to_dict(self) -> DomainJson:
        """For JSON."""
        return {
            "verdict": self.verdict,
            "score": round(self.score, 4),
            "modality": self.modality,
            "contradicts_stated": self.contradicts_stated,
        }


def check_domain(
    features: dict[str, np.ndarray], letterbox: Letterbox, statistics: DomainStatistics, modality: str | None = None
) -> DomainCheck:
    """Compare an image with the training images.

    Args:
        features: outputs of ``vision_encoder`` for the image.
        letterbox: of the image.
        statistics: of the model.
        modality: that the file or the caller states; only training images of it, or of a word that does not contradict it,
            count for score and verdict. Without such images the verdict is "out".
    """
    scores = modality_scores(describe_features(features, letterbox), statistics)
    score, has_modality = score_of(scores, statistics, modality)
    borderline, out = (float(limit) for limit in statistics.limits)
    verdict = OUT if not has_modality or score >= out else BORDERLINE if score >= borderline else IN
    nearest, stated = statistics.modalities[int(scores.argmin())], canonical(modality)
    other = stated is not None and stated != nearest and (stated in statistics.modalities or contradict(stated, nearest))
    return DomainCheck(verdict, score / borderline, nearest, other)


def modality_scores(description: np.ndarray, statistics: DomainStatistics) -> np.ndarray:
    """Mean scaled distance to the nearest stored images of each modality, float ``[modalities]``; not yet divided by a limit.

    Args:
        description: float32 ``[D]``, of :func:`describe_features`.
    """
    point = (description - statistics.mean) @ statistics.projection
    return np.array([group.nearest(point, NEIGHBOURS) for group in statistics.groups])


def score_of(scores: np.ndarray, statistics: DomainStatistics, modality: str | None) -> tuple[float, bool]:
    """The score of an image whose modality is stated, and whether the statistics have images of that modality.

    Args:
        scores: of :func:`modality_scores`.
        modality: stated; None counts all. Without images of it, the score is that of all.
    """
    stated = canonical(modality)
    allowed = [i for i, word in enumerate(statistics.modalities) if stated is None or not contradict(stated, word)]
    return float(scores[allowed].min() if allowed else scores.min()), bool(allowed)
