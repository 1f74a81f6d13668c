"""The report of ``mimo-bench robustness``: one table per group of conditions, and a picture."""

from __future__ import annotations

from pathlib import Path

from mimo_runtime.errors import RequestError
from mimo_runtime.utils.atomic import atomic_write_bytes, check_output_file
from mimo_runtime.utils.temporary import keep_matplotlib_out_of_home

from .charts import picture
from .conditions import CONDITIONS, GEOMETRY, JITTER, OFFSET, QUERY, SHIFT, USUAL_JITTER
from .robustness import ConditionRow, Robustness

TEXT_FILE, PICTURE_FILE = "robustness.md", "robustness.png"

_METHODS = {
    JITTER: (
        "Box jitter",
        "Prompt: a box alone. Each side of the tight box moves by a random part of the box's length along that direction: at "
        "most the given percentage. It stays within the image. The directions are the same in all rows. *Ellipse* is the "
        "ellipse inscribed in the same box, which needs no model.",
    ),
    OFFSET: (
        "Point offset",
        "Prompt: one point alone. It starts on the pixel of the target that is farthest from the edge. It moves by the given "
        "number of pixels in one random direction, the same in all rows, and stays within the image. *Beside the target* is "
        "the share of points that no longer lie on it.",
    ),
    SHIFT: (
        "Image corruptions",
        f"Prompts: a box (each side moved by up to {USUAL_JITTER} %), and the class name. Contrast is about the mean of each "
        "channel, gamma a power of the level, noise and its standard deviation in levels of 8 bits, blur a standard deviation "
        "in pixels; a lower resolution is made by averaging and enlarged again. Prompt and truth do not change.",
    ),
    GEOMETRY: (
        "Geometry",
        f"Prompts: a box (each side moved by up to {USUAL_JITTER} %), and the class name. Image, truth and box are flipped or "
        "rotated together, counterclockwise. No pixel value changes.",
    ),
    QUERY: (
        "Query",
        "Prompt: a text alone; the target is the whole class. *name* is the name in the data set. *synonyms* is the mean over "
        "all known ones, for the classes that have some. A typo swaps, drops, doubles or replaces a letter. A question is "
        "drawn from the templates of its kind. Training of the shipped model draws the same synonyms, kinds of typos and "
        "templates: these rows measure wordings of the training, not unknown words.",
    ),
}  # fmt: skip


# -- tables ----------------------------------------------------------------------------------------------------------


def markdown(result: Robustness) -> str:
    """One table per group, with a paragraph on how it is measured."""
    meta = result["meta"]
    names = [f"{name} {count}" for name, count in meta["images_per_set"].items()]
    model = f"Model `{meta['model']}`" + (f" on {meta['engine']}" if meta["engine"] else "") if meta["model"] else "A model"
    lines = [
        "# Robustness",
        "",
        f"{model}, split `{meta['split']}`, {meta['images']} images ({', '.join(names)}), seed {meta['seed']}. Dice is the "
        "mean over data sets of the mean over targets, with its 95 % bootstrap interval over cases (patients). *Change* is the "
        "mean difference to the first row of the same prompt, over the "
        "targets of the row.",
    ]
    for group, rows in result["conditions"].items():
        title, how = _METHODS[group]
        lines += ["", f"## {title}", "", how, ""]
        column = {JITTER: ["*ellipse*"], OFFSET: ["beside the target"]}.get(group, [])
        head = ["condition", "prompt", "Dice", "change", *column, "n"]
        lines += [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        for row in rows:
            extra = [_extra(row)] if column else []
            change = "–" if row["name"] == CONDITIONS[group][0] else _change(row)
            cells = [row["name"], row["prompt"], _number(row["dice"], row["ci95"]), change, *extra, str(row["n"])]
            lines.append(f"| {' | '.join(cells)} |")
        if group == GEOMETRY:
            lines += _turned(result)
            for condition, left_out in meta["skipped"].items():
                lines += ["", f"Left out under *{condition}*, prompt {left_out['prompt']}: {', '.join(left_out['classes'])}. "
                          "The mirror makes left right, and neither answer would be wrong."]  # fmt: skip
        if group == QUERY:
            lines += _synonyms(result)
    if meta["refused_questions"]:
        lines += [
            "",
            f"{meta['refused_questions']} questions were too long for the model or refused, and count as an empty mask.",
        ]
    return "\n".join(lines) + "\n"


# -- report ----------------------------------------------------------------------------------------------------------


def check_report(folder: Path) -> None:
    """Refuse a report before the work rather than after it.

    Raises:
        RequestError: ``folder`` is a file, or cannot be written.
        ModuleNotFoundError: matplotlib is not installed; the command line says how to install it.
    """
    keep_matplotlib_out_of_home()
    import matplotlib  # noqa: F401

    if folder.exists() and not folder.is_dir():
        raise RequestError(f"report {folder} is a file", "Name a folder")
    for path in [folder / name for name in (TEXT_FILE, PICTURE_FILE)] if folder.is_dir() else [folder]:
        check_output_file(path)


def write_report(result: Robustness, folder: Path) -> None:
    """Write ``robustness.md`` and ``robustness.png`` into ``folder``, which is made; other files there stay."""
    folder.mkdir(exist_ok=True)
    head, _, rest = markdown(result).partition("\n\n")
    text = f"{head}\n\n![Dice under each condition]({PICTURE_FILE})\n\n{rest}"
    atomic_write_bytes(folder / PICTURE_FILE, picture(result))
    atomic_write_bytes(folder / TEXT_FILE, text.encode("utf-8"))


def _extra(row: ConditionRow) -> str:
    return f"{100 * row['left_target']:.0f} %" if "left_target" in row else f"{row['baseline_dice']:.3f}"


def _number(value: float, ci95: list[float]) -> str:
    return f"{value:.3f} ({ci95[0]:.3f}–{ci95[1]:.3f})"


def _change(row: ConditionRow) -> str:
    low, high = row["delta_ci95"]
    return f"{row['delta']:+.3f} ({low:+.3f} to {high:+.3f})"


def _turned(result: Robustness) -> list[str]:
    turned = result["turned"]
    if turned is None:
        return []
    loss = f"{turned['loss']:.3f} ({turned['loss_ci95'][0]:.3f} to {turned['loss_ci95'][1]:.3f})"
    return ["", f"By name, *{turned['condition']}* costs most: {loss} of Dice. The goal is at most 0.10."]


def _synonyms(result: Robustness) -> list[str]:
    rows = result["synonyms"]
    if not rows:
        return []
    lines = ["", "Each synonym against the name, mean over images.", ""]
    lines += ["| class | synonym | Dice | change | n |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {r['class']} | {r['synonym']} | {r['dice']:.3f} | {r['delta']:+.3f} | {r['n']} |" for r in rows]
    return lines
