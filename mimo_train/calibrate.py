"""What is chosen on ``val``: confidence that means something (a temperature, what counts as present and what is doubted), and
whether small targets are looked at more closely.

Temperature scaling after Guo et al. 2017, arXiv:1706.04599; abstention after Geifman and El-Yaniv 2017, arXiv:1705.08500.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mimo_runtime.atomic import atomic_write_bytes
from mimo_runtime.config import MimoConfig
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.confidence import Choice, choose_threshold, set_weights
from mimo_runtime.evaluation.dataset import Dataset
from mimo_runtime.evaluation.evaluate import AbsentNames, Measurements, chosen_records, measure
from mimo_runtime.evaluation.scene import EVERYTHING
from mimo_runtime.pipeline import Mimo
from mimo_runtime.postprocess import sigmoid

from .checkpoint import CONFIG

#: Probabilities, and whether each entity is there.
Entities = tuple[Sequence[float], Sequence[bool]]

TEMPERATURES = np.geomspace(0.25, 8.0, 121)
#: Tried for the closer look; 0 is none.
CLOSER_FACTORS = (0.0, 2.5, 3.5, 5.0)
#: What it must gain in mean Dice, since it takes the time of another image ...
CLOSER_GAIN = 0.002
#: ... measured on so many images per set, with these prompts.
CLOSER_LIMIT, CLOSER_PROMPTS = 12, ("box", "point", "mask", "text")
#: Tried for the share of the first look in what is drawn from near; it costs no time.
FIRST_SHARES = (0.0, 0.15, 0.3, 0.45)


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and what the abstention threshold does on the split it was chosen on."""

    presence_threshold: float
    presence_temperature: float
    entity_threshold: float
    abstention: Choice
    #: Findings that the abstention threshold was chosen on.
    findings: int
    #: See ``MimoConfig.closer_factor``.
    closer_factor: float = 0.0
    #: See ``MimoConfig.first_share``.
    first_share: float = 0.0

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
            "closer_factor": self.closer_factor,
            "first_share": self.first_share,
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
               f"{self.first_share:g}" if self.closer_factor else
               "small targets: no closer look, it gains nothing (mimo-train fit --closer trains it)")
        )  # fmt: skip
        if chosen.reached:
            return told
        return f"{told}. No threshold that keeps half of the findings reaches {wanted:g}; this one comes nearest."


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


def choose(measured: Measurements, risk: float, entities: Entities = ((), ())) -> Calibration:
    """Choose all four numbers from the answers of an :func:`undecided` model.

    Temperature and threshold are chosen on the questions by name, the only ones whose answer may be "it is not there". The
    abstention threshold is chosen on all prompts, every set with the same weight, for scores and masks as the other two make
    them: a finding below the presence threshold will have no mask.

    Args:
        risk: mean ``1 - Dice`` of confident findings that is still acceptable.
        entities: see :func:`entity_presences`; without any, the threshold of what nobody named is that of a new model.
    """
    logits = _logits([p.probability for p in measured.presences])
    present = np.array([p.kind == "present" for p in measured.presences])
    temperature = round(best_temperature(logits, present), 4)
    threshold = round(best_threshold(sigmoid(logits / temperature), present), 4)
    rows = [row for row in measured.overlaps if row.score is not None]
    presence = sigmoid(_logits([row.presence for row in rows]) / temperature)
    scores = presence * np.array([row.predicted_iou for row in rows])
    dices = np.where(presence >= threshold, [row.dice for row in rows], 0.0)
    chosen = choose_threshold(scores, dices, set_weights([row.set_name for row in rows]), risk)
    return Calibration(threshold, temperature, _entity_threshold(*entities, temperature), chosen, len(rows))


def _entity_threshold(probabilities: Sequence[float], there: Sequence[bool], temperature: float) -> float:
    if not any(there) or all(there):
        return MimoConfig().entity_threshold
    return round(best_threshold(sigmoid(_logits(probabilities) / temperature), np.asarray(there)), 4)


