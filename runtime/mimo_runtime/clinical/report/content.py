"""The report of a study: what a page or a PDF shows, without its layout.

Words are those of the answer and of the measurements. Nothing that identifies the patient is on it unless it is asked for.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from ..comparison import Comparison, Pair
from ..measurements import measure
from ..pictures import RESEARCH_USE, draw_frame
from ..study import Structure, StudyResult

#: Pictures that a report shows at most: the frame with the largest area of each structure, largest first.
MOST_PICTURES = 6

#: What every report says about itself.
LIMITS = (
    "The program names only the structures it was trained for; it may miss any of them.",
    "Millimetres come from the image file. The range of each measure is in parentheses.",
    "A person who can recognise a wrong outline has to check every result.",
)


@dataclass(frozen=True)
class ReportRow:
    """A measured structure: its name, its values as text, and whether it needs review."""

    name: str
    values: tuple[str, ...]
    needs_review: bool


@dataclass(frozen=True)
class ReportChange:
    """A structure at both times: its name, how it was matched, and its changes as text."""

    name: str
    matched_by: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class ReportPicture:
    """A PNG with its caption and its size in pixels."""

    png: bytes
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class StudyReport:
    """What a report shows, in its order.

    Args:
        title: of the page.
        facts: name and value of what is known of images and model.
        sentences, refusals: of the answer.
        pictures, rows, changes: structures as pictures, their measures, and their changes since the baseline.
        follow_up: sentences about the comparison.
        limits, mark: what every report says about itself.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    sentences: tuple[str, ...]
    refusals: tuple[str, ...]
    pictures: tuple[ReportPicture, ...]
    rows: tuple[ReportRow, ...]
    changes: tuple[ReportChange, ...]
    follow_up: tuple[str, ...]
    limits: tuple[str, ...]
    mark: str


def report_of(
    result: StudyResult, comparison: Comparison | None = None, before: StudyResult | None = None, patient: bool = False
) -> StudyReport:
    """The report of a result.

    Args:
        comparison, before: with an earlier examination; its picture is shown beside the first one.
        patient: show the patient's name and identifier of the header.
    """
    return StudyReport(
        title="Findings of a program",
        facts=tuple(_facts(result, patient)),
        sentences=tuple(dict.fromkeys(result.sentences))[:20],
        refusals=tuple(dict.fromkeys(result.refusals)),
        pictures=tuple(_pictures(result, before)),
        rows=tuple(_row(result, structure) for structure in result.structures),
        changes=tuple(_change(pair) for pair in comparison.pairs) if comparison else (),
        follow_up=tuple(_follow_up(comparison)) if comparison else (),
        limits=LIMITS,
        mark=RESEARCH_USE,
    )


def _facts(result: StudyResult, patient: bool) -> list[tuple[str, str]]:
    image = result.images[result.first_frame]
    header = image.source.header if image.source else None
    facts = []
    if patient and header is not None:
        facts += [("Patient", str(header.get("PatientName") or "")), ("Identifier", str(header.get("PatientID") or ""))]
    facts.append(
        ("Images", f"{len(result.images)} of {image.height} x {image.width} pixels, {image.modality or 'modality unknown'}")
    )
    spacing = image.geometry.spacing_mm
    meaning = {"detector": " on the detector, magnified", "film": " on the film", "ultrasound": " in the calibrated region"}
    plane = meaning.get(image.geometry.plane, "")
    facts.append(
        ("Pixel spacing", f"{spacing[0]:g} x {spacing[1]:g} mm{plane}" if spacing else "not stated: lengths are in pixels")
    )
    if result.problem:
        facts.append(("Series", f"no regular volume: {result.problem}"))
    facts.append(("Model", f"{result.model.name}, version {result.model.version}, {result.model.sha256[:12] or 'no hash'}"))
    return facts


def _row(result: StudyResult, structure: Structure) -> ReportRow:
    return ReportRow(structure.tracking_id, tuple(str(m) for m in measure(result, structure)), not structure.confident)


def follow_up_lines(comparison: Comparison) -> list[str]:
    """The comparison as sentences: the category, its notes, warnings, and each structure with its changes."""
    changes = [_change(pair) for pair in comparison.pairs]
    return [*_follow_up(comparison), *(f"{c.name}, {c.matched_by}: {'; '.join(c.values)}".rstrip(": ") for c in changes)]


def _change(pair: Pair) -> ReportChange:
    if pair.before is None or pair.now is None:
        return ReportChange(pair.name, "only now" if pair.before is None else "only before", ())
    values = []
    for change in pair.changes:
        percent = "" if change.percent is None else f", {change.percent:+.0f} %"
        uncertain = "" if change.is_certain else ", within the uncertainty"
        values.append(f"{change.name} {change.before:.1f} to {change.now:.1f} {change.unit}{percent}{uncertain}")
    confirm = ", to be confirmed" if pair.needs_confirmation else ""
    return ReportChange(pair.name, f"matched by {pair.matched_by}{confirm}", tuple(values))


def _follow_up(comparison: Comparison) -> list[str]:
    lines = []
    if comparison.target is not None:
        target = comparison.target
        sums = f"sum of diameters {target.baseline_mm:.1f} to {target.now_mm:.1f} mm"
        lines.append(f"Target lesions (RECIST 1.1): {target.category}. {sums}: {target.reason}.")
        lines += [f"Note: {note}." for note in target.notes]
    return lines + [f"Warning: {warning}." for warning in comparison.warnings]


def _pictures(result: StudyResult, before: StudyResult | None) -> list[ReportPicture]:
    pictures = []
    if before is not None:
        pictures.append(_picture(before, _frames(before)[0], "Before"))
    frames = _frames(result)[:MOST_PICTURES]
    for frame in frames:
        of_series = f"Frame {frame} (of 0 to {len(result.images) - 1})" if len(result.images) > 1 else "The image"
        pictures.append(_picture(result, frame, "Now" if before is not None else of_series))
    return pictures


def _frames(result: StudyResult) -> list[int]:
    ranked = sorted(result.structures, key=lambda s: -int(s.masks[s.largest_frame].sum()))
    return list(dict.fromkeys(s.largest_frame for s in ranked)) or [result.first_frame]


def _picture(result: StudyResult, frame: int, caption: str) -> ReportPicture:
    picture = draw_frame(result, frame, result.images[frame])
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return ReportPicture(stream.getvalue(), caption, picture.width, picture.height)
