"""The picture of the robustness report. Matplotlib is imported by the function that draws."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mimo_runtime.utils.temporary import keep_matplotlib_out_of_home

from .conditions import GEOMETRY, JITTER, OFFSET, QUERY, SHIFT
from .robustness import ConditionRow, Robustness

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours that people with any colour vision tell apart (Okabe and Ito 2008), and a shape for those who print in grey.
_STYLE = {"box": ("#0072B2", "o"), "point": ("#009E73", "D"), "text": ("#D55E00", "s")}
_HATCH = {"box": "", "point": "", "text": "////"}
#: Between title and axes, for which the title leaves space.
_LEGEND = {
    "frameon": False, "loc": "lower left", "bbox_to_anchor": (-0.02, 0.99), "ncols": 2, "fontsize": 9, "handlelength": 2,
    "columnspacing": 1.2, "borderpad": 0.1,
}  # fmt: skip
_INK, _FAINT = "#222222", "#767676"


def picture(result: Robustness) -> bytes:
    """A PNG, 1800 pixels wide: curves of Dice, and bars of the change in Dice on one scale."""
    keep_matplotlib_out_of_home()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    conditions, meta = result["conditions"], result["meta"]
    style = {
        "font.size": 10, "axes.titlesize": 12, "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.titlepad": 24,
        "text.color": _INK, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "axes.edgecolor": _FAINT,
        "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with pyplot.rc_context(style):
        figure = pyplot.figure(figsize=(12, 9.6), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        # Two figures, because long labels of the lower row would push the columns of the upper one apart.
        upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.5])
        axes = {**upper.subplot_mosaic("jog"), **lower.subplot_mosaic("sq")}
        _jitter_curves(axes["j"], conditions[JITTER])
        _offset_curves(axes["o"], conditions[OFFSET])
        panels = {
            "g": (GEOMETRY, "Image flipped or rotated"),
            "s": (SHIFT, "Image corrupted"),
            "q": (QUERY, "Other wordings"),
        }
        changes = [v for group, _ in panels.values() for row in conditions[group] for v in row["delta_ci95"]]
        low, high = min([-0.05, *changes]), max([0.0, *changes])
        margin = 0.2 * (high - low)  # for the numbers beside the bars
        for place, (group, title) in panels.items():
            _bars(axes[place], conditions[group], title)
            axes[place].set_xlim(low - margin, high + margin / 4)
        title = f"{meta['model'] or 'Robustness'}, split {meta['split']}, {meta['images']} images"
        figure.suptitle(f"{title}. Mean Dice over sets; bands and whiskers are 95 % intervals.", x=0.01, ha="left", color=_INK)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=150, facecolor="white")
        pyplot.close(figure)
    return data.getvalue()


def _jitter_curves(axis: Axes, rows: Sequence[ConditionRow]) -> None:
    axis.set_title("Imprecise box")
    _curve(axis, rows, "box", "model")
    _faint_curve(axis, rows, "baseline_dice", "--", "ellipse in the box")
    _finish_curves(axis, rows, "each side off by up to ... % of its length")


def _offset_curves(axis: Axes, rows: Sequence[ConditionRow]) -> None:
    axis.set_title("Misplaced point")
    _curve(axis, rows, "point", "model")
    on_target = [{**row, "on_target": 1 - row["left_target"]} for row in rows]
    _faint_curve(axis, on_target, "on_target", ":", "share of points on the target")
    _finish_curves(axis, rows, "pixels from the center of the target")


def _curve(axis: Axes, rows: Sequence[ConditionRow], prompt: str, label: str) -> None:
    colour, marker = _STYLE[prompt]
    levels = [row["level"] for row in rows]
    axis.fill_between(levels, *zip(*(row["ci95"] for row in rows)), color=colour, alpha=0.15, linewidth=0)
    axis.plot(levels, [row["dice"] for row in rows], color=colour, marker=marker, markersize=6, linewidth=2, label=label)
    first, last = rows[0], rows[-1]
    for row, shift, align in ((first, (0, 10), {"ha": "left"}), (last, (8, 0), {"va": "center"})):
        place = row["level"], row["dice"]
        axis.annotate(f"{row['dice']:.2f}", place, shift, textcoords="offset points", color=colour, **align)


def _faint_curve(axis: Axes, rows: Sequence[ConditionRow], key: str, line: str, label: str) -> None:
    axis.plot([r["level"] for r in rows], [r[key] for r in rows], color=_FAINT, linestyle=line, linewidth=1.8, label=label)


def _finish_curves(axis: Axes, rows: Sequence[ConditionRow], what: str) -> None:
    axis.set(xlabel=what, ylabel="Dice", ylim=(0, 1.04), xticks=[row["level"] for row in rows])
    axis.grid(axis="y", alpha=0.3)
    axis.legend(**_LEGEND)


def _bars(axis: Axes, rows: Sequence[ConditionRow], title: str) -> None:
    """The changes to the clean condition, which the legend gives in words."""
    axis.set_title(title)
    prompts = [prompt for prompt in _STYLE if any(row["prompt"] == prompt for row in rows)]
    clean: dict[str, ConditionRow] = {}
    for row in rows:
        clean.setdefault(row["prompt"], row)
    shown = [row for row in rows if row is not clean[row["prompt"]]]
    names = list(dict.fromkeys(row["name"] for row in shown))
    height = 0.8 / max(2, len(prompts))
    for row in shown:
        colour, _ = _STYLE[row["prompt"]]
        y = names.index(row["name"]) + (prompts.index(row["prompt"]) - (len(prompts) - 1) / 2) * height
        low, high = row["delta_ci95"]
        axis.barh(y, row["delta"], height * 0.92, color=colour, hatch=_HATCH[row["prompt"]], edgecolor="white", linewidth=0)
        axis.plot((low, high), (y, y), color=_INK, linewidth=1)
        axis.annotate(
            _signed(row["delta"]), (min(low, 0), y), (-4, 0), textcoords="offset points", ha="right",
            va="center", fontsize=8.5, color=colour,
        )  # fmt: skip
    axis.axvline(0, color=_INK, linewidth=1)
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel("change in Dice")
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    handles = [
        axis.barh(0, 0, color=_STYLE[p][0], hatch=_HATCH[p], edgecolor="white", linewidth=0) for p in prompts
    ]  # empty bars, for the legend alone
    labels = [f"{p}, {clean[p]['dice']:.2f} before" for p in prompts]
    axis.legend(handles, labels, **_LEGEND)


def _signed(value: float) -> str:
    """Two digits and a sign, none before zero."""
    return f"{value:+.2f}".replace("-", "\u2212") if abs(value) >= 0.005 else "0.00"
