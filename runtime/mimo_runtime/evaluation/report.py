"""The result of :func:`mimo_runtime.evaluation.evaluate.evaluate` as Markdown."""

from __future__ import annotations

from typing import Any

from .summary import BASELINES, MASK_PROMPTS, TEXT_SLOTS

_BASELINE_TITLES = {"ellipse": "ellipse in the box", "input_mask": "the rough mask itself"}


def markdown(result: dict[str, Any]) -> str:
    """Tables of Dice per set and prompt type beside the trivial baselines, of absent targets and of text."""
    meta, sets, macro, baselines = result["meta"], result["sets"], result["macro"], result["baselines"]
    prompts = [p for p in MASK_PROMPTS if p in macro]
    known = [b for b in BASELINES if b in baselines]
    lines = [
        f"Split `{meta['split']}`, {meta['images']} images, seed {meta['seed']}"
        + (f", model `{meta['model']}`" if meta["model"] else "")
        + (f", engine {meta['engine']}" if meta["engine"] else "")
        + "."
    ]
    if prompts:
        lines += ["", "Mean Dice with its 95 % bootstrap interval; in italics what needs no model.", ""]
        lines += _table(
            ["set", *prompts, *(f"*{_BASELINE_TITLES[b]}*" for b in known)],
            [
                [
                    f"`{name}`",
                    *(_dice(found.get(p)) for p in prompts),
                    *(_dice(baselines[b]["sets"].get(name)) for b in known),
                ]
                for name, found in sets.items()
            ]
            + [["**mean of sets**", *(_dice(macro[p]) for p in prompts), *(_dice(baselines[b]) for b in known)]],
        )
    absent = result["absent"]
    if absent["n"]:
        kinds = [("within the set", absent["within"]), ("of other sets", absent["across"]), ("all", absent)]
        rows = [[title, *(_number(a[k]) for k in ("precision", "recall", "f1", "auc")), str(a["n"])] for title, a in kinds]
        lines += ["", f"Absent targets (presence threshold {meta['presence_threshold']}).", ""]
        lines += _table(["absent class", "precision", "recall", "F1", "AUC", "n"], rows)
    if result["ece"] is not None:
        lines += ["", f"Expected calibration error of presence: {result['ece']:.3f}."]
    if any(result["text"][slot] is not None for slot in TEXT_SLOTS):
        lines += ["", "Text answers, share of right slots.", ""]
        lines += _table(list(TEXT_SLOTS), [[_number(result["text"][slot]) for slot in TEXT_SLOTS]])
    return "\n".join(lines) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _dice(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "–"
    low, high = summary["ci95"]
    return f"{summary['dice']:.3f} ({low:.3f}–{high:.3f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
