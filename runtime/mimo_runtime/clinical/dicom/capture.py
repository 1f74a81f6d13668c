"""DICOM secondary captures: the picture with outlines and measurements burned in, for viewers without segmentations."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from ...imageio.geometry import ImageSource
from ..codes import Code
from ..pictures import draw_frame
from ..study import StudyResult
from .objects import MANUFACTURER, SERIES_NUMBERS, equipment, highdicom, item_of, mark, source_frames, versions

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_PROCESSED = Code("121322", "DCM", "Source image for image processing operation")


def write_captures(result: StudyResult) -> list[Dataset]:
    """One secondary capture for every frame with a structure, in order of the frames; of a result without, of the first frame.

    Raises:
        RequestError: the images are not DICOM.
    """
    files = source_frames(result)
    headers = {str(header.SOPInstanceUID): header for header in files.headers}
    frames = sorted({frame for s in result.structures for frame in s.masks}) or [result.first_frame]
    objects = []
    for number, frame in enumerate(frames, 1):
        image = result.images[frame]
        picture = np.asarray(draw_frame(result, frame, image))
        source = files.frames[frame]
        capture = _capture(result, headers[source.uid("SOPInstanceUID")], picture, number, frame)
        capture.SourceImageSequence = [_reference(source)]
        objects.append(capture)
    return objects


def _reference(source: ImageSource) -> Dataset:
    """The frame that a capture was made of."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.uid("SOPClassUID"), source.uid("SOPInstanceUID")
    if source.header is not None and int(source.header.get("NumberOfFrames") or 1) > 1:
        item.ReferencedFrameNumber = source.frame + 1
    item.PurposeOfReferenceCodeSequence = [item_of(_PROCESSED)]
    return item


def _capture(result: StudyResult, header: Dataset, pixels: np.ndarray, number: int, frame: int) -> Dataset:
    from pydicom.uid import ExplicitVRLittleEndian

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        capture: Dataset = highdicom().sc.SCImage.from_ref_dataset(
            ref_dataset=header,
            pixel_array=pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            series_instance_uid=result.uid("sc series"),
            series_number=SERIES_NUMBERS["sc"],
            sop_instance_uid=result.uid(f"sc {frame}"),
            instance_number=number,
            manufacturer=MANUFACTURER,
            patient_orientation=("L", "P"),
            contributing_equipment=[equipment(result.model)],
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
    capture.PatientOrientation = header.get("PatientOrientation") or ""
    capture.BurnedInAnnotation = "YES"
    if "Laterality" not in capture and "ImageLaterality" not in capture:
        capture.Laterality = ""
    capture.ManufacturerModelName, capture.SoftwareVersions = result.model.name[:64], list(versions(result.model))
    return mark(capture)
