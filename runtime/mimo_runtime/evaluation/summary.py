"""From single measurements to the ``accuracy`` JSON of docs/reference/json.md."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from . import metrics
from .results import AbsentPart, BaselineSummary, BoxGain, Difference, MaskResult, MaskSummary, Means, PresenceResult

PROMPTS = ("box", "point", "mask", "text", "text+box", "absent")
MASK_PROMPTS = PROMPTS[:-1]
BASELINES = ("ellipse", "input_mask")
TEXT_SLOTS = ("finding", "modality", "location", "size", "count")


class ContourCheck(NamedTuple):
    """The contours of one finding against the truth."""

    inner_holds: bool
    outer_holds: bool
    #: Pixels of the contours as shares of those of the mask.
    inner_area: float
    outer_area: float


class Overlap(NamedTuple):
    """One mask against the truth. ``prompt`` may be a baseline, which has no score."""

    set_name: str
    class_name: str
    prompt: str
    image: str
    dice: float
    iou: float
    #: Of the target among those of its class in the image that are asked for.
    number: int = 0
    #: The target's share of the image.
    area_share: float = 0.0
    modality: str = ""
    #: ``name=value`` of the image's attributes that make subgroups.
    attributes: tuple[str, ...] = ()
    #: Of the finding, with its two factors; see ``mimo_runtime.results.answer.Finding``.
    score: float | None = None
    presence: float | None = None
    predicted_iou: float | None = None
    #: Whether the answer has a mask that is not empty.
    drawn: bool = False
    #: Whose image it is; what intervals resample. Images of no case are cases of their own.
    case: str = ""
    #: Of a finding with contours.
    contours: ContourCheck | None = None


class Presence(NamedTuple):
    """One question by class name. ``kind`` is "present", "within" (absent class of the set) or "across" (of another set)."""

    set_name: str
    kind: str
    said_present: bool
    probability: float
    class_name: str = ""
    #: As in :class:`Overlap`, or the image.
    case: str = ""
    #: Whether the answer calls the structure absent with the stated miss rate.
    excluded: bool = False


def summarise_overlaps(overlaps: Sequence[Overlap], seed: int = 0) -> MaskResult:
    """``sets``, ``macro`` (mean over sets), ``baselines``, ``box_gain`` (likewise), ``per_class``."""
    rows: dict[str, list[Overlap]] = {}
    classes: dict[tuple[str, str, str], list[Overlap]] = {}
    for row in overlaps:
        rows.setdefault(row.prompt, []).append(row)
        classes.setdefault((row.set_name, row.class_name, row.prompt), []).append(row)
    sets: dict[str, dict[str, MaskSummary]] = {}
    macro: dict[str, MaskSummary] = {}
    baselines: dict[str, BaselineSummary] = {}
    for prompt in (p for p in (*MASK_PROMPTS, *BASELINES) if p in rows):
        summaries, overall = over_sets(rows[prompt], seed)
        if prompt in BASELINES:
            baselines[prompt] = {**overall, "sets": summaries}
        else:
            macro[prompt] = overall
            for set_name, summary in summaries.items():
                sets.setdefault(set_name, {})[prompt] = summary
    per_class: dict[str, dict[str, dict[str, Means]]] = {}
    for (set_name, class_name, prompt), of_class in classes.items():
        per_class.setdefault(set_name, {}).setdefault(class_name, {})[prompt] = _means(of_class)
    gain = _box_gain(rows.get("box", ()), rows.get("ellipse", ()), seed)
    return {"sets": sets, "macro": macro, "baselines": baselines, "box_gain": gain, "per_class": per_class}


def _box_gain(boxes: Sequence[Overlap], ellipses: Sequence[Overlap], seed: int) -> BoxGain | None:
    """Masks by box against the ellipses of the same targets."""
    of_target = {(row.set_name, row.class_name, row.image, row.number): row.dice for row in ellipses}
    gains: dict[str, list[float]] = {}
    cases: dict[str, list[object]] = {}
    for row in boxes:
        ellipse = of_target.get((row.set_name, row.class_name, row.image, row.number))
        if ellipse is not None:
            gains.setdefault(row.set_name, []).append(row.dice - ellipse)
            cases.setdefault(row.set_name, []).append(row.case or row.image)
    if not gains:
        return None

    def over(names: Sequence[str]) -> Difference:
        mean, ci95 = metrics.mean_over_sets({n: gains[n] for n in names}, {n: cases[n] for n in names}, seed)
        return {"dice": mean, "ci95": ci95, "n": sum(len(gains[n]) for n in names)}

    return {**over(list(gains)), "sets": {name: over([name]) for name in gains}}


def over_sets(rows: Sequence[Overlap], seed: int = 0) -> tuple[dict[str, MaskSummary], MaskSummary]:
    """``{"dice", "iou", "n", "ci95", "iou_ci95"}`` of every set, and their mean over sets (``n``: the sum)."""
    of_set: dict[str, list[Overlap]] = {}
    for row in rows:
        of_set.setdefault(row.set_name, []).append(row)
    dices, ious = [], []
    summaries: dict[str, MaskSummary] = {}
    for set_name, rows_of_set in of_set.items():
        cases = [r.case or r.image for r in rows_of_set]
        # Other random numbers for every set, the same for Dice and IoU.
        set_seed = zlib.crc32(f"{seed}/{set_name}".encode())
        dices.append(metrics.bootstrap_means([r.dice for r in rows_of_set], cases, set_seed))
        ious.append(metrics.bootstrap_means([r.iou for r in rows_of_set], cases, set_seed))
        summaries[set_name] = {
            **_means(rows_of_set), "ci95": metrics.interval(dices[-1]), "iou_ci95": metrics.interval(ious[-1]),
        }  # fmt: skip
    return summaries, {
        "dice": float(np.mean([s["dice"] for s in summaries.values()])),
        "iou": float(np.mean([s["iou"] for s in summaries.values()])),
        "n": sum(s["n"] for s in summaries.values()),
        "ci95": metrics.interval(np.mean(dices, 0)),
        "iou_ci95": metrics.interval(np.mean(ious, 0)),
    }


def summarise_presence(
    presences: Sequence[Presence], temperature: float | None = None, threshold: float | None = None
) -> PresenceResult:
    """``absent``, ``ece`` and ``presence`` of the JSON. The positive class of ``absent`` is "absent".

    ``within`` and ``across`` compare their absent questions with the present ones of the same sets.

    Args:
        temperature, threshold: those of the model, None where it has none.
    """

    def part(kinds: tuple[str, ...]) -> AbsentPart:
        sets = {p.set_name for p in presences if p.kind in kinds}
        rows = [p for p in presences if p.kind in kinds or (p.kind == "present" and p.set_name in sets)]
        absent = [p.kind != "present" for p in rows]
        precision, recall, f1 = metrics.precision_recall_f1(absent, [not p.said_present for p in rows])
        return {
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "auc": metrics.auc(absent, [-p.probability for p in rows]),
            "n": sum(absent),
            "n_present": len(absent) - sum(absent),
        }

    present, probabilities = [p.kind == "present" for p in presences], [p.probability for p in presences]
    # The calibration of one kind of question says little.
    both = len(set(present)) == 2
    ece = metrics.ece(present, probabilities) if both else None
    return {
        "absent": {**part(("within", "across")), "within": part(("within",)), "across": part(("across",))},
        "ece": ece,
        "presence": {
            "temperature": temperature,
            "threshold": threshold,
            "ece": ece,
            "bins": metrics.reliability(present, probabilities) if both else [],
        },
    }


def _means(rows: Sequence[Overlap]) -> Means:
    return {"dice": float(np.mean([r.dice for r in rows])), "iou": float(np.mean([r.iou for r in rows])), "n": len(rows)}
