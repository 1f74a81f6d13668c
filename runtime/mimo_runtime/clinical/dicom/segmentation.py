"""DICOM SEG: one segment per structure, on the pixels of the source images.

Images with a frame of reference go through highdicom. PS3.3 A.51.5.1 also allows images without one (ultrasound, endoscopy):
each pixel then corresponds to a pixel of the referenced frame. highdicom writes one such frame; several are written here.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...errors import RequestError
from ..codes import LEFT, RIGHT, code_of
from ..study import Structure, StudyResult
from .objects import (
    MANUFACTURER,
    PRODUCT,
    SERIES_NUMBERS,
    SourceFrames,
    algorithm,
    coded,
    equipment,
    highdicom,
    item_of,
    mark,
    shallow_copy,
    source_frames,
    versions,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: Above this size, frames without a pixel are left out; below, all are written, which more readers cope with.
MAX_EMPTY_BYTES = 100 << 20
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_IN_STACK_POSITION, _FRAME_CONTENT = 0x00209057, 0x00209111


def write_segmentation(result: StudyResult, *, label_map: bool = False) -> Dataset:
    """The SEG object of a result.

    Args:
        label_map: write the newer label map instead of one bit per pixel and segment; structures must not overlap then.

    Raises:
        RequestError: no structure, no DICOM source, images of several sizes, or overlapping structures in a label map.
    """
    if not result.structures:
        raise RequestError("there is no structure to write as a segmentation", "Write sr, which can say that there is none")
    files = source_frames(result)
    labels = _labels(result, *files.size())
    if label_map and labels is None:
        raise RequestError("the structures overlap, which a label map cannot hold", "Leave the label map out")
    if not files.has_place:
        if label_map:
            raise RequestError("a label map needs images with a frame of reference", "Write a binary segmentation")
        return _without_place(result, files, overlaps=labels is None)
    _check_plane(files)
    if len(files.headers) > 1 and any("PerFrameFunctionalGroupsSequence" in header for header in files.headers):
        what = "the frames come from several multi-frame files, of which a segmentation refers to one"
        raise RequestError(what, "Write one result for each file, or sr")
    pixels = _stacked(result, *files.size()) if labels is None else labels
    headers = [_with_frames_of_result(header, files) for header in files.headers]
    seg = _segmentation(result, [header for header, _ in headers], pixels, label_map)
    _number_as_in_files(seg, {str(header.SOPInstanceUID): numbers for header, numbers in headers})
    return _finished(seg, result)


def _check_plane(files: SourceFrames) -> None:
    """Refuse frames that do not share directions, spacing and frame of reference, or lie at the same position."""
    first = files.places[0]
    for place in files.places:
        same = all(
            np.allclose(getattr(place, name) or (), getattr(first, name) or (), rtol=1e-3, atol=1e-3)
            for name in ("across", "down", "spacing_mm")
        )
        if not same or place.frame_of_reference != first.frame_of_reference:
            what = "the frames differ in direction, spacing or frame of reference, which a segmentation states once"
            raise RequestError(what, "Write one result for each direction, or sr")
    if len({place.position for place in files.places}) < len(files.places):
        what = "two frames lie at the same position, which a segmentation cannot tell apart"
        raise RequestError(what, "Write one result for each time (--stack), or sr or coco")


def _segmentation(result: StudyResult, headers: Sequence[Dataset], pixels: np.ndarray, label_map: bool = False) -> Dataset:
    """The object of ``pixels``, one entry for every frame of the files ``headers``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seg: Dataset = highdicom().seg.Segmentation(
            source_images=headers,
            pixel_array=pixels,
            segmentation_type="LABELMAP" if label_map else "BINARY",
            segment_descriptions=[_description(result, s, k) for k, s in enumerate(result.structures, 1)],
            series_instance_uid=result.uid("label map series" if label_map else "seg series"),
            series_number=SERIES_NUMBERS["labelmap" if label_map else "seg"],
            sop_instance_uid=result.uid("label map" if label_map else "seg"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=PRODUCT,
            software_versions=versions(result.model),
            device_serial_number=result.model.sha256[:16] or "unknown",
            content_description="Structures found by a neural network",
            content_label="MIMO",
            omit_empty_frames=_full_bytes(result, pixels) > MAX_EMPTY_BYTES,
            contributing_equipment=[equipment(result.model)],
        )
    seg.ContentCreatorName = ""  # type 2, which highdicom leaves out
    return seg


def _full_bytes(result: StudyResult, pixels: np.ndarray) -> int:
    """Of the object with all frames of all segments, one bit a pixel."""
    frames, height, width, *_ = pixels.shape
    return int(frames * height * width * len(result.structures) // 8)


def _labels(result: StudyResult, height: int, width: int) -> np.ndarray | None:
    """The number of the structure of every pixel, ``[frames, H, W]``; None where structures overlap."""
    labels = np.zeros((len(result.images), height, width), np.uint8 if len(result.structures) < 256 else np.uint16)
    for number, structure in enumerate(result.structures, 1):
        for frame, mask in structure.masks.items():
            if labels[frame][mask].any():
                return None
            labels[frame][mask] = number
    return labels


def _stacked(result: StudyResult, height: int, width: int) -> np.ndarray:
    """``uint8 [frames, H, W, segments]``."""
    pixels = np.zeros((len(result.images), height, width, len(result.structures)), np.uint8)
    for number, structure in enumerate(result.structures):
        for frame, mask in structure.masks.items():
            pixels[frame, ..., number] = mask
    return pixels


def _with_frames_of_result(header: Dataset, files: SourceFrames) -> tuple[Dataset, list[int]]:
    """A multi-frame header with the frames of the result only, in its order, and their numbers in the file, from 1.

    A file may hold the same positions several times, of which a segmentation states each once.
    """
    uid = str(header.SOPInstanceUID)
    frames = [source.frame for source in files.frames if source.uid("SOPInstanceUID") == uid]
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        return header, []
    chosen = shallow_copy(header)
    chosen.PerFrameFunctionalGroupsSequence, chosen.NumberOfFrames = [groups[k] for k in frames], len(frames)
    return chosen, [frame + 1 for frame in frames]


def _number_as_in_files(seg: Dataset, numbers: dict[str, list[int]]) -> None:
    """Give references to frames the numbers that they have in their files."""
    for group in seg.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence") or ():
            for image in derivation.SourceImageSequence:
                known = numbers.get(str(image.ReferencedSOPInstanceUID))
                if known and "ReferencedFrameNumber" in image:
                    image.ReferencedFrameNumber = known[int(image.ReferencedFrameNumber) - 1]


def _description(result: StudyResult, structure: Structure, number: int) -> object:
    code = code_of(structure.name)
    return highdicom().seg.SegmentDescription(
        segment_number=number,
        segment_label=structure.tracking_id[:64],
        segmented_property_category=coded(code.category),
        segmented_property_type=coded(code.type),
        algorithm_type="SEMIAUTOMATIC" if structure.is_pointed_at else "AUTOMATIC",
        algorithm_identification=algorithm(result.model),
        tracking_uid=result.tracking_uid(structure),
        tracking_id=structure.tracking_id[:64],
        anatomic_regions=[coded(code.site)] if code.site else None,
    )


def _finished(seg: Dataset, result: StudyResult) -> Dataset:
    described = [item for item in seg.SegmentSequence if item.SegmentNumber]  # a label map describes the background, too
    for item, structure in zip(described, result.structures):
        side = code_of(structure.name).side
        if side:
            modifier = [item_of(LEFT if side == "left" else RIGHT)]
            item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = modifier
    if not str(seg.get("FrameOfReferenceUID") or "") and "PatientOrientation" not in seg:
        seg.PatientOrientation = ""  # type 2 where there is no plane
    return mark(seg)


def _without_place(result: StudyResult, files: SourceFrames, overlaps: bool) -> Dataset:
    """Frames without a frame of reference: the object of one frame, then the frames of all segments that have a pixel."""
    from pydicom.dataset import Dataset
    from pydicom.pixels.utils import pack_bits

    single = shallow_copy(files.headers[0])
    for keyword in (
        "SOPClassUID", "NumberOfFrames", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence",
        "FrameIncrementPointer", "FrameOfReferenceUID", "PositionReferenceIndicator",
    ):  # fmt: skip
        if keyword in single:
            delattr(single, keyword)
    single.SOPClassUID = _SECONDARY_CAPTURE  # of one frame, to highdicom; the references below name the true class
    # highdicom leaves out segments without a pixel: one frame with a pixel of each gives all groups.
    seg = _segmentation(result, [single], np.ones((1, *files.size(), len(result.structures)), np.uint8))
    template, groups, masks = seg.PerFrameFunctionalGroupsSequence[0], [], []
    for number, structure in enumerate(result.structures, 1):
        for frame in sorted(structure.masks):
            source = files.frames[frame]
            group = copy.deepcopy(template)
            group.FrameContentSequence[0].DimensionIndexValues = [number, frame + 1]
            group.FrameContentSequence[0].StackID, group.FrameContentSequence[0].InStackPositionNumber = "1", frame + 1
            reference = group.DerivationImageSequence[0].SourceImageSequence[0]
            reference.ReferencedSOPClassUID = source.uid("SOPClassUID")
            reference.ReferencedSOPInstanceUID = source.uid("SOPInstanceUID")
            if source.header is not None and int(source.header.get("NumberOfFrames") or 1) > 1:
                reference.ReferencedFrameNumber = source.frame + 1
            group.SegmentIdentificationSequence = [Dataset()]
            group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = number
            groups.append(group)
            masks.append(structure.masks[frame].astype(np.uint8).reshape(-1))
    seg.PerFrameFunctionalGroupsSequence, seg.NumberOfFrames = groups, len(groups)
    shared = seg.SharedFunctionalGroupsSequence[0]
    if "SegmentIdentificationSequence" in shared:
        del shared.SegmentIdentificationSequence
    stack = copy.deepcopy(seg.DimensionIndexSequence[0])
    stack.DimensionIndexPointer, stack.FunctionalGroupPointer = _IN_STACK_POSITION, _FRAME_CONTENT
    stack.DimensionDescriptionLabel = "In-Stack Position Number"
    seg.DimensionIndexSequence = [seg.DimensionIndexSequence[0], stack]
    seg.SegmentsOverlap = "YES" if overlaps else "NO"
    _refer_to(seg, files)
    seg.PixelData = pack_bits(np.concatenate(masks))
    return _finished(seg, result)


def _refer_to(seg: Dataset, files: SourceFrames) -> None:
    """List all source files under the series."""
    from pydicom.dataset import Dataset

    instances = []
    for header in files.headers:
        instance = Dataset()
        instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        instances.append(instance)
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence = instances
