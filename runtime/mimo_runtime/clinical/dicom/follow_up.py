"""Follow-up as DICOM SR: the structured report of the later examination with what changed since the baseline.

Each measurement group gets its time point, how the structure was matched, and the relative change of its measures. The category
of the target lesions has the codes of CID 6143. The report is a new document; the one it continues is its predecessor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...imageio.elements import silent
from ...utils.messages import shown_path
from ..codes import Code
from ..comparison import BY_IDENTIFIER, Comparison, Pair
from ..study import uid_of
from .objects import MANUFACTURER, SERIES_NUMBERS, coded, highdicom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: Measures whose change the groups have, with the names of the changes.
_CHANGES = {
    name: Code(f"change {name}"[:16].replace(" ", "-"), "99MIMO", f"Change of the {name} since the baseline")
    for name in ("area", "long axis", "short axis", "perimeter", "circumference", "volume")
}
_MATCH = Code("match", "99MIMO", "Match with the baseline")
_MATCHES = {
    "identifier": Code("identifier", "99MIMO", "By the identifier of a person"),
    "place": Code("place", "99MIMO", "By position, to be confirmed"),
    "none": Code("none", "99MIMO", "No partner at the baseline"),
}
_RESPONSE, _METHOD = Code("112020", "DCM", "Response Evaluation"), Code("112021", "DCM", "Response Evaluation Method")
_RECIST = Code("126081", "DCM", "RECIST 1.1")
_CATEGORIES = {
    "CR": Code("112041", "DCM", "Target Lesion Complete Response"),
    "PR": Code("112042", "DCM", "Target Lesion Partial Response"),
    "PD": Code("112043", "DCM", "Target Lesion Progressive Disease"),
    "SD": Code("112044", "DCM", "Target Lesion Stable Disease"),
}
_COMMENT, _PERCENT = Code("121106", "DCM", "Comment"), Code("%", "UCUM", "percent")
_TRACKING_IDENTIFIER, _EVALUATIONS, _MEASUREMENTS = "112039", "C0034375", "126010"


@silent()
def read_report(folder: Path) -> Dataset:
    """The structured report of a folder of objects. Raises RequestError where it has none of this program."""
    highdicom()
    import pydicom

    path = folder / "sr.dcm"
    remedy = "Write NOW again with --write sr"
    if not path.is_file():
        raise RequestError(f"{shown_path(folder)} holds no structured report", remedy)
    try:
        report: Dataset = pydicom.dcmread(path)
        if report.Modality != "SR" or report.Manufacturer != MANUFACTURER:
            raise ValueError
        return report
    except Exception as error:  # pydicom raises nearly anything for damaged files
        raise RequestError(f"sr.dcm is no structured report of this program ({type(error).__name__})", remedy) from None


@silent()
def write_follow_up(report: Dataset, comparison: Comparison, lines: Sequence[str]) -> Dataset:
    """The report of the later examination with the follow-up.

    Args:
        report: of the later examination, as ``structured_report.write_report`` made it. It is changed.
        lines: sentences about the comparison, which become comments.
    """
    from pydicom.uid import UID

    before = _reference(report)
    content = [[p.name, p.matched_by, [[c.name, c.before, c.now] for c in p.changes]] for p in comparison.pairs]
    key = f"{report.SOPInstanceUID}\0{json.dumps([content, list(lines)])}"
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = UID(uid_of(f"{key}\0follow-up"))
    report.SeriesInstanceUID, report.SeriesNumber = uid_of(f"{key}\0follow-up series"), SERIES_NUMBERS["follow-up"]
    report.PredecessorDocumentsSequence = [before]
    pairs = {pair.now.tracking_id: pair for pair in comparison.pairs if pair.now is not None}
    for container in report.ContentSequence:
        concept = container.ConceptNameCodeSequence[0].CodeValue
        if concept == _MEASUREMENTS:
            for group in container.ContentSequence:
                pair = pairs.pop(_tracking_identifier(group), None)  # of the axes, which follow, nothing changes
                if pair is not None:
                    group.ContentSequence.extend(_changes(pair))
        elif concept == _EVALUATIONS:
            container.ContentSequence.extend(_evaluations(comparison, lines))
    return report


def _reference(report: Dataset) -> Dataset:
    """The report as a predecessor."""
    from pydicom.dataset import Dataset

    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = report.SOPClassUID, report.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = report.SeriesInstanceUID, [instance]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = report.StudyInstanceUID, [series]
    return study


def _tracking_identifier(group: Dataset) -> str:
    for item in group.ContentSequence:
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == _TRACKING_IDENTIFIER:
            return str(item.TextValue)
    return ""


def _changes(pair: Pair) -> Iterator[Dataset]:
    hd = highdicom()
    yield from hd.sr.TimePointContext(time_point="follow-up", time_point_order=2)
    how = "none" if pair.before is None else "identifier" if pair.matched_by == BY_IDENTIFIER else "place"
    yield from hd.sr.QualitativeEvaluation(name=coded(_MATCH), value=coded(_MATCHES[how]))
    for change in pair.changes:
        if change.name in _CHANGES and change.percent is not None:
            name, unit = coded(_CHANGES[change.name]), coded(_PERCENT)
            yield hd.sr.NumContentItem(name, round(change.percent, 4), unit, relationship_type="CONTAINS")


def _evaluations(comparison: Comparison, lines: Sequence[str]) -> Iterator[Dataset]:
    hd = highdicom()
    for line in lines:
        yield hd.sr.TextContentItem(coded(_COMMENT), line, "CONTAINS")
    if comparison.target is not None:
        response = hd.sr.CodeContentItem(coded(_RESPONSE), coded(_CATEGORIES[comparison.target.category]), "CONTAINS")
        method = hd.sr.CodeContentItem(coded(_METHOD), coded(_RECIST), "HAS CONCEPT MOD")
        response.ContentSequence = hd.sr.ContentSequence([method])
        yield response
