"""How much a model's masks depend on imprecise prompts, image corruptions, orientation and wording.

All conditions of a group ask about the same targets of the same images with the same random numbers, so that its rows are
paired. Each is compared with the clean condition of its group, which comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypedDict

import numpy as np

from mimo_runtime.data.dataset import Dataset, Record, check_records, for_model
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation import metrics
from mimo_runtime.evaluation.questions import chosen_records, engine_names, model_id_of
from mimo_runtime.pipeline import Mimo

from .conditions import CONDITIONS, GEOMETRY, JITTER, LIMIT, OFFSET, PROMPTS, USUAL_JITTER, ImageConditions, Sample, Wording
from .corruptions import ROTATIONS


class ConditionRow(TypedDict, total=False):
    """One condition and prompt: Dice and its paired difference to the clean condition, with 95 % intervals over cases.

    ``level`` is the jitter in percent or the offset in pixels, ``baseline_dice`` that of the ellipse in the same box,
    ``left_target`` the share of points beside the target; each only where it applies.
    """

    name: str
    prompt: str
    level: int
    dice: float
    ci95: list[float]
    delta: float
    delta_ci95: list[float]
    n: int
    baseline_dice: float
    left_target: float
    sets: dict[str, dict[str, float]]


#: ``class`` is a keyword.
SynonymRow = TypedDict("SynonymRow", {"class": str, "synonym": str, "dice": float, "delta": float, "n": int})


class LeftOut(TypedDict):
    """The classes that a mirror leaves out."""

    prompt: str
    classes: list[str]


class RobustnessMeta(TypedDict):
    """``skipped``: the classes that a condition leaves out. ``refused_questions``: wordings that were too long for the
    model, or that it refused. Such a wording counts as an empty mask.
    """

    split: str
    images: int
    images_per_set: dict[str, int]
    limit: int | None
    seed: int
    usual_jitter_percent: int
    skipped: dict[str, LeftOut]
    refused_questions: int
    model: str | None
    engine: str | None


class TurnedLoss(TypedDict):
    """The orientation that costs most by name: Dice there is ``loss`` below that of the upright image."""

    condition: str
    dice: float
    loss: float
    loss_ci95: list[float]
    n: int


class Robustness(TypedDict):
    """The JSON of ``mimo-bench robustness``.

    Args:
        conditions: rows by measured group. ``dice`` is the mean over sets of the mean over targets. ``delta`` is the same of
            the difference to the clean condition of the same target. Conditions without a sample are missing.
        synonyms: each against the name, means over images.
        turned: None without the group of orientations.
    """

    conditions: dict[str, list[ConditionRow]]
    synonyms: list[SynonymRow]
    turned: TurnedLoss | None
    meta: RobustnessMeta


def measure_robustness(
    mimo: Mimo,
    datasets: Sequence[Dataset],
    split: str,
    *,
    groups: Collection[str] = tuple(CONDITIONS),
    limit: int | None = LIMIT,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Mean Dice under every condition, and its mean paired difference to the clean one.

    The targets of boxes and points are classes, or a seeded few of the instances where a class has five or more in an image.
    The target of a text is the whole class. Only masks are requested.

    Args:
        groups: keys of :data:`CONDITIONS` to measure.
        limit: at most this many images per set, drawn with ``seed``; None takes all.
        progress: called with (images done, images in all).

    Raises:
        RequestError: empty split, no image with a target, or an image that cannot be read. All images are read before the
            first question.
    """
    datasets = for_model(datasets, mimo)
    records = _records_with_targets(datasets, split, limit, seed)
    samples: list[Sample] = []
    wordings: list[Wording] = []
    skipped: set[tuple[str, str]] = set()
    refused = 0
    for done, (data, record) in enumerate(records):
        if progress:
            progress(done, len(records))
        image = ImageConditions(mimo, data, record, seed)
        samples += image.samples(groups)
        wordings += image.wordings
        skipped |= image.skipped
        refused += image.refused
    if progress:
        progress(len(records), len(records))
    if not samples:
        raise RequestError(f"no image in split '{split}' shows a target", "Choose another split or data set, or more images")
    meta: RobustnessMeta = {
        "split": split,
        "images": len(records),
        "images_per_set": {d.name: sum(1 for o, _ in records if o is d) for d in datasets},
        "limit": limit,
        "seed": seed,
        "usual_jitter_percent": USUAL_JITTER,
        "skipped": _left_out(skipped),
        "refused_questions": refused,
        "model": model_id_of(mimo),
        "engine": engine_names(mimo),
    }
    conditions = {group: rows for group, rows in summarise(samples, seed).items() if group in groups}
    turned = largest_loss(conditions.get(GEOMETRY, ()))
    return {"conditions": conditions, "synonyms": _per_synonym(wordings), "turned": turned, "meta": meta}


