"""The report of a study: what a page or a PDF shows, without its layout.

Words are those of the answer and of the measurements. Nothing that identifies the patient is on it unless it is asked for.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from ..comparison import Comparison, Pair
from ..measurements import measure
from ..pictures import RESEARCH_USE, draw_frame
from ..recist import CATEGORIES
from ..study import Structure, StudyResult

#: Pictures that a report shows at most: the frame with the largest area of each structure, largest first.
MOST_PICTURES = 6

#: Modalities that are written in capitals.
_ABBREVIATIONS = {"ct": "CT", "mri": "MRI", "pet": "PET", "oct": "OCT", "xray": "X-ray"}
#: What every report says about itself.
LIMITS = (
    "The program names only the structures it was trained for; it may miss any of them.",
    "Millimetres come from the image file. The range is what a narrower and a wider outline give.",
    "A person who can recognise a wrong outline has to check every result.",
)


@dataclass(frozen=True)
class ReportValue:
    """A measure as text: its name, value with unit, range, and what to know about the unit."""

    name: str
    value: str
    span: str
    note: str


@dataclass(frozen=True)
class ReportRow:
    """A measured structure: its name, its measures, and whether it needs review."""

    name: str
    values: tuple[ReportValue, ...]
    needs_review: bool


@dataclass(frozen=True)
class ReportDelta:
    """A measure at both times as text, its change, and whether that is larger than the uncertainty."""

    name: str
    before: str
    now: str
    change: str
    is_certain: bool

    def __str__(self) -> str:
        uncertain = "" if self.is_certain else ", within the uncertainty"
        return f"{self.name} {self.before} to {self.now}{self.change and ', '}{self.change}{uncertain}"


@dataclass(frozen=True)
class ReportChange:
    """A structure at both times: its name, how it was matched, and its measures at both."""

    name: str
    matched_by: str
    values: tuple[ReportDelta, ...]


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
        title="Image analysis report",
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
    facts.append(("Images", f"{len(result.images)} of {image.height} x {image.width} pixels, {_modality(image.modality)}"))
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


def _modality(word: str | None) -> str:
    return _ABBREVIATIONS.get(word or "", word or "modality unknown")


def _row(result: StudyResult, structure: Structure) -> ReportRow:
    values = tuple(ReportValue(m.name, _shown(m.number), m.span, m.note) for m in measure(result, structure))
    return ReportRow(structure.tracking_id, values, not structure.confident)


def _shown(number: str) -> str:
    """A number whose unit has a raised 2."""
    return f"{number[:-1]}²" if number.endswith(("mm2", "px2")) else number


def follow_up_lines(comparison: Comparison) -> list[str]:
    """The comparison as sentences: the category, its notes, warnings, and each structure with its changes."""
    changes = [_change(pair) for pair in comparison.pairs]
    texts = (f"{c.name}, {c.matched_by}: {'; '.join(map(str, c.values))}".rstrip(": ") for c in changes)
    return [*_follow_up(comparison), *texts]


def _change(pair: Pair) -> ReportChange:
    if pair.before is None or pair.now is None:
        return ReportChange(pair.name, "only now" if pair.before is None else "only before", ())
    values = tuple(
        ReportDelta(c.name, f"{c.before:.1f}", _shown(f"{c.now:.1f} {c.unit}".rstrip()), _percent(c.percent), c.is_certain)
        for c in pair.changes
    )
    confirm = ", to be confirmed" if pair.needs_confirmation else ""
    return ReportChange(pair.name, f"matched by {pair.matched_by}{confirm}", values)


def _percent(percent: float | None) -> str:
    if percent is None:
        return ""
    return "0 %" if abs(percent) < 0.5 else f"{percent:+.0f} %"


def _follow_up(comparison: Comparison) -> list[str]:
    lines = []
    if comparison.target is not None:
        target = comparison.target
        sums = f"Sum of diameters {target.baseline_mm:.1f} to {target.now_mm:.1f} mm"
        name = CATEGORIES.get(target.category, "")
        lines.append(f"Target lesions (RECIST 1.1): {target.category}{name and ', '}{name}. {sums}: {target.reason}.")
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
    picture = draw_frame(result, frame, result.images[frame], measures=False)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return ReportPicture(stream.getvalue(), caption, picture.width, picture.height)
