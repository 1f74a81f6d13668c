"""DICOM label maps. dciodvfy of 2022 does not know their class: three other programs read them back."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clinical_cases import ct_result, dciodvfy, dcmqi, flat_result

from mimo_runtime.clinical.dicom.segmentation import write_segmentation
from mimo_runtime.clinical.study import StudyResult
from mimo_runtime.errors import RequestError

highdicom = pytest.importorskip("highdicom")
#: Faults that dciodvfy finds in every label map: it was made before Supplement 243, which adds the class and segment 0.
UNKNOWN_TO_IT = {
    "Error - Information Object Not found",
    "Error - SegmentNumber not monotonically increasing from one by one - have SegmentSequence item number 1 (from one) with "
    "SegmentNumber of 0",
}


def saved(result: StudyResult, folder: Path) -> Path:
    path = folder / "labelmap.dcm"
    write_segmentation(result, label_map=True).save_as(path, enforce_file_format=True)
    return path


def expected(result: StudyResult, frame: int) -> np.ndarray:
    labels = np.zeros((result.images[frame].height, result.images[frame].width), np.uint8)
    for number, structure in enumerate(result.structures, 1):
        if frame in structure.masks:
            labels[structure.masks[frame]] = number
    return labels


def test_highdicom_reads_the_same_labels_for_every_image(tmp_path: Path) -> None:
    result = ct_result()
    read = highdicom.seg.segread(saved(result, tmp_path))
    uids = [image.source.uid("SOPInstanceUID") for image in result.images]
    labels = read.get_pixels_by_source_instance(uids, combine_segments=True, ignore_spatial_locations=True)
    for frame in range(len(result.images)):
        assert np.array_equal(labels[frame], expected(result, frame))
    assert [read.get_segment_description(number).segment_label for number in (1, 2)] == ["liver lesion", "left kidney"]


def test_dcmqi_reads_the_same_labels_at_the_same_places(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    result = ct_result()
    dcmqi("segimage2itkimage", "--inputDICOM", str(saved(result, tmp_path)), "--outputDirectory", str(tmp_path),
          "--outputType", "nifti", "--prefix", "s")  # fmt: skip
    volume = nibabel.load(tmp_path / "s-1.nii.gz")
    to_voxel, found = np.linalg.inv(volume.affine), np.asarray(volume.dataobj)
    for number, structure in enumerate(result.structures, 1):
        places = [result.images[k].geometry.to_patient(np.argwhere(m)[:, ::-1] + 0.5) for k, m in structure.masks.items()]
        points = np.concatenate(places)
        voxels = np.rint((points * [-1, -1, 1]) @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(int)
        assert (found[tuple(voxels.T)] == number).all() and (found == number).sum() == len(points)


@pytest.mark.parametrize("program", ["dcmdump", "dcm2xml", "dcmftest"])
@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_dcmtk_reads_every_element(program: str, kind: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip("dcmtk is not installed (apt-get install dcmtk)")
    path = saved(ct_result() if kind == "ct" else flat_result(kind), tmp_path)
    run = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and not run.stderr, run.stderr[-1000:]
    if program == "dcmdump":
        assert "LABELMAP" in run.stdout and "SegmentSequence" in run.stdout


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_dciodvfy_finds_only_that_it_does_not_know_the_class(kind: str, tmp_path: Path) -> None:
    seg = write_segmentation(ct_result() if kind == "ct" else flat_result(kind), label_map=True)
    assert set(dciodvfy(seg, tmp_path)) <= UNKNOWN_TO_IT


def test_the_rest_of_a_label_map_is_as_valid_as_a_binary_segmentation(tmp_path: Path) -> None:
    """Under the class that dciodvfy knows, what it finds is due to the pixels of a label map and to its segment 0."""
    seg = write_segmentation(ct_result(), label_map=True)
    seg.SOPClassUID = seg.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    seg.SegmentSequence = list(seg.SegmentSequence)[1:]
    allowed = ("SegmentationType", "BitsAllocated", "BitsStored", "HighBit", "PhotometricInterpretation",
               "SegmentIdentification", "SegmentsOverlap", "LABELMAP", "PALETTE", "Palette")  # fmt: skip
    found = dciodvfy(seg, tmp_path)
    assert [line for line in found if not any(word in line for word in allowed)] == []


def test_the_side_of_an_organ_is_at_its_own_segment() -> None:
    seg = write_segmentation(ct_result(), label_map=True)
    sides = {
        int(item.SegmentNumber): [
            modifier.CodeMeaning for modifier in code.get("SegmentedPropertyTypeModifierCodeSequence", ())
        ]
        for item in seg.SegmentSequence
        for code in item.SegmentedPropertyTypeCodeSequence
    }
    assert sides == {0: [], 1: [], 2: ["Left"]}


def test_images_without_a_place_are_refused() -> None:
    with pytest.raises(RequestError, match="frame of reference"):
        write_segmentation(flat_result("us"), label_map=True)


def test_structures_that_overlap_are_refused() -> None:
    result = ct_result()
    over = replace(result, structures=(result.structures[0], replace(result.structures[1], masks=result.structures[0].masks)))
    with pytest.raises(RequestError, match="overlap"):
        write_segmentation(over, label_map=True)
