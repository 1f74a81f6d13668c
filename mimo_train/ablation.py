"""Does the idea matter? The same model, data and budget, each time with one mechanism switched off.

Every variant draws the same batches and starts from the same seed (and the same encoders, if ``warm_start`` is given), so the
rows of the table differ in the mechanism alone; one seed each, so small differences mean little, which the intervals show.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation import metrics
from mimo_runtime.evaluation.accuracy import Overlap, measure, summarise
from mimo_runtime.evaluation.referring import Reference, measure_referring
from mimo_runtime.utils.atomic import atomic_write_bytes

from .torch_engine import load_mimo
from .training.config import TrainConfig
from .training.thresholds import undecided
from .training.trainer import STATE, TRAINING, fit

#: Measured on every variant; "mask" and "text+box" would say the same twice.
PROMPTS = ("box", "point", "text", "absent")
RESULT, ROW = "ablation.json", "result.json"
#: What the others are compared with.
FULL = "full"


@dataclass(frozen=True)
class Variant:
    """One row of the table: the configuration's changes, and loss weights that differ."""

    name: str
    told: str
    changes: tuple[str, ...] = ()
    losses: tuple[tuple[str, float], ...] = ()


VARIANTS = (
    Variant(FULL, "everything on"),
    Variant("no-gate", "no learned gates, neither in the cross-attention nor on the pixels", ("fusion.gate=false",)),
    Variant(
        "no-map", "references do not reach the pixels (no dense map, so no gate there)", ("mask_decoder.reference_map=false",)
    ),
    Variant("no-bias", "reference tokens without the bias on the attention logits", ("fusion.region_bias=false",)),
    Variant(
        "tokens-only",
        "neither gates, dense map nor bias: references are tokens like words",
        ("fusion.gate=false", "mask_decoder.reference_map=false", "fusion.region_bias=false"),
    ),
    Variant(
        "no-referring",
        "references neither pull the attention nor gate what comes out of it; the dense map stays",
        ("fusion.gate=false", "fusion.region_bias=false"),
    ),
    # On the same grid: otherwise the masks would be coarser, too, and that is not what the cascade is about.
    Variant(
        "no-cascade",
        "one level (stride 16) instead of three, drawn on the same grid",
        ("mask_decoder.levels=1", "mask_decoder.upsample=8"),
    ),
    Variant("no-infonce", "no contrast of image, text and reference", losses=(("contrast", 0.0),)),
    Variant("no-deep-supervision", "only the finest mask is compared with the truth", losses=(("deep", 0.0),)),
)


def ablate(
    options: TrainConfig,
    output: Path,
    *,
    variants: Sequence[str] = (),
    warm_start: Path | None = None,
    split: str = "val",
    limit: int | None = None,
    report: Callable[[str], None] = print,
    progress: bool = True,
) -> dict[str, Any]:
    """Train and measure the variants, one after the other; what is there already is not done again.

    Several processes may share a folder, each with variants of its own.

    Args:
        options: of every run; ``changes`` and ``weights`` are those of the full model.
        output: a folder; ``VARIANT/`` holds its checkpoint and its row, ``ablation.json`` and ``ablation.md`` the table.
        variants: names of :data:`VARIANTS`; all if empty.
        warm_start: a checkpoint whose vision and text encoder all variants begin with.
        split, limit: of the data, to measure on.

    Raises:
        RequestError: unknown variant, bad options or data; a folder that holds a table of other options.
    """
    known = {v.name: v for v in VARIANTS}
    unknown = [name for name in variants if name not in known]
    if unknown:
        raise RequestError(f"unknown variant '{unknown[0]}'", f"Choose from {', '.join(known)}")
    options.check()
    datasets = read_datasets([Path(p) for p in options.data])
    # Names, not paths: the table is made to be shown.
    budget = options.comparable() | {"data": [d.name for d in datasets], "steps": options.steps, "minutes": options.minutes}
    budget = json.loads(json.dumps(budget | {"split": split, "limit": limit}))
    path = output / RESULT
    if path.is_file():
        if json.loads(path.read_text("utf-8"))["budget"] != budget:
            raise RequestError(f"{path} was made with other options", "Repeat them, or choose another folder")
    elif output.exists() and any(output.iterdir()):
        raise RequestError(f"{output} is not empty", "Choose a new folder")
    else:
        output.mkdir(parents=True, exist_ok=True)
        _collect(output, budget)
    for name in variants or known:
        if (output / name / ROW).is_file():
            continue
        variant = known[name]
        chosen = replace(
            options, changes=(*options.changes, *variant.changes), weights=replace(options.weights, **dict(variant.losses))
        )
        report(f"{name}: {variant.told}")
        folder = output / name
        resume = (folder / TRAINING / STATE).is_file()
        fit(
            chosen,
            folder,
            resume=resume,
            warm_start=None if resume else warm_start,
            warm_parts=("vision_encoder", "text_encoder") if warm_start else (),
            report=report,
            progress=progress,
        )
        # Every answer with its mask: a presence threshold that was not calibrated would only hide what was drawn.
        mimo = undecided(load_mimo(folder))
        measured = measure(mimo, datasets, split, prompts=PROMPTS, limit=limit, seed=options.seed, text=False)
        accuracy, pointed = summarise(measured), []
        referring = measure_referring(mimo, datasets, split, limit=limit, seed=options.seed, collect=pointed.extend)
        row = {
            "told": variant.told,
            "macro": accuracy["macro"],
            "absent_auc": accuracy["absent"]["auc"],
            "referring": referring,
            "answers": {**_dice_answers(measured.overlaps), **_referring_answers(pointed)},
        }
        _write(folder / ROW, row)
        _collect(output, budget)
    return _collect(output, budget)