def entity_presences(mimo: Mimo, datasets: Sequence[Dataset], split: str, limit: int | None, seed: int) -> Entities:
    """Presence probability of every entity in every image where it is known whether it is there, and whether it is.

    Args:
        mimo: see :func:`undecided`.
    """
    # Nothing is drawn: a mask per entity and image would take minutes, and only the presence is looked at.
    asked = Mimo(replace(mimo.config, presence_threshold=2.0), mimo.engines, mimo.tokenizer, cache_images=0)
    names, probabilities, there = AbsentNames(datasets), [], []
    for data in datasets:
        for record in chosen_records(data, split, limit, seed):
            pixels, labels = record.load()
            present = {name for i, name in record.classes.items() if (labels == i).any()}
            absent = {name for part in names.of(record) for name in part}
            for finding in asked.open(pixels).ask(EVERYTHING, text_answer=False).findings:
                if finding.phrase in present | absent:
                    probabilities.append(finding.presence)
                    there.append(finding.phrase in present)
    return probabilities, there


def choose_closer(mimo: Mimo, datasets: Sequence[Dataset], split: str, limit: int | None, seed: int) -> tuple[float, float]:
    """The ``closer_factor`` with the best mean Dice over sets and prompts, and for it the best ``first_share``; 0 and 0 where
    the two do not gain :data:`CLOSER_GAIN`.

    Args:
        mimo: see :func:`undecided`.
        limit: at most this many images per set, and at most :data:`CLOSER_LIMIT`.
    """
    limit = CLOSER_LIMIT if limit is None else min(limit, CLOSER_LIMIT)

    def dice(factor: float, share: float) -> float:
        config = replace(mimo.config, closer_factor=factor, first_share=share)
        tried = Mimo(config, mimo.engines, mimo.tokenizer, cache_images=1)
        found = measure(tried, datasets, split, prompts=CLOSER_PROMPTS, limit=limit, seed=seed, text=False)
        groups: dict[tuple[str, str], list[float]] = {}
        for row in found.overlaps:
            if row.prompt in CLOSER_PROMPTS:
                groups.setdefault((row.prompt, row.set_name), []).append(row.dice)
        return float(np.mean([np.mean(values) for values in groups.values()])) if groups else 0.0

    first, *shares = FIRST_SHARES
    factors = {factor: dice(factor, first) for factor in CLOSER_FACTORS}
    best = max(factors, key=lambda factor: factors[factor])
    if not best:
        return 0.0, 0.0
    tried = {first: factors[best], **{share: dice(best, share) for share in shares}}
    share = max(tried, key=lambda share: tried[share])
    return (best, share) if tried[share] >= factors[0.0] + CLOSER_GAIN else (0.0, 0.0)


def undecided(mimo: Mimo) -> Mimo:
    """The same model, which draws what it does not believe in, and whose presence is that of the bare logit."""
    config = replace(mimo.config, presence_threshold=0.0, presence_temperature=1.0, entity_threshold=0.0, abstain_threshold=0.0)
    return Mimo(config, mimo.engines, mimo.tokenizer, mimo.info, cache_images=0)


def calibrate(
    checkpoint: Path,
    mimo: Mimo,
    datasets: Sequence[Dataset],
    split: str,
    *,
    risk: float = 0.1,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Choose closer look and share of the first one, presence threshold and temperature, and the abstention threshold on
    ``split``, and store them in the checkpoint's ``config.json``.

    Args:
        risk: see :func:`choose`.
        limit: at most this many images per set, drawn with ``seed``.

    Raises:
        RequestError: empty split, a split without a target, or an image that cannot be read.
    """
    raw = undecided(mimo)
    factor, share = choose_closer(raw, datasets, split, limit, seed)
    config = replace(raw.config, closer_factor=factor, first_share=share)
    raw = Mimo(config, raw.engines, raw.tokenizer, raw.info, cache_images=0)
    measured = measure(raw, datasets, split, limit=limit, seed=seed, progress=progress, text=False)
    if not measured.overlaps:
        raise RequestError(f"no image in split '{split}' shows a target", "Choose another split or data set, or more images")
    chosen = choose(measured, risk, entity_presences(raw, datasets, split, limit, seed))
    chosen = replace(chosen, closer_factor=factor, first_share=share)
    config = replace(
        mimo.config,
        presence_threshold=chosen.presence_threshold,
        presence_temperature=chosen.presence_temperature,
        entity_threshold=chosen.entity_threshold,
        abstain_threshold=chosen.abstention.threshold,
        closer_factor=factor,
        first_share=share,
    )
    atomic_write_bytes(Path(checkpoint) / CONFIG, (json.dumps(config.to_dict(), indent=2) + "\n").encode())
    return chosen


def _logits(probabilities: Sequence[float]) -> np.ndarray:
    p = np.clip(np.asarray(probabilities, float), 1e-7, 1 - 1e-7)
    return np.log(p / (1 - p))
