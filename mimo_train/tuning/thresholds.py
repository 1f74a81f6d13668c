"""Thresholds that are chosen on ``val``: presence and abstention.

Temperature scaling after Guo et al. 2017, arXiv:1706.04599; abstention after Geifman and El-Yaniv 2017, arXiv:1705.08500.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from mimo_runtime.evaluation.confidence import Choice, choose_threshold, set_weights
from mimo_runtime.evaluation.summary import Overlap, Presence
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.pipeline import Mimo
from mimo_runtime.postprocessing.masks import sigmoid

#: Presence probability of an entity in an image, and whether it is there.
Entities = Sequence[tuple[float, bool]]
TEMPERATURES = np.geomspace(0.25, 8.0, 121)


class ThresholdReport(TypedDict):
    """JSON of :class:`Thresholds`."""

    presence_threshold: float
    presence_temperature: float
    entity_threshold: float
    abstain_threshold: float
    coverage: float
    risk: float
    risk_reached: bool
    findings: int
    crop_scale: float
    full_image_weight: float
    notes: list[str]


@dataclass(frozen=True)
class Thresholds:
    """The chosen values, and the effect of the abstention threshold on the split that it was chosen on.

    Attributes:
        findings: number of findings that the abstention threshold was chosen on.
        crop_scale, full_image_weight: see ``MimoConfig``.
        notes: values that could not be chosen, with the reason.
    """

    presence_threshold: float
    presence_temperature: float
    entity_threshold: float
    abstention: Choice
    findings: int
    crop_scale: float = 0.0
    full_image_weight: float = 0.0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> ThresholdReport:
        """For JSON."""
        return {
            "presence_threshold": self.presence_threshold,
            "presence_temperature": self.presence_temperature,
            "entity_threshold": self.entity_threshold,
            "abstain_threshold": self.abstention.threshold,
            "coverage": self.abstention.coverage,
            "risk": self.abstention.risk,
            "risk_reached": self.abstention.reached,
            "findings": self.findings,
            "crop_scale": self.crop_scale,
            "full_image_weight": self.full_image_weight,
            "notes": list(self.notes),
        }

    def sentences(self, risk: float) -> str:
        """For a person; ``risk`` is the requested one."""
        chosen = self.abstention
        if self.crop_scale:
            crop_pass = f"crop pass: crop scale {self.crop_scale:g}, full-image weight {self.full_image_weight:g}"
        else:
            crop_pass = "crop pass: off, it gains nothing (mimo-train fit --crop-views trains it)"
        missed = "" if chosen.reached else (
            f". No threshold that keeps half of the findings reaches {risk:g}; this one comes nearest."
        )  # fmt: skip
        lines = (
            f"presence threshold {self.presence_threshold:.3f}, temperature {self.presence_temperature:.3f}, "
            f"entity threshold {self.entity_threshold:.3f}",
            f"abstention threshold {chosen.threshold:.3f}: keeps {100 * chosen.coverage:.0f} % of {self.findings} findings "
            f"at a risk of {chosen.risk:.3f}",
            crop_pass + missed,
            *(f"Note: {note}." for note in self.notes),
        )
        return "\n".join(lines)


def best_temperature(logits: np.ndarray, present: np.ndarray) -> float:
    """The temperature of least negative log-likelihood; logits [N], present [N] bool."""
    sign = np.where(present, 1.0, -1.0)
    losses = [np.logaddexp(0.0, -sign * logits / t).mean() for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def best_threshold(probabilities: np.ndarray, present: np.ndarray) -> float:
    """The threshold with the best F1 of "absent" plus F1 of "present"; of equals, the one nearest to 0.5."""
    order = np.sort(np.unique(probabilities))
    candidates = np.concatenate(([0.5], (order[1:] + order[:-1]) / 2))
    scores = []
    for threshold in candidates:
        predicted = probabilities >= threshold
        f1 = [
            2 * np.sum(predicted & present) / max(1, predicted.sum() + present.sum()),
            2 * np.sum(~predicted & ~present) / max(1, (~predicted).sum() + (~present).sum()),
        ]
        scores.append(sum(f1))
    best = np.flatnonzero(np.asarray(scores) >= max(scores) - 1e-9)
    return float(candidates[best[np.argmin(np.abs(candidates[best] - 0.5))]])


def choose_thresholds(
    overlaps: Sequence[Overlap], presences: Sequence[Presence], risk: float, entities: Entities = ()
) -> Thresholds:
    """Choose presence threshold, temperature, entity threshold and abstention threshold.

    Temperature and presence threshold are chosen on the prompts by name, the only ones whose target may be absent. The
    abstention threshold is chosen on all prompts, with the same weight for every set. Scores and masks are those of the new
    temperature and presence threshold: a finding below the threshold has no mask. A value keeps the default of a new model
    where the data has only present or only absent targets; ``notes`` say so.

    Args:
        overlaps, presences: of a model :func:`without_thresholds`.
        risk: mean ``1 - Dice`` of confident findings that is still acceptable.
        entities: without any, the entity threshold is the default.
    """
    logits = _logits([p.probability for p in presences])
    present = np.array([p.kind == "present" for p in presences])
    temperature, threshold, notes = _presence_scale(logits, present)
    probabilities, shown = [probability for probability, _ in entities], [there for _, there in entities]
    entity_threshold = MimoConfig().entity_threshold
    if _has_both(shown):
        entity_threshold = round(best_threshold(sigmoid(_logits(probabilities) / temperature), np.asarray(shown)), 4)
    elif _has_both(present):
        notes.append(
            f"no entity is present in one image and absent in another, so the entity threshold stays {entity_threshold:g}"
        )
    rows = [row for row in overlaps if row.score is not None]
    presence = sigmoid(_logits([row.presence for row in rows]) / temperature)
    scores = presence * np.array([row.predicted_iou for row in rows])
    dices = np.where(presence >= threshold, [row.dice for row in rows], 0.0)
    chosen = choose_threshold(scores, dices, set_weights([row.set_name for row in rows]), risk)
    return Thresholds(threshold, temperature, entity_threshold, chosen, len(rows), notes=tuple(notes))


def _presence_scale(logits: np.ndarray, present: np.ndarray) -> tuple[float, float, list[str]]:
    """Temperature, presence threshold, and notes on them."""
    if not _has_both(present):
        temperature, threshold = MimoConfig().presence_temperature, MimoConfig().presence_threshold
        return temperature, threshold, [
            "the prompts by name have no absent target, so presence threshold and temperature keep the defaults, "
            f"{threshold:g} and {temperature:g}; add images without the target (classes {{}}), or a data set of other classes"
        ]  # fmt: skip
    temperature, notes = best_temperature(logits, present), []
    low, high = TEMPERATURES[0], TEMPERATURES[-1]
    if temperature in (low, high):
        notes.append(
            f"the best temperature, {temperature:g}, is the edge of the range ({low:g} to {high:g}), so presence is not "
            "calibrated: the prompts are too few, or all right, or all wrong; use more images"
        )
    temperature = round(temperature, 4)
    return temperature, round(best_threshold(sigmoid(logits / temperature), present), 4), notes


def _has_both(present: Sequence[bool] | np.ndarray) -> bool:
    """Whether some are present and some are absent."""
    return any(present) and not all(present)


def without_thresholds(mimo: Mimo) -> Mimo:
    """The same model without presence and abstention thresholds; its presence is the sigmoid of the bare logit."""
    config = replace(mimo.config, presence_threshold=0.0, presence_temperature=1.0, entity_threshold=0.0, abstain_threshold=0.0)
    return Mimo(config, mimo.engines, mimo.tokenizer, mimo.info, cache_images=0)


def _logits(probabilities: Sequence[float]) -> np.ndarray:
    p = np.clip(np.asarray(probabilities, float), 1e-7, 1 - 1e-7)
    return np.log(p / (1 - p))