def largest_loss(rows: Sequence[ConditionRow]) -> TurnedLoss | None:
    """The turned or mirrored condition with the largest loss by name; None without one."""
    named = [row for row in rows if row["prompt"] == "text" and row["name"] in ROTATIONS]
    if not named:
        return None
    row = min(named, key=lambda row: row["delta"])
    low, high = row["delta_ci95"]
    return {"condition": row["name"], "dice": row["dice"], "loss": -row["delta"], "loss_ci95": [-high, -low], "n": row["n"]}


def _left_out(skipped: set[tuple[str, str]]) -> dict[str, LeftOut]:
    """Pairs of condition and class, as classes by condition."""
    classes = {mirror: sorted(name for of, name in skipped if of == mirror) for mirror in ROTATIONS}
    return {mirror: {"prompt": "text", "classes": names} for mirror, names in classes.items() if names}


def _records_with_targets(
    datasets: Sequence[Dataset], split: str, limit: int | None, seed: int
) -> list[tuple[Dataset, Record]]:
    chosen = [(data, record) for data in datasets for record in chosen_records(data, split, limit, seed)]
    if not chosen:
        raise RequestError(f"no image in split '{split}'", "Choose another split or data set")
    # Negative images have nothing to compare with a truth.
    records = [(data, record) for data, record in chosen if record.classes]
    check_records(record for _, record in records)
    return records


def summarise(samples: Sequence[Sample], seed: int = 0) -> dict[str, list[ConditionRow]]:
    """``conditions`` of :func:`measure_robustness`, prompt by prompt in the order of :data:`CONDITIONS`.

    Raises:
        KeyError: a target has no sample under the clean condition of its group.
    """
    clean = {s.pair: s.dice for s in samples if s.condition == CONDITIONS[s.group][0]}
    groups: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.group, sample.prompt, sample.condition), []).append(sample)
    return {
        group: [
            _row(groups[group, prompt, name], clean, seed)
            for prompt in PROMPTS
            for name in names
            if (group, prompt, name) in groups
        ]
        for group, names in CONDITIONS.items()
    }


def _row(samples: Sequence[Sample], clean: dict[tuple[str, ...], float], seed: int) -> ConditionRow:
    group, name, prompt = samples[0][:3]
    row: ConditionRow = {"name": name, "prompt": prompt}
    if group in (JITTER, OFFSET):
        row["level"] = int(name.split()[0])
    sets: dict[str, list[Sample]] = {}
    for sample in samples:
        sets.setdefault(sample.set_name, []).append(sample)
    dices = {of: [s.dice for s in own] for of, own in sets.items()}
    deltas = {of: [s.dice - clean[s.pair] for s in own] for of, own in sets.items()}
    cases = {of: [s.case or s.image for s in own] for of, own in sets.items()}
    row["dice"], row["ci95"] = metrics.mean_over_sets(dices, cases, seed)
    row["delta"], row["delta_ci95"] = metrics.mean_over_sets(deltas, cases, seed)
    row["n"] = len(samples)
    if group == JITTER:
        row["baseline_dice"] = _mean({of: [s.ellipse for s in own] for of, own in sets.items()})
    if group == OFFSET:
        row["left_target"] = _mean({of: [s.off_target for s in own] for of, own in sets.items()})
    row["sets"] = {
        of: {"dice": float(np.mean(dices[of])), "delta": float(np.mean(deltas[of])), "n": len(own)} for of, own in sets.items()
    }
    return row


def _mean(values: dict[str, list[float]]) -> float:
    """The mean over sets of the means over targets."""
    return float(np.mean([np.mean(v) for v in values.values()]))


def _per_synonym(wordings: Sequence[Wording]) -> list[SynonymRow]:
    pairs: dict[tuple[str, str], list[Wording]] = {}
    for wording in wordings:
        pairs.setdefault(wording[:2], []).append(wording)
    return [
        {
            "class": name,
            "synonym": synonym,
            "dice": float(np.mean([w.dice for w in own])),
            "delta": float(np.mean([w.delta for w in own])),
            "n": len(own),
        }
        for (name, synonym), own in sorted(pairs.items())
    ]
