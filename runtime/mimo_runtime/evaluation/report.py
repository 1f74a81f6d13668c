"""The result of :func:`mimo_runtime.evaluation.accuracy.evaluate` as Markdown: an overview, and the whole report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from urllib.parse import quote

from .results import (
    AccuracyResult,
    ConfidenceSummary,
    ContourSummary,
    Difference,
    GuaranteeResult,
    MaskSummary,
    Means,
    Meta,
    Rate,
    SetSlotShares,
    SlotShares,
    SubgroupSummary,
)
from .summary import BASELINES, MASK_PROMPTS, TEXT_SLOTS

_BASELINE_TITLES = {"ellipse": "ellipse in the box", "input_mask": "the rough mask itself"}
_SUBGROUP_TITLES = {
    "modality": "By modality",
    "size_quartile": "By size of the target, in quartiles of its share of the image within each set",
    "attribute": "By attribute of the image",
}


def overview(result: AccuracyResult) -> str:
    """Tables of Dice per set and prompt type beside the trivial baselines, of absent targets, of text and of confidence."""
    sections = _sets(result), _absent(result), _text(result), _confidence(result), _guarantees(result)
    return "\n".join([_origin(result["meta"]), *chain.from_iterable(sections)]) + "\n"


def markdown(result: AccuracyResult, pictures: Mapping[str, Sequence[str]] | None = None) -> str:
    """Everything that was measured.

    Args:
        pictures: file names by section: ``"sheets"``, ``"coverage_risk"``, ``"reliability"``.
    """
    # A data set, and with it a picture, may have a name with spaces.
    shown = {key: [f"![{name.rpartition('.')[0]}]({quote(name)})" for name in names] for key, names in (pictures or {}).items()}

    def show(key: str) -> list[str]:
        return [line for picture in shown.get(key, ()) for line in ("", picture)]

    lines = ["# Accuracy", "", _origin(result["meta"]), "", f"Intervals: {result['meta']['interval']}."]
    sections = (
        ("Masks", [*_sets(result), *_classes(result)]),
        ("Best, median and worst answers", show("sheets")),
        ("Subgroups", _subgroups(result)),
        ("Presence", [*_absent(result), *_reliability(result), *show("reliability")]),
        ("Text", _text(result)),
        ("Confidence", [*_confidence(result), *show("coverage_risk"), *_curve(result)]),
        ("Guarantees", [*_guarantees(result), *_class_guarantees(result)]),
    )
    for title, body in sections:
        if body:
            lines += ["", f"## {title}", *body]
    return "\n".join(lines) + "\n"


# -- sections: lines that begin with an empty one; none without samples --------------------------------------------------


def _origin(meta: Meta) -> str:
    what = f"Split `{meta['split']}`, {meta['images']} images, seed {meta['seed']}"
    if meta["limit"] is not None:
        what += f", at most {meta['limit']} images per set"
    if meta["model"]:
        what += f", model `{meta['model']}`" + (f" (SHA-256 {meta['sha256']}…)" if meta["sha256"] else "")
    if "weight_bits" in meta:
        but = f" but for {', '.join(meta['qat_skip'])}" if meta["qat_skip"] else ""
        what += f", weights rounded to {meta['weight_bits']} bits{but}"
    if refused := meta.get("refused_questions"):
        what += f", {refused} questions by name refused"
    return what + (f", engine {meta['engine']}" if meta["engine"] else "") + "."


def _sets(result: AccuracyResult) -> list[str]:
    sets, macro, baselines, gain = result["sets"], result["macro"], result["baselines"], result["box_gain"]
    prompts = [p for p in MASK_PROMPTS if p in macro]
    known = [b for b in BASELINES if b in baselines]
    if not prompts:
        return []
    rows = [
        [
            f"`{name}`",
            *(_dice(entry.get(p)) for p in prompts),
            *(_dice(baselines[b]["sets"].get(name)) for b in known),
            *([_gain(gain["sets"].get(name))] if gain else []),
        ]
        for name, entry in sets.items()
    ]
    rows.append(["**mean of sets**", *(_dice(macro[p]) for p in prompts), *(_dice(baselines[b]) for b in known)])
    head = ["set", *prompts, *(f"*{_BASELINE_TITLES[b]}*" for b in known)]
    if gain:
        rows[-1].append(_gain(gain))
        head.append("box minus ellipse")
    return ["", "Mean Dice with its 95 % bootstrap interval; in italics what needs no model.", "", *_table(head, rows)]


def _classes(result: AccuracyResult) -> list[str]:
    prompts = [p for p in MASK_PROMPTS if p in result["macro"]]
    rows = [
        [f"`{name}`", of, *(_number(entry[p]["dice"] if p in entry else None) for p in prompts), _counts(entry)]
        for name, classes in result["per_class"].items()
        for of, entry in sorted(classes.items())
    ]
    return ["", "Mean Dice per class.", "", *_table(["set", "class", *prompts, "n"], rows)] if rows else []


def _subgroups(result: AccuracyResult) -> list[str]:
    prompts, lines = [p for p in MASK_PROMPTS if p in result["macro"]], []
    for kind, title in _SUBGROUP_TITLES.items():
        rows = [
            [value, *(_dice(entry.get(p)) for p in prompts), _counts(entry)]
            for value, entry in result["subgroups"][kind].items()
        ]
        if rows:
            lines += ["", f"{title}: mean Dice with its 95 % interval.", "", *_table(["group", *prompts, "n"], rows)]
    return lines


def _absent(result: AccuracyResult) -> list[str]:
    absent = result["absent"]
    if not absent["n"]:
        return []
    texts = result["absent_text"]
    kinds = [
        ("within the set", absent["within"], texts["within"]),
        ("of other sets", absent["across"], texts["across"]),
        ("all", absent, texts),
    ]
    rows = [
        [
            title,
            *(_number(a[k]) for k in ("precision", "recall", "f1", "auc")),
            _number(s["share"]),
            _number(s["generated"]),
            str(a["n"]),
        ]
        for title, a, s in kinds
    ]
    what = f"Absent targets (presence threshold {_number(result['presence']['threshold'])})."
    if texts["n"]:
        what += " *The text says so*: it says that just this class is not visible."
    head = ["absent class", "precision", "recall", "F1", "AUC", "the text says so", "as the decoder wrote it", "n"]
    lines = ["", what, "", *_table(head, rows)]
    against = result["contradictions"]
    if against["n"]:
        what = (
            f"Text and finding contradict each other in {_number(against['share'])} of {against['n']} answers by name (present "
        )
        what += f"targets {_number(against['present']['share'])}, absent ones {_number(against['absent']['share'])}); as the "
        lines += ["", f"{what}decoder wrote it, in {_number(against['generated'])}."]
    if result["ece"] is not None:
        lines += ["", f"Expected calibration error of presence: {result['ece']:.3f}."]
    return lines


def _reliability(result: AccuracyResult) -> list[str]:
    rows = [
        [f"{b['low']:.2f}–{b['high']:.2f}", _number(b["mean_probability"]), _number(b["rate"]), str(b["n"])]
        for b in result["presence"]["bins"]
    ]
    if not rows:
        return []
    temperature = _number(result["presence"]["temperature"])
    what = f"How often a target is there, by how probable the model calls it (temperature {temperature})."
    return ["", what, "", *_table(["probability", "mean probability", "there", "n"], rows)]


def _text(result: AccuracyResult) -> list[str]:
    if all(share is None for share in _slots(result["text"])):
        return []
    rows = [[f"`{name}`", *map(_number, _slots(entry)), str(entry["n"])] for name, entry in result["text_sets"].items()]
    count = sum(entry["n"] for entry in result["text_sets"].values())
    rows.append(["**all answers**", *map(_number, _slots(result["text"])), str(count)])
    written = result["text_generated"]
    rows.append(["as the decoder wrote it", *map(_number, _slots(written)), str(count)])
    what = "Text answers, share of right slots. Location, size and count are measured on the mask beside the text."
    return ["", what, "", *_table(["set", *TEXT_SLOTS, "n"], rows)]


def _slots(shares: SlotShares | SetSlotShares) -> tuple[float | None, ...]:
    """In the order of :data:`TEXT_SLOTS`."""
    return shares["finding"], shares["modality"], shares["location"], shares["size"], shares["count"]


def _confidence(result: AccuracyResult) -> list[str]:
    entry = result["confidence"]
    if not entry:
        return []
    threshold = entry["all"]["threshold"]
    what = "Confidence: how the model's own IoU fits the true one, and the risk (1 - Dice) of the findings it is confident of"
    what += f" (score of at least {threshold:.3f}). " if threshold is not None else ". "
    what += "*AURC* is the mean risk over all coverages; lower is better."
    rows = [[name, *map(_number, _confidence_numbers(part)), str(part["n"])] for name, part in entry.items()]
    head = ["prompt", "Pearson", "Spearman", "mean error of IoU", "AURC", "coverage", "risk", "n"]
    return ["", what, "", *_table(head, rows)]


def _confidence_numbers(part: ConfidenceSummary) -> tuple[float | None, ...]:
    iou = part["iou_pearson"], part["iou_spearman"], part["iou_mae"]
    return *iou, part["aurc"], part["coverage_at_threshold"], part["risk_at_threshold"]


def _curve(result: AccuracyResult) -> list[str]:
    if not result["confidence"]:
        return []
    curve = result["confidence"]["all"]["risk_coverage"]
    rows = [[f"{100 * coverage:.0f} %", _number(risk)] for coverage, risk in zip(curve["coverage"], curve["risk"])]
    what = "All prompts: the risk of the findings with the highest scores, by how many are accepted."
    return ["", what, "", *_table(["coverage", "risk"], rows)]


def _guarantees(result: AccuracyResult) -> list[str]:
    measured, lines = result["guarantees"], list[str]()
    if measured["contours"]:
        what = f"Contours: promised to hold for {_percent(measured['coverage'])} of the masks; means over patients."
        rows = [_contour_row([kind], entry) for kind, entry in measured["contours"].items()]
        lines += ["", what, "", *_table(["prompt", *_CONTOUR_HEAD], rows), *_largest_difference(measured)]
    if measured["missed"]:
        what = f"Present structures that an answer by name excludes: promised at most {_percent(measured['miss_rate'])}, "
        lines += ["", f"{what}measured {_rate(measured['missed'])} over {measured['missed']['patients']} patients."]
    return lines


def _largest_difference(measured: GuaranteeResult) -> list[str]:
    """Of the measured coverages to the promised one."""
    promise = measured["coverage"]
    if promise is None:
        return []
    difference, kind, contour = max(
        (
            (rate["rate"] - promise, kind, contour)
            for kind, entry in measured["contours"].items()
            for contour, rate in (("inner", entry["inner"]), ("outer", entry["outer"]))
        ),
        key=lambda row: abs(row[0]),
    )
    points = f"{100 * difference:+.1f} percentage points ({contour} contour, {kind})"
    return ["", f"The largest difference to the promise is {points}. The goal is at most 3 points."]


def _class_guarantees(result: AccuracyResult) -> list[str]:
    measured = result["guarantees"]
    rows = [
        _contour_row([name, kind], entry)
        for name, kinds in measured["contours_per_class"].items()
        for kind, entry in kinds.items()
    ]
    lines = ["", *_table(["class", "prompt", *_CONTOUR_HEAD], rows)] if rows else []
    missed = [[name, _rate(rate), str(rate["patients"])] for name, rate in measured["missed_per_class"].items()]
    return [*lines, "", *_table(["class", "excluded although present", "patients"], missed)] if missed else lines


_CONTOUR_HEAD = ["inner holds", "outer holds", "inner / mask", "outer / mask", "stated", "patients", "n"]


def _contour_row(first: list[str], entry: ContourSummary) -> list[str]:
    holds, areas = (_rate(entry["inner"]), _rate(entry["outer"])), (entry["inner_area"], entry["outer_area"])
    counts = _percent(entry["stated"]), str(entry["inner"]["patients"]), str(entry["n"])
    return [*first, *holds, *(f"{area:.2f}" for area in areas), *counts]


# -- cells -----------------------------------------------------------------------------------------------------------


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (head, ["---"] * len(head), *rows)]


def _dice(summary: MaskSummary | SubgroupSummary | None) -> str:
    if summary is None:
        return "–"
    low, high = summary["ci95"]
    return f"{summary['dice']:.3f} ({low:.3f}–{high:.3f})"


def _gain(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    low, high = difference["ci95"]
    return f"{difference['dice']:+.3f} ({low:+.3f} to {high:+.3f})"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.3g} %"


def _rate(rate: Rate) -> str:
    low, high = rate["ci95"]
    return f"{rate['rate']:.3f} ({low:.3f}–{high:.3f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _counts(parts: Mapping[str, Means] | Mapping[str, SubgroupSummary]) -> str:
    """Samples by prompt: one number where all prompts have the same."""
    counts = [part["n"] for part in parts.values()]
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}–{max(counts)}"
