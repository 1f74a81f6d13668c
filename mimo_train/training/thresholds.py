"""Thresholds that are chosen on ``val``: presence, abstention and the crop pass.

Temperature scaling after Guo et al. 2017, arXiv:1706.04599; abstention after Geifman and El-Yaniv 2017, arXiv:1705.08500.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TypedDict

import numpy as np

from mimo_runtime.data.dataset import Dataset, check_records, for_model
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.accuracy import Measurements, measure
from mimo_runtime.evaluation.confidence import Choice, choose_threshold, set_weights
from mimo_runtime.evaluation.questions import AbsentNames, chosen_records
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.pipeline import Mimo
from mimo_runtime.postprocessing.masks import sigmoid
from mimo_runtime.text.questions import EVERYTHING
from mimo_runtime.utils.atomic import atomic_write_bytes

from ..checkpoint import CONFIG

#: Probabilities, and whether each entity is in the image.
Entities = tuple[Sequence[float], Sequence[bool]]
#: Called with (done, in all).
Progress = Callable[[int, int], None]

TEMPERATURES = np.geomspace(0.25, 8.0, 121)
#: Tried scales of the crop; 0 leaves the crop pass out.
CROP_SCALES = (0.0, 2.5, 3.5, 5.0)
#: Required gain in mean Dice, because the crop pass takes as long as another image.
CROP_PASS_GAIN = 0.002
#: Images per set, and prompts, on which the gain is measured.
CROP_PASS_LIMIT, CROP_PASS_PROMPTS = 12, ("box", "point", "mask", "text")
#: Tried weights of the full-image pass in the mask of the crop pass; they cost no time.
FULL_IMAGE_WEIGHTS = (0.0, 0.15, 0.3, 0.45)
#: Evaluations that the search over both takes at most.
CROP_SCALE_TRIALS = len(CROP_SCALES) + len(FULL_IMAGE_WEIGHTS) - 1


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


def choose_thresholds(measured: Measurements, risk: float, entities: Entities = ((), ())) -> Thresholds:
    """Choose presence threshold, temperature, entity threshold and abstention threshold.

    Temperature and presence threshold are chosen on the prompts by name, the only ones whose target may be absent. The
    abstention threshold is chosen on all prompts, with the same weight for every set. Scores and masks are those of the new
    temperature and presence threshold: a finding below the threshold has no mask. A value keeps the default of a new model
    where the data has only present or only absent targets; ``notes`` say so.

    Args:
        measured: of a model :func:`without_thresholds`.
        risk: mean ``1 - Dice`` of confident findings that is still acceptable.
        entities: see :func:`entity_presences`; without any, the entity threshold is the default.
    """
    logits = _logits([p.probability for p in measured.presences])
    present = np.array([p.kind == "present" for p in measured.presences])
    temperature, threshold, notes = _presence_scale(logits, present)
    probabilities, shown = entities
    entity_threshold = MimoConfig().entity_threshold
    if _has_both(shown):
        entity_threshold = round(best_threshold(sigmoid(_logits(probabilities) / temperature), np.asarray(shown)), 4)
    elif _has_both(present):
        notes.append(
            f"no entity is present in one image and absent in another, so the entity threshold stays {entity_threshold:g}"
        )
    rows = [row for row in measured.overlaps if row.score is not None]
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


def entity_presences(
    mimo: Mimo, datasets: Sequence[Dataset], split: str, limit: int | None, seed: int, progress: Progress | None = None
) -> Entities:
    """Presence probability of every entity in every image whose annotation decides its presence, and that presence.

    Args:
        mimo: see :func:`without_thresholds`.
        progress: called with (images done, images in all).
    """
    # A threshold above 1 draws no mask: a mask per entity and image would take minutes, and only the presence is used.
    config = replace(mimo.config, presence_threshold=2.0)
    no_masks = Mimo(config, mimo.engines, mimo.tokenizer, cache_images=0)
    names, probabilities, shown = AbsentNames(datasets), [], []
    records = list(chain.from_iterable(chosen_records(data, split, limit, seed) for data in datasets))
    for done, record in enumerate(records, 1):
        pixels, labels = record.load()
        # Names are compared without case, as AbsentNames does.
        present = {name.casefold() for i, name in record.classes.items() if (labels == i).any()}
        absent = {name.casefold() for part in names.of(record) for name in part}
        for finding in no_masks.open(pixels).ask(EVERYTHING, text_answer=False).findings:
            if finding.phrase.casefold() in present | absent:
                probabilities.append(finding.presence)
                shown.append(finding.phrase.casefold() in present)
        if progress:
            progress(done, len(records))
    return probabilities, shown


def choose_crop_scale(
    mimo: Mimo, datasets: Sequence[Dataset], split: str, limit: int | None, seed: int, progress: Progress | None = None
) -> tuple[float, float]:
    """The ``crop_scale`` with the best mean Dice over sets and prompts, and for it the best ``full_image_weight``.

    Both are 0 where the crop pass gains less than :data:`CROP_PASS_GAIN`.

    Args:
        mimo: see :func:`without_thresholds`.
        limit: at most this many images per set, and at most :data:`CROP_PASS_LIMIT`.
        progress: called with (images done, images in all); an image counts once for each trial.
    """
    limit, trials = _crop_pass_limit(limit), iter(range(CROP_SCALE_TRIALS))

    def advance(number: int) -> Progress | None:
        return progress and (lambda done, images: progress(number * images + done, CROP_SCALE_TRIALS * images))

    def dice(scale: float, weight: float) -> float:
        config = replace(mimo.config, crop_scale=scale, full_image_weight=weight)
        candidate = Mimo(config, mimo.engines, mimo.tokenizer, cache_images=1)
        measured = measure(
            candidate, datasets, split, prompts=CROP_PASS_PROMPTS, limit=limit, seed=seed, text=False,
            progress=advance(next(trials)),
        )  # fmt: skip
        groups: dict[tuple[str, str], list[float]] = {}
        for row in measured.overlaps:
            if row.prompt in CROP_PASS_PROMPTS:
                groups.setdefault((row.prompt, row.set_name), []).append(row.dice)
        return float(np.mean([np.mean(values) for values in groups.values()])) if groups else 0.0

    first, *weights = FULL_IMAGE_WEIGHTS
    by_scale = {scale: dice(scale, first) for scale in CROP_SCALES}
    best = max(by_scale, key=lambda scale: by_scale[scale])
    if not best:
        return 0.0, 0.0
    by_weight = {first: by_scale[best], **{weight: dice(best, weight) for weight in weights}}
    weight = max(by_weight, key=lambda weight: by_weight[weight])
    return (best, weight) if by_weight[weight] >= by_scale[0.0] + CROP_PASS_GAIN else (0.0, 0.0)


def _crop_pass_limit(limit: int | None) -> int:
    return CROP_PASS_LIMIT if limit is None else min(limit, CROP_PASS_LIMIT)


def without_thresholds(mimo: Mimo) -> Mimo:
    """The same model without presence and abstention thresholds; its presence is the sigmoid of the bare logit."""
    config = replace(mimo.config, presence_threshold=0.0, presence_temperature=1.0, entity_threshold=0.0, abstain_threshold=0.0)
    return Mimo(config, mimo.engines, mimo.tokenizer, mimo.info, cache_images=0)


def tune_thresholds(
    checkpoint: Path,
    mimo: Mimo,
    datasets: Sequence[Dataset],
    split: str,
    *,
    risk: float = 0.1,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Thresholds:
    """Choose crop scale, full-image weight and all thresholds on ``split``, and store them in the checkpoint's ``config.json``.

    ``mimo`` itself is not changed.

    Args:
        risk: see :func:`choose_thresholds`.
        limit: at most this many images per set, drawn with ``seed``.
        progress: called with (images done, images in all); an image counts once for each evaluation.

    Raises:
        RequestError: empty split, a split without a target, or an image that cannot be read. All images are read before the
            first evaluation.
    """
    datasets = for_model(datasets, mimo)
    records = list(chain.from_iterable(chosen_records(data, split, limit, seed) for data in datasets))
    check_records(records)
    images = len(records)
    crop_images = sum(len(chosen_records(data, split, _crop_pass_limit(limit), seed)) for data in datasets)
    crop_work = CROP_SCALE_TRIALS * crop_images

    def after(before: int) -> Progress | None:
        return progress and (lambda done, _: progress(before + done, crop_work + 2 * images))

    bare = without_thresholds(mimo)
    scale, weight = choose_crop_scale(bare, datasets, split, limit, seed, after(0))
    config = replace(bare.config, crop_scale=scale, full_image_weight=weight)
    bare = Mimo(config, bare.engines, bare.tokenizer, bare.info, cache_images=0)
    measured = measure(bare, datasets, split, limit=limit, seed=seed, progress=after(crop_work), text=False)
    if not measured.overlaps:
        raise RequestError(f"no image in split '{split}' shows a target", "Choose another split or data set, or more images")
    entities = entity_presences(bare, datasets, split, limit, seed, after(crop_work + images))
    chosen = replace(choose_thresholds(measured, risk, entities), crop_scale=scale, full_image_weight=weight)
    _store(Path(checkpoint), mimo.config, chosen)
    return chosen


def _store(checkpoint: Path, config: MimoConfig, chosen: Thresholds) -> None:
    config = replace(
        config,
        presence_threshold=chosen.presence_threshold,
        presence_temperature=chosen.presence_temperature,
        entity_threshold=chosen.entity_threshold,
        abstain_threshold=chosen.abstention.threshold,
        crop_scale=chosen.crop_scale,
        full_image_weight=chosen.full_image_weight,
    )
    atomic_write_bytes(checkpoint / CONFIG, (json.dumps(config.to_dict(), indent=2) + "\n").encode())


def _logits(probabilities: Sequence[float]) -> np.ndarray:
    p = np.clip(np.asarray(probabilities, float), 1e-7, 1 - 1e-7)
    return np.log(p / (1 - p))
