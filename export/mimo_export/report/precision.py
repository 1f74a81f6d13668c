"""What was decided about precision, for people and for machines: tables, and four pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mimo_calibration.search.loss import presence_summary

#: Pictures of a bundle's report, by the file under ``report/``.
RANGES, SENSITIVITY, LATENCY, TRADE_OFF = "ranges.png", "sensitivity.png", "latency.png", "trade_off.png"
#: Those that need forms to have been timed.
TIMED = LATENCY, TRADE_OFF
COLOURS = {"chosen": "#0b6e4f", "other": "#9aa5b1", "bad": "#c8553d", "line": "#1f3a5f"}
#: A form in the scatter: its colour by the start of its label, the first that fits, and its marker by what the label holds.
FORM_COLOURS = {
    "fp32": "#6b7785", "fp16": "#7b4fa3", "int8 weights": "#2f9e9e", "int8": "#1f5fa8", "int4": "#d98324",
}  # fmt: skip
FORM_MARKERS = {"openvino": "s", "1 thread": "^", "": "o"}


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
    lines += ["", f"Of {loss['questions']} questions: {presence_summary(loss)}{agreement}.", ""]
    for name, graph in told["graphs"].items():
        recipe = f" ({graph['recipe']})" if graph["recipe"] else ""
        lines.append(f"- **{name}**: {graph['chosen']}{recipe}: {graph['reason']}")
        if graph["fp32_blocks"]:
            lines.append(f"  - in FP32: {', '.join(graph['fp32_blocks'])}")
        lines += [f"  - not {label}: {why}" for label, why in graph["rejected"].items()]
    blocks = [(name, row) for name, graph in told["graphs"].items() for row in graph["sensitivity"][:5]]
    if blocks:
        lines += [
            "",
            "The most sensitive blocks of each graph, each alone in INT8; `report.json` has all.",
            "",
            "| graph | block | SQNR at the outputs, dB | largest Dice loss | presence F1 loss |",
            "| --- | --- | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {name} | {row['block']} | {row['sqnr_db']:.1f} | {row['dice_loss']:+.4f} | {row['presence_f1_loss']:+.4f} |"
            for name, row in blocks
        ]
    lines += ["", *(f"![{name}](report/{name})" for name in (RANGES, SENSITIVITY, *(TIMED if told["timed"] else ())))]
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


def draw(result: Any, folder: Path, tolerance: float, timed: bool = True) -> None:
    """The pictures of a report into ``folder/report``; the race only if there was one.

    Args:
        result: a ``mimo_calibration.search.results.Result``.
        tolerance: of Dice per prompt, by which it was decided.
    """
    import matplotlib

    matplotlib.use("Agg")
    place = folder / "report"
    place.mkdir()
    pictures = {RANGES: _ranges(result), SENSITIVITY: _sensitivity(result)}
    if timed:
        pictures |= {LATENCY: _latency(result), TRADE_OFF: _trade_off(result, tolerance)}
    for name, figure in pictures.items():
        # Without metadata, so that the same numbers give the same bytes.
        figure.savefig(place / name, dpi=110, bbox_inches="tight", metadata={"Software": None})


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, heights: Any = None) -> tuple[Any, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.asarray(figure.subplots(rows, columns, squeeze=False, height_ratios=heights))


def _ranges(result: Any) -> Any:
    """Histograms of the activations whose clip leaves out most, with the clip."""
    found = []
    for name, told in result.graphs.items():
        for tensor, limit in told.amax.items():
            # Behind a smoothed norm the histogram is of other values than the clip.
            if tensor in told.histograms and tensor not in told.smoothed:
                seen = told.histograms[tensor]
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
    shown = {n: told for n, told in result.graphs.items() if told.sensitivity}
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


def _latency(result: Any) -> Any:
    """Bars of the latency of every candidate, per graph; the chosen one in another colour."""
    shown = {n: told for n, told in result.graphs.items() if len(told.latency_ms) > 1}
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


def _trade_off(result: Any, tolerance: float) -> Any:
    """Speed of every form against what the worst prompt loses by it, per graph, with 95 % intervals.

    Losses beyond the tolerance are on a logarithmic axis: a form that loses everything must not press the others into a line.
    Forms that were timed but not tried, because they are no faster or a faster one had passed, are hollow, below all losses.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, NullLocator

    shown = {n: told for n, told in result.graphs.items() if len(told.latency_ms) > 1}
    rows = max(1, (len(shown) + 2) // 3)
    figure, axes = _figure(11, 3.3 * rows + 0.9, rows, 3)
    labels: dict[str, None] = {}
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis, (name, told) in zip(axes.flat, shown.items()):
        base = told.latency_ms["fp32 onnxruntime"]
        axis.set_yscale("symlog", linthresh=tolerance, linscale=1.5)
        lowest, highest = -2 * tolerance, 2 * tolerance
        for label, ms in told.latency_ms.items():
            labels[label] = None
            gate, colour, marker = told.gate.get(label), *_look(label)
            if gate is None and label != "fp32 onnxruntime":
                axis.plot(base / ms, 0.06, marker, transform=axis.get_xaxis_transform(), markersize=6, markerfacecolor="none",
                          markeredgecolor=colour, zorder=3)  # fmt: skip
                continue
            prompt = max(gate["dice"], key=gate["dice"].get) if gate and gate["dice"] else None
            loss = gate["dice"][prompt] if prompt else 0.0
            low, high = gate["ci95"][prompt] if prompt else (0.0, 0.0)
            lowest, highest = min(lowest, low), max(highest, high)
            axis.plot([base / ms] * 2, [low, high], color=colour, linewidth=1.4, zorder=2)
            axis.plot(base / ms, loss, marker, color=colour, markersize=7.5, markeredgecolor="white", zorder=4)
            if label in told.rejected and label != told.chosen:
                # Not only Dice decides: a form may be down here and have lost texts or presence.
                axis.plot(base / ms, loss, "x", color=COLOURS["bad"], markersize=11, markeredgewidth=1.6, zorder=5)
            if label == told.chosen:
                axis.plot(base / ms, loss, "o", markersize=15, markerfacecolor="none", markeredgecolor=COLOURS["chosen"],
                          markeredgewidth=2, zorder=5)  # fmt: skip
        axis.axhspan(2 * lowest, tolerance, color=COLOURS["chosen"], alpha=0.07, linewidth=0, zorder=0)
        axis.axhline(tolerance, color=COLOURS["bad"], linewidth=1.2, linestyle="--", zorder=1)
        axis.axvline(1.0, color=COLOURS["other"], linewidth=0.8, zorder=1)
        axis.set_ylim(2 * lowest, 2 * highest)
        axis.set_xlim(0, 1.12 * max(1.0, *(base / ms for ms in told.latency_ms.values())))
        ticks = [-tolerance, 0.0, tolerance] + [t for t in (10 * tolerance, 100 * tolerance) if t < 2 * highest]
        axis.set_yticks(ticks)
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.3g}" if value else "0"))
        axis.tick_params(labelsize=7)
        ratio = base / told.latency_ms[told.chosen]
        forced = ", forced" if told.forced else ""
        axis.set_title(f"{name}\nships {_short(told.chosen)}, {ratio:.2f} times as fast{forced}", fontsize=8.5)
        axis.grid(axis="y", color="#e3e7eb", linewidth=0.6, zorder=0)
    for axis in axes[:, 0]:
        axis.set_ylabel("Dice lost by the worst prompt", fontsize=8)
    for axis in axes[-1, : len(shown) - 3 * (rows - 1)]:
        axis.set_xlabel("times as fast as FP32 on ONNX Runtime", fontsize=8)
    handles = [
        Line2D([], [], linestyle="none", marker=_look(label)[1], color=_look(label)[0], label=_short(label)) for label in labels
    ]
    handles += [
        Line2D([], [], linestyle="none", marker="o", markersize=12, markerfacecolor="none", markeredgecolor=COLOURS["chosen"],
               markeredgewidth=2, label="ships"),
        Line2D([], [], linestyle="none", marker="x", markersize=9, markeredgewidth=1.6, color=COLOURS["bad"],
               label="refused: Dice, presence or texts"),
        Line2D([], [], linestyle="none", marker="o", markerfacecolor="none", markeredgecolor=COLOURS["other"],
               label="timed, not tried"),
        Line2D([], [], linestyle="--", color=COLOURS["bad"], label=f"tolerance, {tolerance:g}"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), fontsize=7.5, frameon=False)
    figure.suptitle(
        "What each form gains and loses: right is faster, down is better; bars are 95 % intervals over images", fontsize=10
    )
    return figure


def _look(label: str) -> tuple[str, str]:
    """Colour and marker of a form."""
    colour = next(colour for start, colour in FORM_COLOURS.items() if label.startswith(start))
    return colour, next(marker for part, marker in FORM_MARKERS.items() if part in label)


def _short(label: str) -> str:
    return label.replace(" onnxruntime", " ORT").replace(" openvino", " OpenVINO")
