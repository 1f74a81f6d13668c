"""What was decided about precision, for people and for machines: tables, and three pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mimo_calibration.trial import presence_words

#: Pictures of a bundle's report, by the file under ``report/``.
RANGES, SENSITIVITY, TRADE_OFF = "ranges.png", "sensitivity.png", "latency.png"
COLOURS = {"chosen": "#0b6e4f", "other": "#9aa5b1", "bad": "#c8553d", "line": "#1f3a5f"}


def precision_lines(told: Mapping[str, Any]) -> list[str]:
    """The section of ``report.md``."""
    lines = [
        "", "## Precision: what was measured, and why it ships", "",
        f"Calibrated on {told['images']} images ({', '.join(f'{n} {s}' for s, n in told['sets'].items())}; id `{told['id']}`), "
        f"decided on {told['held_out_images']} others (id `{told['held_out']}`), tolerance {told['tolerance']} of Dice per "
        f"prompt. Watching took {told['seconds']['calibrate']:.0f} s, everything {told['seconds']['decide']:.0f} s.", "",
        *_shipped(told["graphs"], told["timed"]),
    ]  # fmt: skip
    lines += ["", "| prompt | Dice, FP32 | Dice, shipped | loss [95 % interval] |", "| --- | ---: | ---: | ---: |"]
    loss = told["loss"]
    for prompt, value in loss["dice"].items():
        low, high = loss["ci95"][prompt]
        full, shipped = told["macro_dice_fp32"][prompt], told["macro_dice"][prompt]
        lines.append(f"| {prompt} | {full:.4f} | {shipped:.4f} | {value:+.4f} [{low:+.4f}, {high:+.4f}] |")
    agreement = "" if loss["text_agreement"] is None else f"; {100 * loss['text_agreement']:.1f} % of the texts are the same"
    lines += ["", f"Of {loss['questions']} questions: {presence_words(loss)}{agreement}.", ""]
    for name, graph in told["graphs"].items():
        recipe = f" ({graph['recipe']})" if graph["recipe"] else ""
        lines.append(f"- **{name}**: {graph['chosen']}{recipe}: {graph['reason']}")
        if graph["fp32_blocks"]:
            lines.append(f"  - in FP32: {', '.join(graph['fp32_blocks'])}")
        lines += [f"  - not {label}: {why}" for label, why in graph["rejected"].items()]
    blocks = [(name, row) for name, graph in told["graphs"].items() for row in graph["sensitivity"][:5]]
    if blocks:
        lines += [
            "", "The most sensitive blocks of each graph, each alone in INT8; `report.json` has all.", "",
            "| graph | block | SQNR at the outputs, dB | largest Dice loss | presence F1 loss |",
            "| --- | --- | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {name} | {row['block']} | {row['sqnr_db']:.1f} | {row['dice_loss']:+.4f} | {row['presence_f1_loss']:+.4f} |"
            for name, row in blocks
        ]
    lines += ["", *(f"![{name}](report/{name})" for name in (RANGES, SENSITIVITY, *([TRADE_OFF] if told["timed"] else [])))]
    if told["unseen_modalities"]:
        lines += [
            "",
            f"**Warning**: calibrated on modalities that the model never saw: {', '.join(told['unseen_modalities'])}.",
        ]
    if told["engines_missing"]:
        lines += ["", f"Not tried, because not installed: {', '.join(told['engines_missing'])}."]
    return lines


def _shipped(graphs: Mapping[str, Any], timed: bool) -> list[str]:
    """The table of what ships; without latencies where the engine was not here to be timed."""
    times, marks = ("latency, ms | FP32, ms | times | ", "---: | ---: | ---: | ") if timed else ("", "")
    lines = [f"| graph | ships | {times}MB | SQNR, dB |", f"| --- | --- | {marks}---: | ---: |"]
    for name, graph in graphs.items():
        label, ratio = graph["chosen"], graph["sqnr_db"].get(graph["chosen"])
        if timed:
            ms, base = graph["latency_ms"][label], graph["latency_ms"]["fp32 onnxruntime"]
            times = f"{ms:.2f} | {base:.2f} | {base / ms:.2f} | "
        lines.append(
            f"| {name} | {label}{' (forced)' if graph['forced'] else ''} | {times}"
            f"{graph['bytes'][label] / 1e6:.2f} | {'' if ratio is None else f'{ratio:.1f}'} |"
        )
    if not timed:
        lines += ["", "Sizes are those of the ONNX files. Nothing was timed: ONNX Runtime on the CPU stands in for the GPU."]
    return lines


def draw(result: Any, folder: Path, timed: bool = True) -> None:
    """The pictures of a report into ``folder/report``; the race only if there was one."""
    import matplotlib

    matplotlib.use("Agg")
    place = folder / "report"
    place.mkdir()
    pictures = {RANGES: _ranges, SENSITIVITY: _sensitivity, **({TRADE_OFF: _trade_off} if timed else {})}
    for name, picture in pictures.items():
        figure = picture(result)
        # Without metadata, so that the same numbers give the same bytes.
        figure.savefig(place / name, dpi=110, bbox_inches="tight", metadata={"Software": None})


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, heights: Any = None) -> tuple[Any, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.asarray(figure.subplots(rows, columns, squeeze=False, height_ratios=heights))


def _ranges(result: Any) -> Any:
    """Histograms of the activations whose clip leaves out most, with the clip."""
    found = []
    for name, told in result.evidence.items():
        for tensor, limit in told.clips.items():
            # Behind a smoothed norm the histogram is of other values than the clip.
            if tensor in told.seen and tensor not in told.smoothed:
                seen = told.seen[tensor]
                found.append((limit / max(seen.maximum, 1e-9), name, tensor, limit, seen))
    found.sort(key=lambda row: row[0])
    shown = found[:6]
    figure, axes = _figure(10, 5.2, 2, 3)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis, (_, name, tensor, limit, seen) in zip(axes.flat, shown):
        counts = seen.counts.reshape(-1, 16).sum(1)
        centres = seen.centres().reshape(-1, 16).mean(1)
        axis.fill_between(centres, np.maximum(counts, 0.5), 0.5, step="mid", color=COLOURS["other"], linewidth=0)
        axis.axvline(limit, color=COLOURS["bad"], linewidth=1.6)
        axis.set_yscale("log")
        axis.set_xlim(0, 1.03 * seen.maximum)
        axis.set_title(f"{name}\n{tensor}", fontsize=8)
        axis.set_xlabel("|activation|", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.annotate(f"clip {limit:.3g} of {seen.maximum:.3g}", (0.97, 0.9), xycoords="axes fraction", ha="right", fontsize=8,
                      color=COLOURS["bad"])  # fmt: skip
    figure.suptitle("Activations that are clipped most (count per bin, and the largest value that INT8 holds)", fontsize=10)
    return figure


def _sensitivity(result: Any) -> Any:
    """Bars of signal-to-noise per block, each quantised alone; those left in FP32 in another colour."""
    shown = {n: told for n, told in result.evidence.items() if told.sensitivity}
    heights = [min(len(told.sensitivity), 16) + 1.5 for told in shown.values()] or [1.0]
    figure, axes = _figure(10, 0.6 + 0.19 * sum(heights) + 0.3 * len(heights), len(heights), heights=heights)
    for axis, (name, told) in zip(axes.flat, shown.items()):
        rows = told.sensitivity[:16][::-1]
        recipe = result.chosen[name].recipe
        skipped = recipe.skipped if recipe else ()
        colours = [COLOURS["bad"] if row["block"] in skipped else COLOURS["chosen"] for row in rows]
        axis.barh([row["block"] for row in rows], [row["sqnr_db"] for row in rows], color=colours, height=0.7)
        for place, row in enumerate(rows):
            axis.text(row["sqnr_db"] + 0.4, place, f"Dice {-row['dice_loss']:+.4f}", fontsize=6.5, va="center")
        axis.set_title(
            f"{name}: signal to noise at its outputs with one block in INT8, dB (lower is more sensitive)", fontsize=8
        )
        axis.tick_params(labelsize=7)
        axis.set_xlim(0, 70)
    return figure


def _trade_off(result: Any) -> Any:
    """Latency of every candidate against its worst Dice loss, per graph; the chosen one filled."""
    shown = {n: told for n, told in result.evidence.items() if len(told.latency_ms) > 1}
    rows = max(1, (len(shown) + 2) // 3)
    figure, axes = _figure(10, 2.9 * rows, rows, 3)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis, (name, told) in zip(axes.flat, shown.items()):
        labels = sorted(told.latency_ms, key=told.latency_ms.__getitem__)
        for place, label in enumerate(labels):
            colour = COLOURS["chosen"] if label == told.chosen else COLOURS["other"]
            axis.barh(place, told.latency_ms[label], color=colour, height=0.7)
            gate = told.gate.get(label)
            loss = "" if gate is None else f"  Dice {-max(gate['dice'].values()):+.4f}"
            axis.text(told.latency_ms[label], place, f" {told.latency_ms[label]:.2f} ms{loss}", fontsize=6.5, va="center")
        axis.set_yticks(range(len(labels)), [label.replace(" onnxruntime", " ORT") for label in labels], fontsize=7)
        axis.set_xlim(0, 1.6 * max(told.latency_ms.values()))
        axis.set_title(name, fontsize=9)
        axis.tick_params(axis="x", labelsize=7)
    figure.suptitle(
        "Latency of every form that was tried (green ships), and the largest Dice loss measured for it", fontsize=10
    )
    return figure