def _collect(output: Path, budget: dict[str, Any]) -> dict[str, Any]:
    """Every variant has its row in a file of its own, so processes that share a folder lose nothing of each other."""
    rows = {v.name: output / v.name / ROW for v in VARIANTS}
    found = {name: json.loads(path.read_text("utf-8")) for name, path in rows.items() if path.is_file()}
    answers = {name: row.pop("answers") for name, row in found.items()}
    for name in found:
        if name != FULL and FULL in found:
            found[name]["change"] = {
                what: _change(answers[name][what], whole, budget["seed"]) for what, whole in answers[FULL].items()
            }
    table = {"budget": budget, "variants": found}
    _write(output / RESULT, table)
    atomic_write_bytes(output / "ablation.md", markdown(table).encode())
    return table


Answers = dict[str, list]


def _dice_answers(overlaps: Sequence[Overlap]) -> dict[str, Answers]:
    """Per prompt the Dice of every answer, with its set and a number for its case, in the order of the questions."""
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
    # A case may be called after a patient, and the table is made to be shown.
    numbers = {case: i for i, case in enumerate(dict.fromkeys((s, c) for s, c, _ in rows))}
    return {
        "set": [s for s, _, _ in rows],
        "case": [numbers[s, c] for s, c, _ in rows],
        "value": [round(v, 6) for _, _, v in rows],
    }  # fmt: skip


def _change(mine: Answers, whole: Answers, seed: int) -> dict[str, Any]:
    """What a variant changes against the full model, question by question: of Dice the mean of the sets, of right instances
    the mean of all; with the 95 % bootstrap interval over cases."""
    if (mine["set"], mine["case"]) != (whole["set"], whole["case"]):
        raise RequestError("two variants answered different questions", "Ablate into a new folder")
    differences = [a - b for a, b in zip(mine["value"], whole["value"])]
    values: dict[str, list[float]] = {}
    cases: dict[str, list[int]] = {}
    for name, case, value in zip(mine["set"], mine["case"], differences):
        values.setdefault(name, []).append(value)
        cases.setdefault(name, []).append(case)
    mean, ci95 = metrics.mean_over_sets(values, cases, seed)
    return {"macro": mean, "macro_ci95": ci95, "mean": float(np.mean(differences)),
            "ci95": metrics.bootstrap_ci(differences, mine["case"], seed), "n": len(differences)}  # fmt: skip


def _write(path: Path, value: dict[str, Any]) -> None:
    atomic_write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def markdown(table: dict[str, Any]) -> str:
    """The table of :func:`ablate`: the full model's values, and what each variant changes, question by question."""
    head = "| variant | right instance: box | right instance: point | Dice box | Dice point | Dice text | AUC absent |"
    rows = [head, "|---|---|---|---|---|---|---|"]
    for name, row in table["variants"].items():
        change = row.get("change", {})
        cells = [f"{name}: {row['told']}"]
        cells += [_rate(row["referring"].get(prompt), change.get(f"right {prompt}")) for prompt in ("box", "point")]
        cells += [_dice(row["macro"].get(prompt), change.get(f"dice {prompt}")) for prompt in ("box", "point", "text")]
        cells.append("–" if row["absent_auc"] is None else f"{row['absent_auc']:.3f}")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _rate(part: dict[str, Any] | None, change: dict[str, Any] | None) -> str:
    if not part or not part.get("n"):
        return "–"
    if change is None:
        low, high = part["ci95"]
        return f"{part['right']:.1%} ({low:.1%} to {high:.1%})"
    low, high = (100 * x for x in change["ci95"])
    return f"{part['right']:.1%}, {100 * change['mean']:+.1f} ({low:+.1f} to {high:+.1f})"


def _dice(part: dict[str, Any] | None, change: dict[str, Any] | None) -> str:
    if not part:
        return "–"
    if change is None:
        low, high = part["ci95"]
        return f"{part['dice']:.3f} ({low:.3f} to {high:.3f})"
    low, high = change["macro_ci95"]
    return f"{part['dice']:.3f}, {change['macro']:+.3f} ({low:+.3f} to {high:+.3f})"
