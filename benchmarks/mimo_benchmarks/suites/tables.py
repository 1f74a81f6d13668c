"""The results of ``mimo-bench referring`` and ``mimo-bench relations`` as tables."""

from __future__ import annotations

from mimo_runtime.evaluation.referring import ANSWERS
from mimo_runtime.evaluation.results import ReferringOverall, ReferringResult, ReferringSummary
from mimo_runtime.utils.tables import table

from .relations import Relations, Share


def referring_table(result: ReferringResult) -> str:
    """The shares of right answers as aligned text: the mean of the sets, then each set and class, then all answers."""
    meta = result["meta"]
    all_of = {
        "box": result["box"], "point": result["point"], "text+box": result["text+box"], "text+point": result["text+point"],
        **result["baselines"],
    }  # fmt: skip
    heads = (k.replace("text+", "name + ").replace("ellipse", "ellipse in the box") for k in ANSWERS)
    rows = [("set", "class", "images", "instances", *heads)]
    rows.append(("mean of sets", "", "", "", *(_macro_share(all_of[k]) for k in ANSWERS)))
    for name, classes in result["sets"].items():
        for of, part in (("all", classes), *result["classes"][name].items()):
            if of == "all" and len(result["classes"][name]) == 1:
                continue
            rows.append((name, of, *_counts(part["box"]), *(_share(part[k]) for k in ANSWERS)))
    rows.append(("all answers", "", *_counts(all_of["box"]), *(_share(all_of[k]) for k in ANSWERS)))
    title = f"{meta['model'] or 'model'}, split {meta['split']}, seed {meta['seed']}: how often exactly the requested instance"
    goal = f"By a point, the mean of the sets is {_macro_share(result['point'])}. The goal is at least 90 %."
    return "\n".join([title, table(rows), goal])


def _counts(part: ReferringSummary) -> tuple[str, str]:
    return str(part["images"]), str(part["n"])


def _share(part: ReferringSummary) -> str:
    return _percent(part["right"], part["ci95"])


def _macro_share(part: ReferringOverall) -> str:
    return _percent(part["macro"], part["macro_ci95"])


def _percent(share: float, interval: list[float]) -> str:
    low, high = interval
    return f"{100 * share:.1f} % ({100 * low:.0f}-{100 * high:.0f})"


def relations_table(result: Relations) -> str:
    """The result of :func:`~mimo_benchmarks.suites.relations.measure_relations` as a Markdown table, all images last."""
    head = ["set", "named: precision", "recall", "F1", "Dice", "counts right"]
    head += ["relations right", "baseline", "neighbours right", "baseline", "absent: says so"]
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, part in [*((f"`{n}`", p) for n, p in result["sets"].items()), ("**all images**", result)]:
        everything = part["everything"]
        cells = [_number(everything[key]) for key in ("precision", "recall", "f1")]
        cells += [_number(everything["dice"], everything["dice_ci95"]), _right(part["counts"])]
        for share in (part["relations"], part["neighbours"]):
            cells += [_right(share), _number(share["baseline"] if share else None)]
        cells.append(_right(part["absent_relations"]))
        rows.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join([*rows, "", *_relation_goals(result)])


def _relation_goals(result: Relations) -> list[str]:
    """One line for each share, with its goal."""
    lines = []
    if counts := result["counts"]:
        lines.append(f"Counting word right: {100 * counts['right']:.1f} % of {counts['n']}. The goal is at least 80 %.")
    for name, share in (("Relations", result["relations"]), ("Neighbours", result["neighbours"])):
        if share and "baseline" in share:
            gain = 100 * (share["right"] - share["baseline"])
            lines.append(f"{name}: {gain:+.1f} percentage points over the answer without the image. The goal is at least +10.")
    return lines


def _right(part: Share | None) -> str:
    return f"{_number(part['right'], part['ci95'])} of {part['n']}" if part else "–"


def _number(value: float | None, ci95: list[float] | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({ci95[0]:.3f}–{ci95[1]:.3f})" if ci95 else "")
