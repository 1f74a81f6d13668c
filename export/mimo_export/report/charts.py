"""The four pictures of a precision search. Matplotlib is imported when they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mimo_calibration.search.loss import LossReport
from mimo_calibration.search.results import GraphResult, Result
from mimo_calibration.statistics.histogram import HistogramObserver
from mimo_runtime.utils.temporary import keep_matplotlib_out_of_home

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

#: Pictures of a bundle's report, by the file under ``report/``.
RANGES, SENSITIVITY, LATENCY, TRADE_OFF = "ranges.png", "sensitivity.png", "latency.png", "trade_off.png"
#: Those that need latencies.
TIMED = LATENCY, TRADE_OFF
#: The candidate that all others are compared with.
BASELINE = "fp32 onnxruntime"
COLOURS = {"chosen": "#0b6e4f", "other": "#9aa5b1", "bad": "#c8553d", "line": "#1f3a5f"}
#: A candidate in the scatter: its colour by the start of its label, the first that fits, and its marker by a part of its label.
CANDIDATE_COLOURS = {
    "fp32": "#6b7785", "bf16": "#9a6fb5", "fp16": "#7b4fa3", "int8 weights": "#2f9e9e", "int8": "#1f5fa8", "int4": "#d98324",
}  # fmt: skip
CANDIDATE_MARKERS = {"openvino": "s", "1 thread": "^", "": "o"}


def draw(result: Result, folder: Path, tolerance: float, timed: bool = True) -> None:
    """Draw the pictures into ``folder/report``.

    Args:
        tolerance: of Dice per prompt, by which the precision was decided.
        timed: whether latencies were measured; without them two pictures are left out.
    """
    keep_matplotlib_out_of_home()
    import matplotlib

    matplotlib.use("Agg")
    place = folder / "report"
    place.mkdir()
    pictures = {RANGES: draw_ranges(result), SENSITIVITY: draw_sensitivity(result)}
    if timed:
        pictures |= {LATENCY: draw_latency(result), TRADE_OFF: draw_trade_off(result, tolerance)}
    for name, figure in pictures.items():
        # Without metadata, so that the same numbers give the same bytes.
        figure.savefig(place / name, dpi=110, bbox_inches="tight", metadata={"Software": None})


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, heights: Sequence[float] | None = None
) -> tuple[Figure, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.asarray(figure.subplots(rows, columns, squeeze=False, height_ratios=heights))


@dataclass(frozen=True)
class _Range:
    """One quantized activation: its histogram, and the largest magnitude that INT8 holds."""

    graph: str
    tensor: str
    amax: float
    histogram: HistogramObserver

    @property
    def share(self) -> float:
        return self.amax / max(self.histogram.maximum, 1e-9)


def draw_ranges(result: Result) -> Figure:
    """Histograms of the six activations that are clipped most, with the clip."""
    ranges = [
        _Range(name, tensor, amax, graph.histograms[tensor])
        for name, graph in result.graphs.items()
        for tensor, amax in graph.amax.items()
        # Behind a smoothed norm the histogram is of other values than the clip.
        if tensor in graph.histograms and tensor not in graph.smoothed
    ]
    shown = sorted(ranges, key=lambda row: row.share)[:6]
    figure, axes = _figure(10, 5.2, 2, 3)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis, row in zip(axes.flat, shown):
        counts = row.histogram.counts.reshape(-1, 16).sum(1)
        centres = row.histogram.centres().reshape(-1, 16).mean(1)
        axis.fill_between(centres, np.maximum(counts, 0.5), 0.5, step="mid", color=COLOURS["other"], linewidth=0)
        axis.axvline(row.amax, color=COLOURS["bad"], linewidth=1.6)
        axis.set_yscale("log")
        axis.set_xlim(0, 1.03 * row.histogram.maximum)
        axis.set_title(f"{row.graph}\n{row.tensor}", fontsize=8)
        axis.set_xlabel("|activation|", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.annotate(f"clip {row.amax:.3g} of {row.histogram.maximum:.3g}", (0.97, 0.9), xycoords="axes fraction", ha="right",
                      fontsize=8, color=COLOURS["bad"])  # fmt: skip
    figure.suptitle("Activations that are clipped most (count per bin, and the largest value that INT8 holds)", fontsize=10)
    return figure


def draw_sensitivity(result: Result) -> Figure:
    """Bars of signal-to-noise per block, each quantized alone; those left in FP32 in another colour."""
    shown = {name: graph for name, graph in result.graphs.items() if graph.sensitivity}
    heights = [min(len(graph.sensitivity), 16) + 1.5 for graph in shown.values()] or [1.0]
    figure, axes = _figure(10, 0.6 + 0.19 * sum(heights) + 0.3 * len(heights), len(heights), heights=heights)
    for axis, (name, graph) in zip(axes.flat, shown.items()):
        rows = graph.sensitivity[:16][::-1]
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


def draw_latency(result: Result) -> Figure:
    """Bars of the latency of every candidate, per graph; the chosen one in another colour."""
    shown = _timed_graphs(result)
    rows = max(1, (len(shown) + 2) // 3)
    figure, axes = _figure(10, 2.9 * rows, rows, 3)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis, (name, graph) in zip(axes.flat, shown.items()):
        labels = sorted(graph.latency_ms, key=graph.latency_ms.__getitem__)
        for place, label in enumerate(labels):
            colour = COLOURS["chosen"] if label == graph.chosen else COLOURS["other"]
            axis.barh(place, graph.latency_ms[label], color=colour, height=0.7)
            gate = graph.gate.get(label)
            loss = "" if gate is None else f"  Dice {-max(gate['dice'].values()):+.4f}"
            axis.text(graph.latency_ms[label], place, f" {graph.latency_ms[label]:.2f} ms{loss}", fontsize=6.5, va="center")
        axis.set_yticks(range(len(labels)), [label.replace(" onnxruntime", " ORT") for label in labels], fontsize=7)
        axis.set_xlim(0, 1.6 * max(graph.latency_ms.values()))
        axis.set_title(name, fontsize=9)
        axis.tick_params(axis="x", labelsize=7)
    figure.suptitle("Latency of every candidate (green ships), and the largest Dice loss measured for it", fontsize=10)
    return figure


def draw_trade_off(result: Result, tolerance: float) -> Figure:
    """Speed of every candidate against the largest Dice loss of any prompt, per graph, with 95 % intervals.

    Losses beyond the tolerance are on a logarithmic axis, so that a candidate that loses everything does not flatten the
    others. Candidates that were timed but not tried are hollow, below all losses: they are no faster, or a faster one passed.
    """
    shown = _timed_graphs(result)
    rows = max(1, (len(shown) + 2) // 3)
    figure, axes = _figure(11, 3.3 * rows + 0.9, rows, 3)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis, (name, graph) in zip(axes.flat, shown.items()):
        lowest, highest = _plot_candidates(axis, graph, tolerance)
        _style_trade_off(axis, name, graph, tolerance, lowest, highest)
    for axis in axes[:, 0]:
        axis.set_ylabel("Dice lost by the worst prompt", fontsize=8)
    for axis in axes[-1, : len(shown) - 3 * (rows - 1)]:
        axis.set_xlabel("times as fast as FP32 on ONNX Runtime", fontsize=8)
    handles = _legend(dict.fromkeys(label for graph in shown.values() for label in graph.latency_ms), tolerance)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), fontsize=7.5, frameon=False)
    figure.suptitle(
        "Speed and Dice loss of each candidate: right is faster, down is better; bars are 95 % intervals over images",
        fontsize=10,
    )
    return figure


def _timed_graphs(result: Result) -> dict[str, GraphResult]:
    return {name: graph for name, graph in result.graphs.items() if len(graph.latency_ms) > 1}


def _plot_candidates(axis: Axes, graph: GraphResult, tolerance: float) -> tuple[float, float]:
    """Plot the candidates of one graph; returns the lowest and the highest loss."""
    base = graph.latency_ms[BASELINE]
    axis.set_yscale("symlog", linthresh=tolerance, linscale=1.5)
    lowest, highest = -2 * tolerance, 2 * tolerance
    for label, ms in graph.latency_ms.items():
        gate, (colour, marker) = graph.gate.get(label), _style(label)
        if gate is None and label != BASELINE:
            axis.plot(base / ms, 0.06, marker, transform=axis.get_xaxis_transform(), markersize=6, markerfacecolor="none",
                      markeredgecolor=colour, zorder=3)  # fmt: skip
            continue
        loss, low, high = _worst_loss(gate)
        lowest, highest = min(lowest, low), max(highest, high)
        axis.plot([base / ms] * 2, [low, high], color=colour, linewidth=1.4, zorder=2)
        axis.plot(base / ms, loss, marker, color=colour, markersize=7.5, markeredgecolor="white", zorder=4)
        if label in graph.rejected and label != graph.chosen:
            # Not only Dice decides: a candidate may have a small Dice loss and miss texts or presence.
            axis.plot(base / ms, loss, "x", color=COLOURS["bad"], markersize=11, markeredgewidth=1.6, zorder=5)
        if label == graph.chosen:
            axis.plot(base / ms, loss, "o", markersize=15, markerfacecolor="none", markeredgecolor=COLOURS["chosen"],
                      markeredgewidth=2, zorder=5)  # fmt: skip
    return lowest, highest


def _worst_loss(gate: LossReport | None) -> tuple[float, float, float]:
    """Dice loss of the prompt that loses most, with its interval."""
    if gate is None or not gate["dice"]:
        return 0.0, 0.0, 0.0
    prompt = max(gate["dice"], key=gate["dice"].__getitem__)
    low, high = gate["ci95"][prompt]
    return gate["dice"][prompt], low, high


def _style_trade_off(axis: Axes, name: str, graph: GraphResult, tolerance: float, lowest: float, highest: float) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    base = graph.latency_ms[BASELINE]
    axis.axhspan(2 * lowest, tolerance, color=COLOURS["chosen"], alpha=0.07, linewidth=0, zorder=0)
    axis.axhline(tolerance, color=COLOURS["bad"], linewidth=1.2, linestyle="--", zorder=1)
    axis.axvline(1.0, color=COLOURS["other"], linewidth=0.8, zorder=1)
    axis.set_ylim(2 * lowest, 2 * highest)
    axis.set_xlim(0, 1.12 * max(1.0, *(base / ms for ms in graph.latency_ms.values())))
    axis.set_yticks([-tolerance, 0.0, tolerance, *(t for t in (10 * tolerance, 100 * tolerance) if t < 2 * highest)])
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.3g}" if value else "0"))
    axis.tick_params(labelsize=7)
    forced = ", forced" if graph.forced else ""
    ratio = base / graph.latency_ms[graph.chosen]
    axis.set_title(f"{name}\nships {_short(graph.chosen)}, {ratio:.2f} times as fast{forced}", fontsize=8.5)
    axis.grid(axis="y", color="#e3e7eb", linewidth=0.6, zorder=0)


def _legend(labels: Mapping[str, None], tolerance: float) -> list[Line2D]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="none", marker=_style(label)[1], color=_style(label)[0], label=_short(label))
        for label in labels
    ]
    return [
        *handles,
        Line2D([], [], linestyle="none", marker="o", markersize=12, markerfacecolor="none", markeredgecolor=COLOURS["chosen"],
               markeredgewidth=2, label="ships"),
        Line2D([], [], linestyle="none", marker="x", markersize=9, markeredgewidth=1.6, color=COLOURS["bad"],
               label="refused: Dice, presence or texts"),
        Line2D([], [], linestyle="none", marker="o", markerfacecolor="none", markeredgecolor=COLOURS["other"],
               label="timed, not tried"),
        Line2D([], [], linestyle="--", color=COLOURS["bad"], label=f"tolerance, {tolerance:g}"),
    ]  # fmt: skip


def _style(label: str) -> tuple[str, str]:
    """Colour and marker of a candidate."""
    colour = next(colour for start, colour in CANDIDATE_COLOURS.items() if label.startswith(start))
    return colour, next(marker for part, marker in CANDIDATE_MARKERS.items() if part in label)


def _short(label: str) -> str:
    return label.replace(" onnxruntime", " ORT").replace(" openvino", " OpenVINO")
