"""The results of ``mimo-bench robustness`` as tables and a picture, and the table of ``mimo-bench referring``.

Matplotlib is imported by the functions that draw.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimo_runtime.cli.app import table
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.referring import ANSWERS, PROMPTS
from mimo_runtime.utils.atomic import atomic_write_bytes

from ..report.output import check_writable
from .robustness import CONDITIONS, GEOMETRY, JITTER, OFFSET, QUERY, SHIFT, USUAL_JITTER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXT_FILE, PICTURE_FILE = "robustness.md", "robustness.png"

#: Colours that people with any colour vision tell apart (Okabe and Ito 2008), and a shape for those who print in grey.
_LOOK = {"box": ("#0072B2", "o"), "point": ("#009E73", "D"), "text": ("#D55E00", "s")}
_HATCH = {"box": "", "point": "", "text": "////"}
#: Between title and axes, for which the title leaves room.
_LEGEND = {
    "frameon": False, "loc": "lower left", "bbox_to_anchor": (-0.02, 0.99), "ncols": 2, "fontsize": 9, "handlelength": 2,
    "columnspacing": 1.2, "borderpad": 0.1,
}  # fmt: skip
_INK, _FAINT = "#222222", "#767676"

_HOW = {
    JITTER: (
        "Box jitter",
        "Prompt: a box alone. Each side of the tight box moves by a random part, at most so many percent, of the length of the "
        "box along that direction, and stays within the image. The directions are the same in all rows. *Ellipse* is the "
        "ellipse inscribed in the very same box: what needs no model.",
    ),
    OFFSET: (
        "Point offset",
        "Prompt: one point alone. It starts on the pixel of the target that is farthest from the edge, moves by so many pixels "
        "in one random direction, the same in all rows, and stays within the image. Where the target is small, the point "
        "leaves it: *beside the target* is the share of points that no longer lie on it and could mean something else.",
    ),
    SHIFT: (
        "Image shifts",
        f"Prompts: a box (each side moved by up to {USUAL_JITTER} %), and the class name. Contrast is about the mean of each "
        "channel, gamma a power of the level, noise and its standard deviation in levels of 8 bits, blur a standard deviation "
        "in pixels; a lower resolution is made by averaging and enlarged again. Prompt and truth stay as they are.",
    ),
    GEOMETRY: (
        "Geometry",
        f"Prompts: a box (each side moved by up to {USUAL_JITTER} %), and the class name. Image, truth and box are flipped or "
        "turned together, against the clock, without a change of any pixel's value.",
    ),
    QUERY: (
        "Query",
        "Prompt: a text alone; the target is the whole class. *name* is the name in the data set. *synonyms* is the mean over "
        "all known ones, for the classes that have some. A slip swaps, drops, doubles or replaces a letter. A question is "
        "drawn from the templates of its kind. Training of the shipped model draws the same synonyms, kinds of slips and "
        "templates: these rows measure what was practised, not words that the model never met.",
    ),
}  # fmt: skip


# -- tables ----------------------------------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    """One table per group, with a paragraph on how it is measured."""
    meta = result["meta"]
    names = [f"{name} {count}" for name, count in meta["images_per_set"].items()]
    model = f"Model `{meta['model']}`" + (f" on {meta['engine']}" if meta["engine"] else "") if meta["model"] else "A model"
    lines = [
        "# Robustness",
        "",
        f"{model}, split `{meta['split']}`, {meta['images']} images ({', '.join(names)}), seed {meta['seed']}. Dice is the "
        "mean over data sets of the mean over targets, with its 95 % bootstrap interval over cases (patients). *Change* is the "
        "mean difference to the first row of the same prompt, target by target: where a row leaves targets out, it still "
        "compares like with like.",
    ]
    for group, (title, how) in _HOW.items():
        rows = result["conditions"][group]
        lines += ["", f"## {title}", "", how, ""]
        more = {JITTER: ("*ellipse*", "baseline_dice"), OFFSET: ("beside the target", "left_target")}.get(group)
        head = ["condition", "prompt", "Dice", "change", *(more[:1] if more else ()), "n"]
        lines += [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        for row in rows:
            extra = [_extra(row, more[1])] if more else []
            change = "–" if row["name"] == CONDITIONS[group][0] else _change(row)
            cells = [row["name"], row["prompt"], _number(row["dice"], row["ci95"]), change, *extra, str(row["n"])]
            lines.append(f"| {' | '.join(cells)} |")
        if group == GEOMETRY:
            for condition, left_out in meta["skipped"].items():
                lines += ["", f"Left out under *{condition}*, prompt {left_out['prompt']}: {', '.join(left_out['classes'])}. "
                          "The mirror makes left right, and neither answer would be wrong."]  # fmt: skip
        if group == QUERY:
            lines += _synonyms(result)
    if meta["refused_questions"]:
        lines += ["", f"{meta['refused_questions']} questions were too long for the model and count as an empty mask."]
    return "\n".join(lines) + "\n"


def referring_table(result: dict[str, Any]) -> str:
    """The shares of right answers as aligned text: the mean of the sets, then each set and class, then all answers."""
    meta = result["meta"]
    all_of = {**{prompt: result[prompt] for prompt in PROMPTS}, **result["baselines"]}
    heads = (k.replace("text+", "name + ").replace("ellipse", "ellipse in the box") for k in ANSWERS)
    rows = [("set", "class", "images", "instances", *heads)]
    rows.append(("mean of sets", "", "", "", *(_share(all_of[k], "macro", "macro_ci95") for k in ANSWERS)))
    for name, classes in result["sets"].items():
        for of, found in (("all", classes), *result["classes"][name].items()):
            if of == "all" and len(result["classes"][name]) == 1:
                continue
            rows.append((name, of, *_counts(found["box"]), *(_share(found[k]) for k in ANSWERS)))
    rows.append(("all answers", "", *_counts(all_of["box"]), *(_share(all_of[k]) for k in ANSWERS)))
    told = f"{meta['model'] or 'model'}, split {meta['split']}, seed {meta['seed']}: how often exactly the asked instance"
    return "\n".join([told, table(rows)])


# -- report ----------------------------------------------------------------------------------------------------------


def check_report(folder: Path) -> None:
    """Refuse a report before the work rather than after it.

    Raises:
        RequestError: ``folder`` is a file, or cannot be written.
        ModuleNotFoundError: matplotlib is not installed; the command line says how to install it.
    """
    import matplotlib  # noqa: F401

    if folder.exists() and not folder.is_dir():
        raise RequestError(f"report {folder} is a file", "Name a folder")
    check_writable(*(folder / name for name in (TEXT_FILE, PICTURE_FILE)) if folder.is_dir() else (folder,))


def write_report(result: dict[str, Any], folder: Path) -> None:
    """Write ``robustness.md`` and ``robustness.png`` into ``folder``, which is made; other files there stay."""
    folder.mkdir(exist_ok=True)
    head, _, rest = markdown(result).partition("\n\n")
    text = f"{head}\n\n![Dice under each condition]({PICTURE_FILE})\n\n{rest}"
    atomic_write_bytes(folder / PICTURE_FILE, picture(result))
    atomic_write_bytes(folder / TEXT_FILE, text.encode("utf-8"))


def picture(result: dict[str, Any]) -> bytes:
    """A PNG, 1800 pixels wide: curves of Dice, and bars of the change in Dice on one scale."""
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
            "g": (GEOMETRY, "Image flipped or turned"),
            "s": (SHIFT, "Image changed"),
            "q": (QUERY, "Asked in other words"),
        }
        changes = [v for group, _ in panels.values() for row in conditions[group] for v in row["delta_ci95"]]
        low, high = min([-0.05, *changes]), max([0.0, *changes])
        room = 0.2 * (high - low)  # for the numbers beside the bars
        for place, (group, title) in panels.items():
            _bars(axes[place], conditions[group], title)
            axes[place].set_xlim(low - room, high + room / 4)
        told = f"{meta['model'] or 'Robustness'}, split {meta['split']}, {meta['images']} images"
        figure.suptitle(f"{told}. Mean Dice over sets; bands and whiskers are 95 % intervals.", x=0.01, ha="left", color=_INK)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=150, facecolor="white")
        pyplot.close(figure)
    return data.getvalue()


def _jitter_curves(axis: Axes, rows: list[dict[str, Any]]) -> None:
    axis.set_title("Box drawn imprecisely")
    _curve(axis, rows, "box", "model")
    _faint_curve(axis, rows, "baseline_dice", "--", "ellipse in the box")
    _finish_curves(axis, rows, "each side off by up to ... % of its length")


def _offset_curves(axis: Axes, rows: list[dict[str, Any]]) -> None:
    axis.set_title("Point beside the middle")
    _curve(axis, rows, "point", "model")
    on_target = [{**row, "on_target": 1 - row["left_target"]} for row in rows]
    _faint_curve(axis, on_target, "on_target", ":", "share of points on the target")
    _finish_curves(axis, rows, "pixels from the middle of the target")


def _curve(axis: Axes, rows: list[dict[str, Any]], prompt: str, label: str) -> None:
    colour, marker = _LOOK[prompt]
    levels = [row["level"] for row in rows]
    axis.fill_between(levels, *zip(*(row["ci95"] for row in rows)), color=colour, alpha=0.15, linewidth=0)
    axis.plot(levels, [row["dice"] for row in rows], color=colour, marker=marker, markersize=6, linewidth=2, label=label)
    first, last = rows[0], rows[-1]
    for row, shift, align in ((first, (0, 10), {"ha": "left"}), (last, (8, 0), {"va": "center"})):
        place = row["level"], row["dice"]
        axis.annotate(f"{row['dice']:.2f}", place, shift, textcoords="offset points", color=colour, **align)


def _faint_curve(axis: Axes, rows: list[dict[str, Any]], key: str, line: str, label: str) -> None:
    axis.plot([r["level"] for r in rows], [r[key] for r in rows], color=_FAINT, linestyle=line, linewidth=1.8, label=label)


def _finish_curves(axis: Axes, rows: list[dict[str, Any]], what: str) -> None:
    axis.set(xlabel=what, ylabel="Dice", ylim=(0, 1.04), xticks=[row["level"] for row in rows])
    axis.grid(axis="y", alpha=0.3)
    axis.legend(**_LEGEND)


def _bars(axis: Axes, rows: list[dict[str, Any]], title: str) -> None:
    """The changes to the clean condition, which itself is told in words."""
    axis.set_title(title)
    prompts = [prompt for prompt in _LOOK if any(row["prompt"] == prompt for row in rows)]
    clean: dict[str, dict[str, Any]] = {}
    for row in rows:
        clean.setdefault(row["prompt"], row)
    shown = [row for row in rows if row is not clean[row["prompt"]]]
    names = list(dict.fromkeys(row["name"] for row in shown))
    height = 0.8 / max(2, len(prompts))
    for row in shown:
        colour, _ = _LOOK[row["prompt"]]
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
        axis.barh(0, 0, color=_LOOK[p][0], hatch=_HATCH[p], edgecolor="white", linewidth=0) for p in prompts
    ]  # empty bars, for the legend alone
    labels = [f"{p}, {clean[p]['dice']:.2f} before" for p in prompts]
    axis.legend(handles, labels, **_LEGEND)


def _signed(value: float) -> str:
    """Two digits and a sign, none before zero."""
    return f"{value:+.2f}".replace("-", "\u2212") if abs(value) >= 0.005 else "0.00"


def _extra(row: dict[str, Any], key: str) -> str:
    return f"{100 * row[key]:.0f} %" if key == "left_target" else f"{row[key]:.3f}"


def _number(value: float, ci95: list[float]) -> str:
    return f"{value:.3f} ({ci95[0]:.3f}–{ci95[1]:.3f})"


def _change(row: dict[str, Any]) -> str:
    low, high = row["delta_ci95"]
    return f"{row['delta']:+.3f} ({low:+.3f} to {high:+.3f})"


def _synonyms(result: dict[str, Any]) -> list[str]:
    rows = result["synonyms"]
    if not rows:
        return []
    lines = ["", "Each synonym against the name, mean over images.", ""]
    lines += ["| class | synonym | Dice | change | n |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {r['class']} | {r['synonym']} | {r['dice']:.3f} | {r['delta']:+.3f} | {r['n']} |" for r in rows]
    return lines


def _counts(found: dict[str, Any]) -> tuple[str, str]:
    return str(found["images"]), str(found["n"])


def _share(found: dict[str, Any], of: str = "right", interval: str = "ci95") -> str:
    low, high = found[interval]
    return f"{100 * found[of]:.1f} % ({100 * low:.0f}-{100 * high:.0f})"
