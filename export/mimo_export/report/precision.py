"""The section of ``report.md`` about reduced precision: what ships, why, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mimo_calibration.search.loss import presence_summary
from mimo_calibration.search.results import GraphReport

from .charts import BASELINE, RANGES, SENSITIVITY, TIMED

if TYPE_CHECKING:
    from ..schema import PrecisionReport


def precision_lines(report: PrecisionReport) -> list[str]:
    """The section, line by line."""
    graphs = report["graphs"]
    lines = [
        "", "## Precision: what was measured, and why it ships", "",
        f"Calibrated on {report['images']} images ({', '.join(f'{n} {s}' for s, n in report['sets'].items())}; id "
        f"`{report['id']}`), decided on {report['held_out_images']} others (id `{report['held_out']}`), tolerance "
        f"{report['tolerance']} of Dice per prompt. Statistics took {report['seconds']['calibrate']:.0f} s, everything "
        f"{report['seconds']['decide']:.0f} s.", "",
        *_shipped(graphs, report["timed"]),
        *_losses(report),
    ]  # fmt: skip
    for name, graph in graphs.items():
        recipe = f" ({graph['recipe']})" if graph["recipe"] else ""
        lines.append(f"- **{name}**: {graph['chosen']}{recipe}: {graph['reason']}")
        if graph["fp32_blocks"]:
            lines.append(f"  - in FP32: {', '.join(graph['fp32_blocks'])}")
        lines += [f"  - not {label}: {why}" for label, why in graph["rejected"].items()]
    lines += _sensitive_blocks(graphs)
    lines += ["", *(f"![{name}](report/{name})" for name in (RANGES, SENSITIVITY, *(TIMED if report["timed"] else ())))]
    if report["unseen_modalities"]:
        names = ", ".join(report["unseen_modalities"])
        lines += ["", f"**Warning**: calibrated on modalities that the training data did not have: {names}."]
    if report["engines_missing"]:
        lines += ["", f"Not tried, because not installed: {', '.join(report['engines_missing'])}."]
    return lines


def _losses(report: PrecisionReport) -> list[str]:
    """The table of Dice per kind of prompt, and the agreement of presence and text."""
    loss = report["loss"]
    lines = ["", "| prompt | Dice, FP32 | Dice, shipped | loss [95 % interval] |", "| --- | ---: | ---: | ---: |"]
    for prompt, value in loss["dice"].items():
        low, high = loss["ci95"][prompt]
        full, shipped = report["macro_dice_fp32"][prompt], report["macro_dice"][prompt]
        lines.append(f"| {prompt} | {full:.4f} | {shipped:.4f} | {value:+.4f} [{low:+.4f}, {high:+.4f}] |")
    agreement = "" if loss["text_agreement"] is None else f"; {100 * loss['text_agreement']:.1f} % of the texts are the same"
    return [*lines, "", f"Of {loss['questions']} questions: {presence_summary(loss)}{agreement}.", ""]


def _sensitive_blocks(graphs: Mapping[str, GraphReport]) -> list[str]:
    rows = [
        f"| {name} | {row['block']} | {row['sqnr_db']:.1f} | {row['dice_loss']:+.4f} | {row['presence_f1_loss']:+.4f} |"
        for name, graph in graphs.items()
        for row in graph["sensitivity"][:5]
    ]
    if not rows:
        return []
    return [
        "",
        "The most sensitive blocks of each graph, each alone in INT8; `report.json` has all.",
        "",
        "| graph | block | SQNR at the outputs, dB | largest Dice loss | presence F1 loss |",
        "| --- | --- | ---: | ---: | ---: |",
        *rows,
    ]


def _shipped(graphs: Mapping[str, GraphReport], timed: bool) -> list[str]:
    """The table of what ships; without latencies if none were measured."""
    times, marks = ("latency, ms | FP32, ms | times | ", "---: | ---: | ---: | ") if timed else ("", "")
    lines = [f"| graph | ships | {times}MB | SQNR, dB |", f"| --- | --- | {marks}---: | ---: |"]
    for name, graph in graphs.items():
        label, ratio = graph["chosen"], graph["sqnr_db"].get(graph["chosen"])
        if timed:
            ms, base = graph["latency_ms"][label], graph["latency_ms"][BASELINE]
            times = f"{ms:.2f} | {base:.2f} | {base / ms:.2f} | "
        lines.append(
            f"| {name} | {label}{' (forced)' if graph['forced'] else ''} | {times}"
            f"{graph['bytes'][label] / 1e6:.2f} | {'' if ratio is None else f'{ratio:.1f}'} |"
        )
    if not timed:
        lines += ["", "Sizes are those of the ONNX files. Nothing was timed: ONNX Runtime on the CPU computed the graphs."]
    return lines
