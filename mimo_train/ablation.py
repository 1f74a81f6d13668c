"""Ablation: the same model, data and budget, each time with one mechanism switched off.

Every variant draws the same batches and starts from the same seed, and from the same encoders with ``partial_load``. The rows
of the table therefore differ in the mechanism only. Each variant has one seed; the intervals show which differences are noise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np

from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation import metrics
from mimo_runtime.evaluation.accuracy import Overlap, measure, summarise
from mimo_runtime.evaluation.referring import Reference, measure_referring
from mimo_runtime.evaluation.results import ReferringResult, ReferringSummary
from mimo_runtime.utils.atomic import atomic_write_bytes
from mimo_runtime.utils.deprecation import warn_renamed_fields
from mimo_runtime.utils.progress import Progress

from .torch_engine import load_mimo
from .training.config import TrainConfig, with_current_names
from .training.trainer import STATE, TRAINING, fit
from .tuning.thresholds import without_thresholds

#: Measured on every variant; "mask" and "text+box" would repeat "box" and "text".
PROMPTS = ("box", "point", "text", "absent")
RESULT, ROW = "ablation.json", "result.json"
#: The variant that the others are compared with.
FULL = "full"


@dataclass(frozen=True)
class Variant:
    """One row of the table: the configuration's changes, and loss weights that differ."""

    name: str
    description: str
    changes: tuple[str, ...] = ()
    losses: tuple[tuple[str, float], ...] = ()


VARIANTS = (
    Variant(FULL, "everything on"),
    Variant("no-gate", "no learned gates, neither in the cross-attention nor on the pixels", ("fusion.gate=false",)),
    Variant("no-map", "no dense reference map, so no gate on the pixels", ("mask_decoder.reference_map=false",)),
    Variant("no-bias", "reference tokens without the bias on the attention logits", ("fusion.region_bias=false",)),
    Variant(
        "tokens-only",
        "neither gates, dense map nor bias: references are tokens like words",
        ("fusion.gate=false", "mask_decoder.reference_map=false", "fusion.region_bias=false"),
    ),
    Variant(
        "no-referring",
        "no bias on the attention and no gates; the dense map stays",
        ("fusion.gate=false", "fusion.region_bias=false"),
    ),
    # On the same grid: otherwise the masks would be coarser, too.
    Variant(
        "no-cascade",
        "one level (stride 16) instead of three, drawn on the same grid",
        ("mask_decoder.levels=1", "mask_decoder.upsample=8"),
    ),
    Variant("no-infonce", "no contrast of image, text and reference", losses=(("contrast", 0.0),)),
    Variant("no-deep-supervision", "only the finest mask is compared with the truth", losses=(("deep", 0.0),)),
)


class Answers(TypedDict):
    """One value per prompt, with its set and a number for its case, in the order of the prompts."""

    set: list[str]
    case: list[int]
    value: list[float]


class Change(TypedDict):
    """Change of a variant against the full model: mean over sets and over all prompts, with 95 % intervals."""

    macro: float
    macro_ci95: list[float]
    mean: float
    ci95: list[float]
    n: int


class Row(TypedDict, total=False):
    """Accuracy of one variant; ``change`` by measure where the full model is measured, too."""

    description: str
    macro: dict[str, dict[str, object]]
    absent_auc: float | None
    referring: ReferringResult
    answers: dict[str, Answers]
    change: dict[str, Change]


class Table(TypedDict):
    """The JSON of :func:`ablate`: the options of all runs, and a row per variant."""

    budget: dict[str, object]
    variants: dict[str, Row]


