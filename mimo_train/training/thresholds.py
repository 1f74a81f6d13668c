"""What is chosen on ``val``: confidence that means something (a temperature, what counts as present and what is doubted), and
whether small targets are looked at more closely.

Temperature scaling after Guo et al. 2017, arXiv:1706.04599; abstention after Geifman and El-Yaniv 2017, arXiv:1705.08500.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mimo_runtime.data.dataset import Dataset, check_records
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

#: Probabilities, and whether each entity is there.
Entities = tuple[Sequence[float], Sequence[bool]]
#: Called with (done, in all).
Progress = Callable[[int, int], None]

TEMPERATURES = np.geomspace(0.25, 8.0, 121)
#: Tried for the closer look; 0 is none.
CROP_SCALES = (0.0, 2.5, 3.5, 5.0)
#: What it must gain in mean Dice, since it takes the time of another image ...
CROP_PASS_GAIN = 0.002
#: ... measured on so many images per set, with these prompts.
CLOSER_LIMIT, CLOSER_PROMPTS = 12, ("box", "point", "mask", "text")
#: Tried for the share of the first look in what is drawn from near; it costs no time.
FULL_IMAGE_WEIGHTS = (0.0, 0.15, 0.3, 0.45)
#: Evaluations that the two take at most.
CROP_SCALE_TRIALS = len(CROP_SCALES) + len(FULL_IMAGE_WEIGHTS) - 1


@dataclass(frozen=True)
class Thresholds:
    """What was chosen, and what the abstention threshold does on the split it was chosen on."""

    presence_threshold: float
    presence_temperature: float
    entity_threshold: float
    abstention: Choice
    #: Findings that the abstention threshold was chosen on.
    findings: int
    #: See ``MimoConfig.closer_factor``.
    crop_scale: float = 0.0
    #: See ``MimoConfig.first_share``.
    full_image_weight: float = 0.0
    #: What could not be chosen, and why.
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
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

    def sentences(self, wanted: float) -> str:
        """For a person."""
        chosen = self.abstention
        told = (
            f"presence threshold {self.presence_threshold:.3f}, temperature {self.presence_temperature:.3f}, "
            f"threshold of what nobody named {self.entity_threshold:.3f}\n"
            f"abstention threshold {chosen.threshold:.3f}: keeps {100 * chosen.coverage:.0f} % of {self.findings} findings "
            f"at a risk of {chosen.risk:.3f}\n"
            + (f"small targets: drawn again on {self.closer_factor:g} times their length, the first look counts "
               f"{self.first_share:g}" if self.crop_scale else
               "small targets: no closer look, it gains nothing (mimo-train fit --closer trains it)")
        )  # fmt: skip
        if not chosen.reached:
            told += f". No threshold that keeps half of the findings reaches {wanted:g}; this one comes nearest."
        return "\n".join((told, *(f"Note: {note}." for note in self.notes)))


def best_temperature(logits: np.ndarray, present: np.ndarray) -> float:
    """The temperature of least negative log-likelihood; logits [N], present [N] bool."""
    sign = np.where(present, 1.0, -1.0)
    losses = [np.logaddexp(0.0, -sign * logits / t).mean() for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def best_threshold(probabilities: np.ndarray, present: np.ndarray) -> float:
    """The threshold with the best F1 of "absent" plus F1 of "present": neither kind of mistake is bought with the other."""
    order = np.sort(np.unique(probabilities))
    candidates = np.concatenate(([0.5], (order[1:] + order[:-1]) / 2))
    scores = []
    for threshold in candidates:
        said = probabilities >= threshold
        f1 = [
            2 * np.sum(said & present) / max(1, said.sum() + present.sum()),
            2 * np.sum(~said & ~present) / max(1, (~said).sum() + (~present).sum()),
        ]
        scores.append(sum(f1))
    best = np.flatnonzero(np.asarray(scores) >= max(scores) - 1e-9)
    # Of equals, the one nearest to an undecided 0.5.
    return float(candidates[best[np.argmin(np.abs(candidates[best] - 0.5))]])


def choose_thresholds(measured: Measurements, risk: float, entities: Entities = ((), ())) -> Thresholds:
    """Choose all four numbers from the answers of an :func:`undecided` model.

    Temperature and threshold are chosen on the questions by name, the only ones whose answer may be "it is not there". The
    abstention threshold is chosen on all prompts, every set with the same weight, for scores and masks as the other two make
    them: a finding below the presence threshold will have no mask. Where nothing absent could be asked for, no temperature is
    the best and every threshold is right: both stay those of a new model, as does the threshold of what nobody named where it
    is not known of any entity both that it is there and that it is not. ``notes`` say so.

    Args:
        risk: mean ``1 - Dice`` of confident findings that is still acceptable.
        entities: see :func:`entity_presences`; without any, the threshold of what nobody named is that of a new model.
    """
    logits = _logits([p.probability for p in measured.presences])
    present = np.array([p.kind == "present" for p in measured.presences])
    temperature, threshold, notes = _presence_scale(logits, present)
    probabilities, there = entities
    entity_threshold = MimoConfig().entity_threshold
    if _both(there):
        entity_threshold = round(best_threshold(sigmoid(_logits(probabilities) / temperature), np.asarray(there)), 4)
    elif _both(present):
        told = "no entity is known both to be there and not to be, so the threshold of what nobody named stays"
        notes.append(f"{told} {entity_threshold:g}")
    rows = [row for row in measured.overlaps if row.score is not None]
    presence = sigmoid(_logits([row.presence for row in rows]) / temperature)
    scores = presence * np.array([row.predicted_iou for row in rows])
    dices = np.where(presence >= threshold, [row.dice for row in rows], 0.0)
    chosen = choose_threshold(scores, dices, set_weights([row.set_name for row in rows]), risk)
    return Thresholds(threshold, temperature, entity_threshold, chosen, len(rows), notes=tuple(notes))


def _presence_scale(logits: np.ndarray, present: np.ndarray) -> tuple[float, float, list[str]]:
    """Temperature, presence threshold, and notes on them."""
    if not _both(present):
        temperature, threshold = MimoConfig().presence_temperature, MimoConfig().presence_threshold
        return temperature, threshold, [
            "nothing that is absent could be asked for, so presence threshold and temperature stay those of a new model, "
            f"{threshold:g} and {temperature:g}; add images without the target (classes {{}}), or a data set of other classes"
        ]  # fmt: skip
    temperature, notes = best_temperature(logits, present), []
    low, high = TEMPERATURES[0], TEMPERATURES[-1]
    if temperature in (low, high):
        notes.append(
            f"the best temperature, {temperature:g}, is the edge of what is tried ({low:g} to {high:g}), so presence is not "
            "calibrated: these questions are too few, or all right, or all wrong; calibrate on more images"
        )
    temperature = round(temperature, 4)
    return temperature, round(best_threshold(sigmoid(logits / temperature), present), 4), notes


def _both(there: Sequence[bool] | np.ndarray) -> bool:
    """Whether some are there and some are not."""
    return any(there) and not all(there)


def entity_presences(
    mimo: Mimo, datasets: Sequence[Dataset], split: str, limit: int | None, seed: int, progress: Progress | None = None
) -> Entities:
    """Presence probability of every entity in every image where it is known whether it is there, and whether it is.

    Args:
        mimo: see :func:`undecided`.
        progress: called with (images done, images in all).
    """
    # Nothing is drawn: a mask per entity and image would take minutes, and only the presence is looked at.
    asked = Mimo(replace(mimo.config, presence_threshold=2.0), mimo.engines, mimo.tokenizer, cache_images=0)
    names, probabilities, there = AbsentNames(datasets), [], []
    records = list(chain.from_iterable(chosen_records(data, split, limit, seed) for data in datasets))
    for done, record in enumerate(records, 1):
        pixels, labels = record.load()
        # Case makes no other name (AbsentNames).
        present = {name.casefold() for i, name in record.classes.items() if (labels == i).any()}
        absent = {name.casefold() for part in names.of(record) for name in part}
        for finding in asked.open(pixels).ask(EVERYTHING, text_answer=False).findings:
            if finding.phrase.casefold() in present | absent:
                probabilities.append(finding.presence)
                there.append(finding.phrase.casefold() in present)
        if progress:
            progress(done, len(records))
    return probabilities, there


def choose_crop_scale(
    mimo: Mimo, datasets: Sequence[Dataset], split: str, limit: int | None, seed: int, progress: Progress | None = None
) -> tuple[float, float]:
    """The ``closer_factor`` with the best mean Dice over sets and prompts, and for it the best ``first_share``; 0 and 0 where
    the two do not gain :data:`CLOSER_GAIN`.

    Args:
        mimo: see :func:`undecided`.
        limit: at most this many images per set, and at most :data:`CLOSER_LIMIT`.
        progress: called with (images done, images in all); an image counts once for each thing that may be tried.
    """
    limit, tries = _few(limit), iter(range(CROP_SCALE_TRIALS))

    def advance(number: int) -> Progress | None:
        return progress and (lambda done, images: progress(number * images + done, CROP_SCALE_TRIALS * images))

    def dice(factor: float, share: float) -> float:
        config = replace(mimo.config, crop_scale=factor, full_image_weight=share)
        tried = Mimo(config, mimo.engines, mimo.tokenizer, cache_images=1)
        options = {"prompts": CLOSER_PROMPTS, "limit": limit, "seed": seed, "text": False}
        found = measure(tried, datasets, split, **options, progress=advance(next(tries)))
        groups: dict[tuple[str, str], list[float]] = {}
        for row in found.overlaps:
            if row.prompt in CLOSER_PROMPTS:
                groups.setdefault((row.prompt, row.set_name), []).append(row.dice)
        return float(np.mean([np.mean(values) for values in groups.values()])) if groups else 0.0

    first, *shares = FULL_IMAGE_WEIGHTS
    factors = {factor: dice(factor, first) for factor in CROP_SCALES}
    best = max(factors, key=lambda factor: factors[factor])
    if not best:
        return 0.0, 0.0
    tried = {first: factors[best], **{share: dice(best, share) for share in shares}}
    share = max(tried, key=lambda share: tried[share])
    return (best, share) if tried[share] >= factors[0.0] + CROP_PASS_GAIN else (0.0, 0.0)


def _few(limit: int | None) -> int:
    return CLOSER_LIMIT if limit is None else min(limit, CLOSER_LIMIT)


def undecided(mimo: Mimo) -> Mimo:
    """The same model, which draws what it does not believe in, and whose presence is that of the bare logit."""
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
    """Choose closer look and share of the first one, presence threshold and temperature, and the abstention threshold on
    ``split``, and store them in the checkpoint's ``config.json``.

    Args:
        risk: see :func:`choose_thresholds`.
        limit: at most this many images per set, drawn with ``seed``.
        progress: called with (images done, images in all); an image counts once for each time it may be asked about.

    Raises:
        RequestError: empty split, a split without a target, or an image that cannot be read. All images are read before the
            first question.
    """
    records = list(chain.from_iterable(chosen_records(data, split, limit, seed) for data in datasets))
    check_records(records)
    images, closer = len(records), CROP_SCALE_TRIALS * sum(len(chosen_records(d, split, _few(limit), seed)) for d in datasets)

    def after(before: int) -> Progress | None:
        return progress and (lambda done, _: progress(before + done, closer + 2 * images))

    raw = undecided(mimo)
    factor, share = choose_crop_scale(raw, datasets, split, limit, seed, after(0))
    config = replace(raw.config, crop_scale=factor, full_image_weight=share)
    raw = Mimo(config, raw.engines, raw.tokenizer, raw.info, cache_images=0)
    measured = measure(raw, datasets, split, limit=limit, seed=seed, progress=after(closer), text=False)
    if not measured.overlaps:
        raise RequestError(f"no image in split '{split}' shows a target", "Choose another split or data set, or more images")
    chosen = choose_thresholds(measured, risk, entity_presences(raw, datasets, split, limit, seed, after(closer + images)))
    chosen = replace(chosen, crop_scale=factor, full_image_weight=share)
    config = replace(
        mimo.config,
        presence_threshold=chosen.presence_threshold,
        presence_temperature=chosen.presence_temperature,
        entity_threshold=chosen.entity_threshold,
        abstain_threshold=chosen.abstention.threshold,
        crop_scale=factor,
        full_image_weight=share,
    )
    atomic_write_bytes(Path(checkpoint) / CONFIG, (json.dumps(config.to_dict(), indent=2) + "\n").encode())
    return chosen


def _logits(probabilities: Sequence[float]) -> np.ndarray:
    p = np.clip(np.asarray(probabilities, float), 1e-7, 1 - 1e-7)
    return np.log(p / (1 - p))
