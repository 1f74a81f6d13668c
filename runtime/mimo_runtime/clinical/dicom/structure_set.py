"""Outlines of structures as a DICOM RT structure set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import RequestError
from ..codes import code_of
from ..outlines import outlines_of
from ..study import StudyResult, geometry_at
from .objects import SourceFrames, derived_object, item_of, source_frames

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"


def write_structure_set(result: StudyResult) -> Dataset:
    """The outlines of a ``result`` as an RT structure set.

    Holes are contours of their own, which planning systems subtract (XOR).

    Raises:
        RequestError: no structure, or images without a place in the patient.
    """
    if not result.structures:
        raise RequestError("there is no structure to write as contours", "Write sr, which can say that there is none")
    files = source_frames(result)
    if not files.has_place:
        raise RequestError("a structure set needs images with a frame of reference", "Write seg, sr or contours")
    data = _frame(result, files)
    data.StructureSetROISequence = [_roi(result, files, k) for k in range(len(result.structures))]
    data.ROIContourSequence = [_contour_set(result, files, k) for k in range(len(result.structures))]
    data.RTROIObservationsSequence = [_observation(result, k) for k in range(len(result.structures))]
    return data


def _frame(result: StudyResult, files: SourceFrames) -> Dataset:
    """Patient, study, equipment, and the images that the contours refer to."""
    from pydicom.dataset import Dataset

    first = files.headers[0]
    data = derived_object(result, first, _RTSTRUCT, "rtstruct", "RTSTRUCT")
    for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator"):
        setattr(data, keyword, first.get(keyword, ""))
    data.OperatorsName = ""
    data.StructureSetLabel, data.StructureSetName = "MIMO", "Automatic segmentation"
    data.StructureSetDate, data.StructureSetTime = first.get("StudyDate", ""), first.get("StudyTime", "")
    data.ApprovalStatus = "UNAPPROVED"
    images = []
    for header in files.headers:
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        images.append(image)
    series, study, reference = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = first.SeriesInstanceUID, images
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    reference.FrameOfReferenceUID, reference.RTReferencedStudySequence = first.FrameOfReferenceUID, [study]
    data.ReferencedFrameOfReferenceSequence = [reference]
    return data


def _roi(result: StudyResult, files: SourceFrames, index: int) -> Dataset:
    from pydicom.dataset import Dataset

    structure, item = result.structures[index], Dataset()
    item.ROINumber, item.ReferencedFrameOfReferenceUID = index + 1, files.headers[0].FrameOfReferenceUID
    item.ROIName = structure.tracking_id[:64]
    item.ROIGenerationAlgorithm = "SEMIAUTOMATIC" if structure.is_pointed_at else "AUTOMATIC"
    return item


def _contour_set(result: StudyResult, files: SourceFrames, index: int) -> Dataset:
    from pydicom.dataset import Dataset

    item, contours = Dataset(), []
    for frame, mask in sorted(result.structures[index].masks.items()):
        geometry, source = geometry_at(result.images, frame), files.frames[frame]
        if not geometry.is_placed:
            raise RequestError(f"frame {frame} has no position in the patient", "Write seg, sr or contours")
        for polygon in outlines_of(mask):
            contour, image = Dataset(), Dataset()
            image.ReferencedSOPClassUID = source.uid("SOPClassUID")
            image.ReferencedSOPInstanceUID = source.uid("SOPInstanceUID")
            if source.header is not None and int(source.header.get("NumberOfFrames") or 1) > 1:
                image.ReferencedFrameNumber = source.frame + 1
            points = geometry.to_patient(polygon)
            contour.ContourImageSequence, contour.ContourGeometricType = [image], "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [_decimal(v) for v in np.asarray(points).reshape(-1)]
            contours.append(contour)
    item.ReferencedROINumber, item.ContourSequence = index + 1, contours
    return item


def _decimal(value: float) -> str:
    """A number in at most 16 characters (VR DS)."""
    return f"{value:.4f}"


def _observation(result: StudyResult, index: int) -> Dataset:
    from pydicom.dataset import Dataset

    item, code = Dataset(), code_of(result.structures[index].name)
    item.ObservationNumber = item.ReferencedROINumber = index + 1
    item.RTROIIdentificationCodeSequence = [item_of(code.type)]
    item.RTROIInterpretedType, item.ROIInterpreter = "", ""
    return item
