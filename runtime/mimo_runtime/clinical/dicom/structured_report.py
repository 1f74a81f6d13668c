"""DICOM SR after TID 1500: a measurement group per structure, with outline, axes and sizes; sentences and refusals as text.

Regions are image coordinates (SCOORD), which every kind of image allows. A structure over several frames refers to its segment
if a segmentation is written with it, else to its outlines.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..codes import Code, code_of
from ..measurements import Measurement, measure
from ..outlines import outlines_of
from ..study import Structure, StudyResult
from .objects import (
    MANUFACTURER,
    SERIES_NUMBERS,
    SourceFrames,
    coded,
    equipment,
    highdicom,
    mark,
    shallow_copy,
    source_frames,
    versions,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_NAMES = {
    "area": Code("42798000", "SCT", "Area"),
    "long axis": Code("103339001", "SCT", "Long axis"),
    "short axis": Code("103340004", "SCT", "Short axis"),
    "perimeter": Code("131191004", "SCT", "Perimeter"),
    "circumference": Code("74551000", "SCT", "Circumference"),
    "volume": Code("118565006", "SCT", "Volume"),
}
_DERIVATIONS = {
    "mean": Code("373098007", "SCT", "Mean"),
    "standard deviation": Code("386136009", "SCT", "Standard Deviation"),
    "minimum": Code("255605001", "SCT", "Minimum"),
    "maximum": Code("56851009", "SCT", "Maximum"),
}
_UNITS = {
    "mm": Code("mm", "UCUM", "millimeter"),
    "mm2": Code("mm2", "UCUM", "square millimeter"),
    "mL": Code("mL", "UCUM", "milliliter"),
    "px": Code("{pixels}", "UCUM", "pixels"),
    "px2": Code("{pixels}2", "UCUM", "square pixels"),
    "HU": Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
    "SUV": Code("g/ml{SUVbw}", "UCUM", "Standardized Uptake Value body weight"),
}
#: What statistics of the values under a mask are about, by unit.
_VALUES = {"HU": Code("112031", "DCM", "Attenuation Coefficient"), "SUV": Code("126401", "DCM", "SUVbw")}
_COMMENT = Code("121106", "DCM", "Comment")
_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
_REVIEW = Code("review", "99MIMO", "Review by a person")
_NEEDED, _USUAL = Code("required", "99MIMO", "Required: low confidence"), Code("usual", "99MIMO", "Usual")


def write_report(result: StudyResult, segmentation: Dataset | None = None) -> Dataset:
    """The SR object of a result: also of one without structures, and of a refusal.

    Args:
        segmentation: of the same result, which groups of several frames then refer to.

    Raises:
        RequestError: the images are not DICOM.
    """
    hd, files = highdicom(), source_frames(result)
    from pydicom.sr.codedict import codes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        groups = []
        for number, structure in enumerate(result.structures, 1):
            measured = measure(result, structure)
            groups.append(_group(result, files, structure, measured, number, segmentation))
            groups.append(_axes(result, files, structure, measured))
        content = hd.sr.MeasurementReport(
            observation_context=_context(result),
            procedure_reported=coded(_PROCEDURE),
            imaging_measurements=groups or [_no_group(result)],
            title=codes.DCM.ImagingMeasurementReport,
        )
        root = content[0]
        _add_texts(root, result)
        items = root.ContentSequence
        # highdicom copies and parses the content again; groups, of which there may be many, are put in afterwards.
        root.ContentSequence = hd.sr.ContentSequence([item for item in items if item.ValueType != "CONTAINER"])
        report: Dataset = hd.sr.ComprehensiveSR(
            evidence=[*files.headers, *([segmentation] if segmentation is not None else [])],
            content=root,
            series_instance_uid=result.uid("sr series"),
            series_number=SERIES_NUMBERS["sr"],
            sop_instance_uid=result.uid("sr"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=result.is_complete,
            is_final=False,
            is_verified=False,
            contributing_equipment=[equipment(result.model)],
        )
    report = shallow_copy(report)
    report.ContentSequence = items
    if not result.is_complete:
        report.CompletionFlagDescription = "Only a part of the frames was analysed"
    report.ManufacturerModelName, report.SoftwareVersions = result.model.name[:64], list(versions(result.model))
    return mark(report)


def _context(result: StudyResult) -> object:
    hd = highdicom()
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=result.uid("device"), name=result.model.name, manufacturer_name=MANUFACTURER, model_name=result.model.name,
        serial_number=result.model.sha256[:16] or "unknown",
    )  # fmt: skip
    from pydicom.sr.codedict import codes

    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    return hd.sr.ObservationContext(observer_device_context=observer)


def _texts(result: StudyResult) -> Iterator[str]:
    """Comments: the sentences, refusals, and that nothing was found."""
    yield from dict.fromkeys(result.sentences)
    for refusal in dict.fromkeys(result.refusals):
        yield f"Not answered: {refusal}"
    if not result.structures and not result.refusals and not result.sentences:
        yield "No finding."
    if result.problem:
        volumes = "Volumes use the distance that each frame stands for." if result.extents_mm else "No volume is measured."
        yield f"The frames are no regular volume: {result.problem}. {volumes}"
    yield "AI result for research use only. Not for diagnosis. Not verified by a person."


def _no_group(result: StudyResult) -> object:
    """A group that highdicom asks for; it is taken out again."""
    hd = highdicom()
    identifier = hd.sr.TrackingIdentifier(uid=result.uid("none"), identifier="none")
    return hd.sr.MeasurementsAndQualitativeEvaluations(tracking_identifier=identifier)


def _add_texts(root: Dataset, result: StudyResult) -> None:
    """Put the texts into the container of evaluations (TID 1500, row 12); without groups, it takes the place of theirs."""
    hd = highdicom()
    texts = [hd.sr.TextContentItem(coded(_COMMENT), text, "CONTAINS") for text in _texts(result)]
    container = hd.sr.ContainerContentItem(coded(_EVALUATIONS), relationship_type="CONTAINS")
    container.ContentSequence = hd.sr.ContentSequence(texts)
    items = [item for item in root.ContentSequence if result.structures or item.ValueType != "CONTAINER"]
    root.ContentSequence = hd.sr.ContentSequence([*items, container])


def _identity(result: StudyResult, structure: Structure) -> dict[str, object]:
    """What all groups of a structure share."""
    hd, code = highdicom(), code_of(structure.name)
    uid = result.tracking_uid(structure)
    return {
        "tracking_identifier": hd.sr.TrackingIdentifier(uid=uid, identifier=structure.tracking_id),
        "finding_type": coded(code.type),
        "finding_category": coded(code.category),
        "finding_sites": _sites(structure),
        "algorithm_id": hd.sr.AlgorithmIdentification(name=result.model.name, version=result.model.version),
    }


def _axes(result: StudyResult, files: SourceFrames, structure: Structure, measured: tuple[Measurement, ...]) -> object:
    """A group of the long and the short axis with their ends, which groups of regions may not hold."""
    hd, lines = highdicom(), list[object]()
    for one in measured:
        if len(one.points) != 2 or one.frame is None:
            continue
        place = hd.sr.CoordinatesForMeasurement(
            graphic_type="POLYLINE",
            graphic_data=np.array(one.points, float),
            source_image=_image(files, one.frame, "Measurement"),
        )
        for image in place.ContentSequence:
            image.RelationshipType = "SELECTED FROM"  # highdicom writes "INFERRED FROM", which SCOORD does not allow
        lines.append(_measurement(one, referenced_coordinates=[place]))
    return hd.sr.MeasurementsAndQualitativeEvaluations(measurements=lines, **_identity(result, structure))


def _group(
    result: StudyResult,
    files: SourceFrames,
    structure: Structure,
    measured: tuple[Measurement, ...],
    number: int,
    segmentation: Dataset | None,
) -> object:
    hd = highdicom()
    review = hd.sr.QualitativeEvaluation(name=coded(_REVIEW), value=coded(_USUAL if structure.confident else _NEEDED))
    common = _identity(result, structure) | {
        "measurements": list(_measurements(measured)),
        "qualitative_evaluations": [review],
    }
    regions = [region for frame, mask in sorted(structure.masks.items()) for region in _regions(files, frame, mask)]
    if len(regions) == 1:
        return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=regions[0], **common)
    if segmentation is not None:
        segment = hd.sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=number,
            source_series=hd.sr.SourceSeriesForSegmentation(str(files.headers[0].SeriesInstanceUID)),
        )
        return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **common)
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_regions=regions, **common)


def _sites(structure: Structure) -> list[object] | None:
    code = code_of(structure.name)
    if code.site is None and not code.side:
        return None
    from ..codes import LEFT, RIGHT

    site = code.site or code.type
    side = coded(LEFT if code.side == "left" else RIGHT) if code.side else None
    return [highdicom().sr.FindingSite(anatomic_location=coded(site), laterality=side)]


def _regions(files: SourceFrames, frame: int, mask: np.ndarray) -> Iterator[object]:
    """The outlines of a mask in a frame, the largest first. No template has regions with holes: holes are left out."""
    hd = highdicom()
    polygons = sorted(outlines_of(mask), key=lambda p: -_signed_area(p))
    for polygon in polygons:
        if _signed_area(polygon) > 0:
            closed = np.concatenate((polygon, polygon[:1]))
            yield hd.sr.ImageRegion(graphic_type="POLYLINE", graphic_data=closed, source_image=_image(files, frame, "Region"))


def _signed_area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _image(files: SourceFrames, frame: int, purpose: str) -> object:
    source = files.frames[frame]
    frames = source.header is not None and int(source.header.get("NumberOfFrames") or 1) > 1
    kind = getattr(highdicom().sr, f"SourceImageFor{purpose}")
    return kind(source.uid("SOPClassUID"), source.uid("SOPInstanceUID"), [source.frame + 1] if frames else None)


def _measurements(measured: tuple[Measurement, ...]) -> Iterator[object]:
    for one in measured:
        if one.name in _DERIVATIONS and one.unit in _VALUES:
            derivation, unit = coded(_DERIVATIONS[one.name]), coded(_UNITS[one.unit])
            name = coded(_VALUES[one.unit])
            yield highdicom().sr.Measurement(name=name, value=one.value, unit=unit, derivation=derivation)
        elif one.name in _NAMES:
            yield _measurement(one)


def _measurement(one: Measurement, **places: object) -> object:
    """A length, area or volume with its range; the method says what its unit means where that is not the patient's plane."""
    hd = highdicom()
    method = coded(Code(one.plane, "99MIMO", one.note[:64])) if one.note else None
    unit, properties = coded(_UNITS[one.unit]), None
    if one.high > one.low:
        properties = hd.sr.MeasurementProperties(
            upper_measurement_uncertainty=one.high - one.value, lower_measurement_uncertainty=one.value - one.low
        )
        for item in properties:  # highdicom writes them without a unit; TID 310 wants that of the measurement
            item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [coded(_UNITS[one.unit])]
    return hd.sr.Measurement(
        name=coded(_NAMES[one.name]), value=one.value, unit=unit, method=method, properties=properties, **places
    )