def ablate(
    config: TrainConfig,
    output: Path,
    *,
    variants: Sequence[str] = (),
    partial_load: Path | None = None,
    split: str = "val",
    limit: int | None = None,
    report: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> Table:
    """Train and measure the variants, one after the other; finished ones are skipped.

    Several processes may share a folder, each with variants of its own.

    Args:
        config: of every run; ``changes`` and ``weights`` are those of the full model.
        output: a folder; ``VARIANT/`` holds its checkpoint and its row, ``ablation.json`` and ``ablation.md`` the table.
        variants: names of :data:`VARIANTS`; all if empty.
        partial_load: a checkpoint whose vision and text encoder all variants start with.
        split, limit: of the data, to measure on.

    Raises:
        RequestError: unknown variant, bad options or data; a folder that holds a table of other options.
    """
    known = {v.name: v for v in VARIANTS}
    unknown = [name for name in variants if name not in known]
    if unknown:
        raise RequestError(f"unknown variant '{unknown[0]}'", f"Choose from {', '.join(known)}")
    config.check()
    datasets = read_datasets([Path(p) for p in config.data])
    # Names instead of paths: the table is for publication.
    budget = config.comparable() | {"data": [d.name for d in datasets], "steps": config.steps, "minutes": config.minutes}
    budget = json.loads(json.dumps(budget | {"split": split, "limit": limit}))
    _check_output(output, budget)
    for name in variants or known:
        folder = output / name
        if (folder / ROW).is_file():
            continue
        report(f"{name}: {known[name].description}")
        _train(config, known[name], folder, partial_load, report, progress)
        _write(folder / ROW, _measure(known[name], folder, datasets, split, limit, config.seed))
        _collect(output, budget)
    return _collect(output, budget)


def _check_output(output: Path, budget: dict[str, object]) -> None:
    """Refuse a folder with a table of other options, or with other files; start the table of a new one."""
    path = output / RESULT
    if path.is_file():
        if with_current_names(json.loads(path.read_text("utf-8"))["budget"], str(path)) != budget:
            raise RequestError(f"{path} has other options", "Repeat its options, or choose another folder")
    elif output.exists() and any(output.iterdir()):
        raise RequestError(f"{output} is not empty", "Choose a new folder")
    else:
        output.mkdir(parents=True, exist_ok=True)
        _collect(output, budget)


def _train(
    config: TrainConfig,
    variant: Variant,
    folder: Path,
    partial_load: Path | None,
    report: Callable[[str], None],
    progress: Progress | None,
) -> None:
    """Train a variant, or resume its run."""
    resume = (folder / TRAINING / STATE).is_file()
    fit(
        replace(
            config, changes=(*config.changes, *variant.changes), weights=replace(config.weights, **dict(variant.losses))
        ),
        folder,
        resume=resume,
        partial_load=None if resume else partial_load,
        partial_parts=("vision_encoder", "text_encoder") if partial_load else (),
        report=report,
        progress=progress,
    )  # fmt: skip


def _measure(variant: Variant, folder: Path, datasets: Sequence[Dataset], split: str, limit: int | None, seed: int) -> Row:
    # Every answer with its mask: an untuned presence threshold would only hide masks.
    mimo = without_thresholds(load_mimo(folder))
    measured = measure(mimo, datasets, split, prompts=PROMPTS, limit=limit, seed=seed, text=False)
    accuracy = summarise(measured)
    references: list[Reference] = []
    referring = measure_referring(mimo, datasets, split, limit=limit, seed=seed, collect=references.extend)
    return {
        "description": variant.description,
        "macro": accuracy["macro"],
        "absent_auc": accuracy["absent"]["auc"],
        "referring": referring,
        "answers": {**_dice_answers(measured.overlaps), **_referring_answers(references)},
    }


def _collect(output: Path, budget: dict[str, object]) -> Table:
    """The table of all finished variants; each row is a file, so processes that share a folder lose none."""
    files = {v.name: output / v.name / ROW for v in VARIANTS}
    rows = {name: _read_row(path) for name, path in files.items() if path.is_file()}
    answers = {name: row.pop("answers") for name, row in rows.items()}
    for name, row in rows.items():
        if name != FULL and FULL in rows:
            row["change"] = {
                name_of_measure: _change(answers[name][name_of_measure], full, int(budget["seed"]))
                for name_of_measure, full in answers[FULL].items()
            }
    table: Table = {"budget": budget, "variants": rows}
    _write(output / RESULT, table)
    atomic_write_bytes(output / "ablation.md", markdown(table).encode())
    return table


def _read_row(path: Path) -> Row:
    row = json.loads(path.read_text("utf-8"))
    if "told" in row:
        warn_renamed_fields(str(path), {"told": "description"})
        row["description"] = row.pop("told")
    return row


def _dice_answers(overlaps: Sequence[Overlap]) -> dict[str, Answers]:
    return {
        f"dice {prompt}": _answers([(r.set_name, r.case or r.image, r.dice) for r in overlaps if r.prompt == prompt])
        for prompt in PROMPTS if any(r.prompt == prompt for r in overlaps)
    }  # fmt: skip


def _referring_answers(rows: Sequence[Reference]) -> dict[str, Answers]:
    return {
        f"right {prompt}": _answers([(r.set_name, r.case, float(r.right)) for r in rows if r.answer == prompt])
        for prompt in ("box", "point")
    }


def _answers(rows: Sequence[tuple[str, str, float]]) -> Answers:
    # A case may have the name of a patient, and the table is for publication.
    numbers = {case: i for i, case in enumerate(dict.fromkeys((s, c) for s, c, _ in rows))}
    return {
        "set": [s for s, _, _ in rows],
        "case": [numbers[s, c] for s, c, _ in rows],
        "value": [round(v, 6) for _, _, v in rows],
    }


def _change(variant: Answers, full: Answers, seed: int) -> Change:
    """Difference prompt by prompt, with the 95 % bootstrap interval over cases."""
    if (variant["set"], variant["case"]) != (full["set"], full["case"]):
        raise RequestError("two variants answered different prompts", "Ablate into a new folder")
    differences = [a - b for a, b in zip(variant["value"], full["value"])]
    values: dict[str, list[float]] = {}
    cases: dict[str, list[int]] = {}
    for name, case, value in zip(variant["set"], variant["case"], differences):
        values.setdefault(name, []).append(value)
        cases.setdefault(name, []).append(case)
    mean, ci95 = metrics.mean_over_sets(values, cases, seed)
    return {
        "macro": mean,
        "macro_ci95": ci95,
        "mean": float(np.mean(differences)),
        "ci95": metrics.bootstrap_ci(differences, variant["case"], seed),
        "n": len(differences),
    }


def _write(path: Path, value: Mapping[str, object]) -> None:
    atomic_write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def markdown(table: Table) -> str:
    """The table of :func:`ablate`: the full model's values, and the change of each variant."""
    head = "| variant | right instance: box | right instance: point | Dice box | Dice point | Dice text | AUC absent |"
    rows = [head, "|---|---|---|---|---|---|---|"]
    for name, row in table["variants"].items():
        change = row.get("change", {})
        cells = [f"{name}: {row['description']}"]
        right = {"box": row["referring"]["box"], "point": row["referring"]["point"]}
        cells += [_rate(summary, change.get(f"right {prompt}")) for prompt, summary in right.items()]
        cells += [_dice(row["macro"].get(prompt), change.get(f"dice {prompt}")) for prompt in ("box", "point", "text")]
        cells.append("–" if row["absent_auc"] is None else f"{row['absent_auc']:.3f}")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _rate(part: ReferringSummary, change: Change | None) -> str:
    if not part["n"]:
        return "–"
    if change is None:
        low, high = part["ci95"]
        return f"{part['right']:.1%} ({low:.1%} to {high:.1%})"
    low, high = (100 * x for x in change["ci95"])
    return f"{part['right']:.1%}, {100 * change['mean']:+.1f} ({low:+.1f} to {high:+.1f})"


def _dice(part: Mapping[str, object] | None, change: Change | None) -> str:
    if not part:
        return "–"
    if change is None:
        low, high = part["ci95"]
        return f"{part['dice']:.3f} ({low:.3f} to {high:.3f})"
    low, high = change["macro_ci95"]
    return f"{part['dice']:.3f}, {change['macro']:+.3f} ({low:+.3f} to {high:+.3f})"
