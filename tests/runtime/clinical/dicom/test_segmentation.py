"""DICOM SEG: validated by dciodvfy, read back by highdicom and dcmqi."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clinical_cases import MODEL, ct_result, dciodvfy, dcmqi, disc, enhanced_ct, flat_result
from dicom_series import PATIENT, as_bytes, ball, ct_slice

from mimo_runtime.clinical.dicom.segmentation import write_segmentation
from mimo_runtime.clinical.dicom.structured_report import write_report
from mimo_runtime.clinical.study import Structure, StudyResult
from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.imageio.reader import read_image
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.series.image_series import open_image_series
from mimo_runtime.series.joined import FindingJoiner
from mimo_runtime.series.scans import SeriesAnswer

highdicom = pytest.importorskip("highdicom")


def masks_of(seg) -> dict[tuple[int, str, int], np.ndarray]:  # noqa: ANN001
    """Frames of a binary SEG by (segment number, source instance, source frame)."""
    frames = np.atleast_3d(seg.pixel_array)
    frames = seg.pixel_array[None] if seg.pixel_array.ndim == 2 else seg.pixel_array
    result = {}
    shared = seg.SharedFunctionalGroupsSequence[0]
    for group, pixels in zip(seg.PerFrameFunctionalGroupsSequence, frames):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        identification = group.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
        key = (
            identification[0].ReferencedSegmentNumber,
            source.ReferencedSOPInstanceUID,
            int(source.get("ReferencedFrameNumber") or 1),
        )
        result[key] = pixels.astype(bool)
    return result


def check_masks(seg, result) -> None:  # noqa: ANN001
    written = masks_of(seg)
    for number, structure in enumerate(result.structures, 1):
        for frame, mask in structure.masks.items():
            source = result.images[frame].source
            assert np.array_equal(written.pop((number, source.uid("SOPInstanceUID"), source.frame + 1)), mask)
    assert not any(mask.any() for mask in written.values())


def test_a_ct_series_is_valid_and_reads_back(tmp_path: Path) -> None:
    result = ct_result()
    seg = write_segmentation(result)
    assert dciodvfy(seg, tmp_path) == []
    check_masks(seg, result)
    lesion, kidney = seg.SegmentSequence
    assert lesion.SegmentAlgorithmType == "AUTOMATIC" and kidney.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert (
        lesion.AnatomicRegionSequence[0].CodeMeaning == "Liver"
        and lesion.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Lesion"
    )
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert side.CodeMeaning == "Left" and kidney.TrackingID == "left kidney"
    used = lesion.SegmentationAlgorithmIdentificationSequence[0]
    assert (used.AlgorithmName, used.AlgorithmVersion) == ("mimo-test", "1.2.3")
    assert "abababab" in used.AlgorithmParameters and seg.ContentQualification == "RESEARCH"
    assert any(e.get("ManufacturerModelName") == "mimo-test" for e in seg.ContributingEquipmentSequence)
    assert seg.PatientName == PATIENT and seg.FrameOfReferenceUID == result.images[0].geometry.frame_of_reference


def test_dcmqi_reads_the_same_voxels(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    result = ct_result()
    path = tmp_path / "seg.dcm"
    write_segmentation(result).save_as(path, enforce_file_format=True)
    dcmqi(
        "segimage2itkimage",
        "--inputDICOM",
        str(path),
        "--outputDirectory",
        str(tmp_path),
        "--outputType",
        "nifti",
        "--prefix",
        "s",
    )
    for number, structure in enumerate(result.structures, 1):
        volume = nibabel.load(tmp_path / f"s-{number}.nii.gz")
        to_voxel = np.linalg.inv(volume.affine)
        found = np.asarray(volume.dataobj) > 0
        places = [result.images[k].geometry.to_patient(np.argwhere(m)[:, ::-1] + 0.5) for k, m in structure.masks.items()]
        points = np.concatenate(places)
        voxels = np.rint((points * [-1, -1, 1]) @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(int)
        assert found[tuple(voxels.T)].all() and found.sum() == len(points)


@pytest.mark.parametrize("kind", ["us", "us-frames", "endoscopy", "dx", "mr"])
def test_every_kind_of_image_is_valid_and_refers_to_its_frames(kind: str, tmp_path: Path) -> None:
    result = flat_result(kind)
    seg = write_segmentation(result)
    assert dciodvfy(seg, tmp_path) == []
    check_masks(seg, result)


def test_one_frame_of_a_multi_frame_image(tmp_path: Path) -> None:
    result = flat_result("us-frames")
    part = replace(result, images=(result.images[2],), structures=(Structure("polyp", {0: disc()}, 0.9, tracking_id="polyp"),))
    seg = write_segmentation(part)
    assert dciodvfy(seg, tmp_path) == []
    ((key, mask),) = masks_of(seg).items()
    assert key[2] == 3 and np.array_equal(mask, disc())


def test_segments_that_overlap_say_so() -> None:
    result = ct_result()
    overlapping = replace(
        result, structures=(result.structures[0], replace(result.structures[1], masks=result.structures[0].masks))
    )
    assert write_segmentation(overlapping).SegmentsOverlap in ("YES", "UNDEFINED")


def test_the_same_result_has_the_same_identifiers_and_pixels() -> None:
    first, second, other = (write_segmentation(ct_result(request=r)) for r in ("a", "a", "b"))
    assert (first.SOPInstanceUID, first.SeriesInstanceUID, first.PixelData) == (
        second.SOPInstanceUID,
        second.SeriesInstanceUID,
        second.PixelData,
    )
    assert other.SOPInstanceUID != first.SOPInstanceUID
    salted = write_segmentation(ct_result(request="a", salt="site"))
    assert salted.SOPInstanceUID != first.SOPInstanceUID


@pytest.mark.parametrize("frames", [slice(None), slice(1, 4)])
def test_an_enhanced_ct_whose_frames_run_downwards(frames: slice, tmp_path: Path) -> None:
    values, inside = ball(6)
    enhanced_ct(values).save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    series = open_image_series(tmp_path / "ct.dcm")[frames]
    assert [frame.index for frame in series.frames] == [5, 4, 3, 2, 1, 0][frames] and series.is_regular
    joiner = FindingJoiner()
    for number, frame in enumerate(series.frames):
        joiner.add(number, "liver", inside[frame.index])
    result = StudyResult.of_series(Prompt("liver"), SeriesAnswer(series, (), joiner.findings()), MODEL)
    seg = write_segmentation(result)
    assert dciodvfy(seg, tmp_path) == [] and dciodvfy(write_report(result, seg), tmp_path) == []
    check_masks(seg, result)
    for group in seg.PerFrameFunctionalGroupsSequence:
        number = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        assert group.PlanePositionSequence[0].ImagePositionPatient[2] == -2.0 * (int(number) - 1)


@pytest.mark.parametrize("kind", ["one segment", "overlapping", "overlapping without place"])
def test_one_segment_and_overlapping_segments_are_valid(kind: str, tmp_path: Path) -> None:
    result = flat_result("us-frames") if kind.endswith("place") else ct_result()
    first, second = result.structures
    structures = (first,) if kind == "one segment" else (first, replace(second, masks=dict(first.masks)))
    result = replace(result, structures=structures)
    seg = write_segmentation(result)
    assert dciodvfy(seg, tmp_path) == [] and dciodvfy(write_report(result, seg), tmp_path) == []
    check_masks(seg, result)


def test_another_window_or_mask_gives_other_identifiers() -> None:
    result = ct_result()
    wide = replace(result, images=tuple(replace(image, window=(0.0, 2000.0)) for image in result.images))
    grown = replace(result, structures=(replace(result.structures[0], masks={2: disc(radius=8)}), result.structures[1]))
    assert len({r.uid("seg") for r in (result, wide, grown)}) == 3


def test_a_frame_of_reference_without_positions_is_no_place(tmp_path: Path) -> None:
    result = flat_result("us-frames")
    for image in result.images:
        assert image.source is not None and image.source.header is not None
        image.source.header.FrameOfReferenceUID = "1.2.3.4"
        image.source.header.PositionReferenceIndicator = ""
    seg = write_segmentation(result)
    assert dciodvfy(seg, tmp_path) == [] and "FrameOfReferenceUID" not in seg
    check_masks(seg, result)


def test_frames_of_several_directions_are_refused() -> None:
    result = ct_result()
    turned = read_image(as_bytes(ct_slice(9, ball(1)[0][0], (0, 0, 0), ImageOrientationPatient=[0, 1, 0, 0, 0, -1])))
    with pytest.raises(RequestError, match="differ in direction"):
        write_segmentation(replace(result, images=(*result.images, turned)))


def test_what_cannot_be_written_is_one_line() -> None:
    result = ct_result()
    with pytest.raises(RequestError, match="no structure"):
        write_segmentation(replace(result, structures=()))
    with pytest.raises(RequestError, match="need a DICOM image"):
        write_segmentation(replace(result, images=(ScanImage(np.zeros((40, 40, 3), np.uint8)),)))


def test_frames_at_the_same_position_are_refused_in_one_line() -> None:
    result = ct_result()
    twice = (*result.images[:2], *result.images[1:2])
    structures = (replace(result.structures[1], masks={1: disc(), 2: disc()}),)
    with pytest.raises(RequestError, match="at the same position"):
        write_segmentation(replace(result, images=twice, structures=structures))
