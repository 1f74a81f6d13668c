"""Charts of results as SVG. Matplotlib is imported by the function that draws."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from mimo_runtime.utils.temporary import keep_matplotlib_out_of_home

from .result import BenchmarkResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours that people with any colour vision tell apart (Okabe and Ito 2008).
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
_Table = dict[str, dict[str, object]]


def chart(result: BenchmarkResult) -> str | None:
    """An SVG element; None for a result that has no chart, or nothing to show in it."""
    draw = _CHARTS.get(result.command)
    if draw is None:
        return None
    keep_matplotlib_out_of_home()
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    style = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "svg.hashsalt": "mimo"}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(7.5, 3.2), layout="constrained")
        draw(axes, dict(result.details))
        if not axes.has_data():  # e.g. no energy sensor
            pyplot.close(figure)
            return None
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _latency(axes: Axes, details: dict[str, object]) -> None:
    contenders = cast(_Table, details["contenders"])
    kinds = [kind for kind in ("first_ask", "mask_only", "second_ask_mask_only") if kind in contenders["mimo"]]
    timed = {name: of for name, of in contenders.items() if any(kind in of for kind in kinds)}
    width = 0.8 / len(timed)
    for number, (name, of) in enumerate(timed.items()):
        places = [k + width * number for k, kind in enumerate(kinds) if kind in of]
        times = [cast("dict[str, float]", of[kind])["p50_ms"] for kind in kinds if kind in of]
        hatch = "" if number < len(_COLOURS) else "//"
        axes.bar(places, times, width, label=name, color=_COLOURS[number % len(_COLOURS)], hatch=hatch, edgecolor="white")
    axes.set_xticks([k + 0.4 - width / 2 for k in range(len(kinds))], [kind.replace("_", " ") for kind in kinds])
    axes.set_ylabel("median ms")
    axes.set_yscale("log")
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _profile(axes: Axes, details: dict[str, object]) -> None:
    """The roofline: operations per second of each graph against operations per byte, below the limits of the machine."""
    slope, points = cast(float, details["memory_gb_s"]), {}
    for name, graph in cast(_Table, details["graphs"]).items():
        operations = 2 * sum(cast("dict[str, int]", graph["macs"]).values())
        points[name] = max(operations / 1e6 / cast(float, graph["least_mb"]), 1e-3), cast(float, graph["gops_per_s"])
    for number, (name, peaks) in enumerate(cast("dict[str, dict[str, float]]", details["peaks"]).items()):
        if peaks:
            peak = max(peaks.values())
            xs = [min(x for x, _ in points.values()) / 2, peak / slope, 2 * max(peak / slope, *(x for x, _ in points.values()))]
            roof = [min(peak, slope * x) for x in xs]
            axes.plot(
                xs, roof, color="#888", linewidth=1, linestyle=("-", "--", ":")[number % 3], label=f"limit {name.upper()}"
            )
    for number, (name, (x, y)) in enumerate(points.items()):
        axes.plot(x, y, "o", color=_COLOURS[number % len(_COLOURS)], label=name.replace("_", " "))
    axes.set(xscale="log", yscale="log", xlabel="operations per byte of weights, inputs and outputs", ylabel="GOP/s")
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _throughput(axes: Axes, details: dict[str, object]) -> None:
    callers = cast(_Table, details["callers"])
    numbers, rates = [int(n) for n in callers], [float(cast(float, of["asks_per_s"])) for of in callers.values()]
    axes.plot(numbers, rates, marker="o", color=_COLOURS[0])
    axes.set(xlabel="callers", ylabel="answers per second", ylim=(0, None), xticks=numbers)


def _memory(axes: Axes, details: dict[str, object]) -> None:
    axes.plot(cast("list[int]", details["after"]), cast("list[float]", details["resident_mb"]), color=_COLOURS[0])
    axes.set(xlabel="answers", ylabel="resident MB", ylim=(0, None))


def _cold_start(axes: Axes, details: dict[str, object]) -> None:
    left = 0.0
    for number, (stage, seconds) in enumerate(cast("dict[str, float]", details["stages_s"]).items()):
        axes.barh([0], [seconds], left=left, color=_COLOURS[number], label=f"{stage} {seconds:.3f} s")
        left += seconds
    axes.set(xlabel="seconds since the start of the process", yticks=[], ylim=(-0.6, 1.4))
    axes.legend(ncols=3, fontsize=8, frameon=False, loc="upper left")


def _energy(axes: Axes, details: dict[str, object]) -> None:
    joules = cast("dict[str, float]", details["joules_per_ask"])
    axes.barh([kind.replace("_", " ") for kind in joules], list(joules.values()), color=_COLOURS[0])
    axes.set(xlabel="joules per answer")


def _track(axes: Axes, details: dict[str, object]) -> None:
    methods = cast("dict[str, dict[str, float]]", details["methods"])
    axes.barh([name.replace("_", " ") for name in methods], [of["all"] for of in methods.values()], color=_COLOURS[0])
    axes.set(xlabel="mean Dice", xlim=(0, 1))
    axes.invert_yaxis()


def _accuracy(axes: Axes, details: dict[str, object]) -> None:
    macro = {prompt: of["dice"] for prompt, of in cast("dict[str, dict[str, float]]", details["macro"]).items() if "dice" in of}
    axes.barh(list(macro), list(macro.values()), color=_COLOURS[0])
    axes.set(xlabel="Dice, mean over sets", xlim=(0, 1))
    axes.invert_yaxis()


_CHARTS: dict[str, Callable[[Axes, dict[str, object]], None]] = {
    "latency": _latency, "profile": _profile,
    "throughput": _throughput, "memory": _memory, "cold-start": _cold_start, "energy": _energy,
    "track": _track, "accuracy": _accuracy,
}  # fmt: skip
