"""Whole studies, from files to measures and objects: places, volumes, references and identifiers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from clinical_cases import MODEL, ct_result, dciodvfy, enhanced_ct, flat_result
from dicom_series import as_bytes, ball, ct_slice, write_ct_series
from pydicom.dataset import Dataset

from mimo_runtime.cli.commands import main
from mimo_runtime.clinical import (
    Structure,
    StudyResult,
    load_study,
    measure,
    write_objects,
    write_segmentation,
    write_structured_report,
)
from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.reader import read_image
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.series.image_series import open_image_series
from mimo_runtime.series.joined import FindingJoiner
from mimo_runtime.series.scans import SeriesAnswer

highdicom = pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")


def values_of(result: StudyResult, number: int = 0) -> dict[str, tuple[float, str]]:
    return {m.name: (m.value, m.unit) for m in measure(result, result.structures[number])}


def series_result(folder: Path, masks: np.ndarray) -> StudyResult:
    """A structure with a mask on every frame of a series, in the order of the positions."""
    series = open_image_series(folder)
    joiner = FindingJoiner(series.layout.starts)
    for frame, mask in enumerate(masks):
        joiner.add(frame, "cyst", mask, 0.9)
    return StudyResult.of_series(Prompt("cyst"), SeriesAnswer(series, (), joiner.findings()), MODEL)


def test_an_enhanced_ct_gives_the_values_pictures_and_places_of_the_classic_one(tmp_path: Path) -> None:
    values, _ = ball(6)
    enhanced_ct(values).save_as(tmp_path / "enhanced.dcm", enforce_file_format=True)
    (tmp_path / "classic").mkdir()
    for k in range(6):
        data = ct_slice(k + 1, values[k], (0.0, 0.0, -2.0 * k))
        data.save_as(tmp_path / "classic" / str(k), enforce_file_format=True)
    window = {"ct": (40.0, 400.0)}
    enhanced, classic = (open_image_series(tmp_path / name, windows=window) for name in ("enhanced.dcm", "classic"))
    assert len(enhanced) == len(classic) == 6
    for place, (one, other) in enumerate(zip(enhanced, classic)):
        assert one.values is not None and other.values is not None and one.values.unit == other.values.unit == "HU"
        assert np.array_equal(one.values.array(), values[5 - place]) and np.array_equal(other.values.array(), values[5 - place])
        assert np.array_equal(one.pixels, other.pixels) and one.window == other.window == (40.0, 400.0)
        assert (one.geometry.position, one.spacing_mm) == (other.geometry.position, other.spacing_mm)


@pytest.mark.parametrize("stack", [None, 2])
def test_times_of_an_enhanced_file_are_stacks_and_one_is_written(stack: int | None, tmp_path: Path) -> None:
    values = np.concatenate([ball(4)[0], ball(4, radius=4)[0]])
    data = enhanced_ct(values)
    for k, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, -2.0 * (k % 4)]
        group.FrameContentSequence[0].TemporalPositionIndex = k // 4 + 1
        group.FrameContentSequence[0].InStackPositionNumber = k % 4 + 1
    data.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    series = open_image_series(tmp_path / "ct.dcm")
    assert [s.label for s in series.layout.stacks] == ["time 1", "time 2"]
    assert [f.index for f in series.frames] == [3, 2, 1, 0, 7, 6, 5, 4]
    chosen = series if stack is None else series.stack(stack)
    joiner = FindingJoiner(chosen.layout.starts)
    mask = np.zeros((40, 40), bool)
    mask[10:20, 5:35] = True
    for frame in range(len(chosen)):
        joiner.add(frame, "cyst", mask, 0.9)
    result = StudyResult.of_series(Prompt("cyst"), SeriesAnswer(chosen, (), joiner.findings()), MODEL)
    assert [sorted(s.masks) for s in result.structures] == ([[0, 1, 2, 3]] if stack else [[0, 1, 2, 3], [4, 5, 6, 7]])
    for number in range(len(result.structures)):
        assert values_of(result, number)["volume"] == (pytest.approx(300 * 0.8 * 0.8 * 8 / 1000), "mL")
    if stack is None:
        with pytest.raises(RequestError, match="at the same position"):
            write_segmentation(result)
        return
    seg = write_segmentation(result)
    assert dciodvfy(seg, tmp_path) == []
    frames = [
        int(group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        for group, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array)
        if pixels.any()
    ]
    assert sorted(frames) == [5, 6, 7, 8]


def test_frames_of_two_multi_frame_files_are_one_volume_without_a_segmentation(tmp_path: Path) -> None:
    values, _ = ball(6)
    (tmp_path / "study").mkdir()
    for number, part in enumerate((values[:3], values[3:])):
        data = enhanced_ct(part)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number + 5}"
        for k, group in enumerate(data.PerFrameFunctionalGroupsSequence):
            group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, -2.0 * (k + 3 * number)]
        data.save_as(tmp_path / "study" / str(number), enforce_file_format=True)
    masks = np.zeros((6, 40, 40), bool)
    masks[1:5, 10:20, 5:35] = True
    result = series_result(tmp_path / "study", masks)
    assert values_of(result)["volume"] == (pytest.approx(300 * 0.8 * 0.8 * 8 / 1000), "mL")
    with pytest.raises(RequestError, match="several multi-frame files"):
        write_segmentation(result)
    assert dciodvfy(write_structured_report(result), tmp_path) == []


@pytest.mark.parametrize("distance", [0.625, 2.5, 7.0])
def test_a_slab_has_exactly_its_millilitres(distance: float, tmp_path: Path) -> None:
    """The stated slice thickness is 5 mm throughout."""
    write_ct_series(tmp_path / "study", 8, distance, order=[3, 0, 7, 5, 1, 6, 2, 4])
    masks = np.zeros((8, 40, 40), bool)
    masks[2:6, 10:30, 5:35] = True
    value, unit = values_of(series_result(tmp_path / "study", masks))["volume"]
    assert (value, unit) == (pytest.approx(20 * 30 * 0.8 * 0.8 * 4 * distance / 1000, rel=1e-12), "mL")


@pytest.mark.parametrize("kind", ["gap", "duplicate", "tilt"])
def test_a_series_that_is_no_volume_is_answered_and_has_no_millilitres(kind: str, bundle_folder: Path, tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path / "study", 6)
    if kind == "gap":
        paths[2].unlink()
    for number, path in enumerate(paths if kind == "tilt" else paths[:1]):
        data = pydicom.dcmread(path)
        if kind == "tilt":
            data.ImagePositionPatient = [0, 0.5 * number, 10 + 2.0 * number]
        elif kind == "duplicate":
            path, data.SOPInstanceUID = path.with_name("copy"), "1.2.3"
        data.save_as(path, enforce_file_format=True)
    call = ["series", bundle_folder, tmp_path / "study", "--text", "polyp", "-o", tmp_path / "out", "--write", "sr,nifti,coco"]
    run = CliRunner().invoke(main, [str(a) for a in (*call, "--json")])
    assert run.exit_code == 0, run.stderr
    report = json.loads(run.stdout)
    reason = {"gap": "a frame is missing", "duplicate": "two frames lie at the same position", "tilt": "gantry tilt"}[kind]
    assert (
        not report["is_regular"] and reason in report["problem"] and run.stderr.count(f"no regular volume: {report['problem']}")
    )
    assert len(report["frames"]) == {"gap": 5, "duplicate": 7, "tilt": 6}[kind] and report["findings"]
    assert all(finding["volume_ml"] is None for finding in report["findings"])
    index = json.loads((tmp_path / "out" / "objects" / "objects.json").read_text())
    assert reason in index["left_out"]["nifti"] and {"sr", "coco"} <= set(index["files"])
    sr = pydicom.dcmread(tmp_path / "out" / "objects" / "sr.dcm")
    texts = [str(e.value) for e in sr.iterall() if e.keyword in ("TextValue", "CodeMeaning")]
    assert any(reason in text and "No volume is measured" in text for text in texts) and "Volume" not in texts


def localizer(k: int) -> dict[str, object]:
    turned = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": [2.0 * k, 0.0, 0.0]}
    return turned if k > 1 else {}


#: Elements of slice ``k`` of four, and the formats that cannot hold such a series.
NO_VOLUMES: dict[str, tuple[Callable[[int], dict[str, object]], set[str]]] = {
    "sizes": (lambda k: {}, {"seg", "labelmap", "nifti", "stl"}),
    "spacings": (lambda k: {"PixelSpacing": [0.8 + 0.1 * k] * 2}, {"seg", "labelmap", "nifti", "stl"}),
    "directions": (localizer, {"seg", "labelmap", "nifti", "stl"}),
    "frames of reference": (lambda k: {"FrameOfReferenceUID": f"1.2.{k + 1}"}, {"seg", "labelmap", "nifti", "stl"}),
    "two times": (lambda k: {"TemporalPositionIdentifier": k % 2 + 1, "ImagePositionPatient": [0, 0, k // 2 * 2.0]},
                  {"seg", "labelmap", "nifti", "stl"}),
    "no positions": (lambda k: {"ImagePositionPatient": None, "ImageOrientationPatient": None},
                     {"labelmap", "rtstruct", "nifti", "stl"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_VOLUMES)
def test_formats_that_cannot_hold_a_series_are_left_out_and_the_others_are_valid(kind: str, mimo, tmp_path: Path) -> None:  # noqa: ANN001
    elements, left_out = NO_VOLUMES[kind]
    (tmp_path / "study").mkdir()
    for k in range(4):
        pixels = np.zeros((40 + 4 * k * (kind == "sizes"), 40), int)
        changes = {"ImagePositionPatient": [0.0, 0.0, 2.0 * k], **elements(k)}
        ct_slice(k + 1, pixels, (0, 0, 0), **changes).save_as(tmp_path / "study" / str(k), enforce_file_format=True)
    answer = mimo.open_series(tmp_path / "study").ask("the polyp", boxes=[(5, 5, 20, 20)])
    result = StudyResult.of_series(Prompt("polyp"), answer, MODEL)
    formats = ["seg", "labelmap", "sr", "sc", "rtstruct", "nifti", "stl", "coco", "contours", "html"]
    write_objects(result, tmp_path / "out", formats)
    index = json.loads((tmp_path / "out" / "objects.json").read_text())
    assert set(index["left_out"]) == left_out and all(index["left_out"].values())
    for path in (tmp_path / "out").glob("*.dcm"):
        assert dciodvfy(pydicom.dcmread(path), tmp_path) == [], path.name
    assert len(load_study(tmp_path / "out").structures) == len(result.structures) > 0


def test_lengths_follow_the_axis_of_their_spacing() -> None:
    data = ct_slice(1, ball(1)[0][0], (0, 0, 0), PixelSpacing=[2.0, 0.5])  # rows are 2 mm apart, columns 0.5 mm
    mask = np.zeros((40, 40), bool)
    mask[5:25, 10:14] = True  # 20 rows high, 4 columns wide
    image = read_image(as_bytes(data))
    result = StudyResult((image,), (Structure("cyst", {0: mask}, 0.9, tracking_id="cyst"),), (), (), MODEL)
    measured = values_of(result)
    assert measured["area"] == (pytest.approx(20 * 4 * 2.0 * 0.5), "mm2")
    assert measured["long axis"] == (pytest.approx(40, abs=2), "mm") and measured["short axis"][0] == pytest.approx(2, abs=0.6)


def test_ultrasound_is_in_millimetres_inside_one_calibrated_region_only() -> None:
    regions = []
    for x0, x1, units in ((0, 19, 3), (20, 39, 0)):
        region = Dataset()
        region.RegionSpatialFormat, region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = 1, units, units
        region.PhysicalDeltaX, region.PhysicalDeltaY = 0.03, 0.02
        region.RegionLocationMinX0, region.RegionLocationMaxX1 = x0, x1
        region.RegionLocationMinY0, region.RegionLocationMaxY1 = 0, 39
        regions.append(region)
    values = np.clip(np.arange(1600).reshape(40, 40) % 900, 0, 900)
    elements = {"Modality": "US", "SequenceOfUltrasoundRegions": regions, "PixelSpacing": [1.0, 1.0]}
    image = read_image(as_bytes(ct_slice(1, values, (0, 0, 0), **elements)))
    boxes = {"inside": (2, 18), "outside": (22, 38), "across": (10, 30)}
    for name, (x0, x1) in boxes.items():
        mask = np.zeros((40, 40), bool)
        mask[10:20, x0:x1] = True
        result = StudyResult((image,), (Structure(name, {0: mask}, 0.9, tracking_id=name),), (), (), MODEL, extents_mm=(2.0,))
        measured = values_of(result)
        if name == "inside":
            assert measured["area"] == (pytest.approx(10 * (x1 - x0) * 0.2 * 0.3), "mm2")
        else:
            assert measured["area"] == (10 * (x1 - x0), "px2") and measured["long axis"][1] == "px"
        assert "volume" not in measured


def test_a_projection_says_that_its_millimetres_are_those_of_the_detector() -> None:
    result = flat_result("dx")
    for one in measure(result, result.structures[0]):
        if one.unit.startswith("mm"):
            assert one.plane == "detector" and "detector plane, magnified" in str(one)
    assert "volume" not in values_of(replace(result, extents_mm=(1.0,)))


def references(report: Dataset) -> Iterator[tuple[str, tuple[str, str, int | None]]]:
    """Tracking identifier, and what an image region or axis of its groups refers to: class, instance, frame."""
    (groups,) = [c for c in report.ContentSequence if c.ConceptNameCodeSequence[0].CodeValue == "126010"]
    for group in groups.ContentSequence:
        (name,) = [i.TextValue for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "112039"]
        for element in group.iterall():
            if element.keyword == "ReferencedSOPSequence":
                for item in element.value:
                    frame = item.get("ReferencedFrameNumber")
                    number = None if frame is None else int(frame)
                    yield name, (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, number)


@pytest.mark.parametrize("kind", ["ct", "us", "us-frames", "endoscopy", "dx", "mr"])
def test_groups_of_a_report_refer_to_the_images_of_their_structures(kind: str) -> None:
    result = ct_result() if kind == "ct" else flat_result(kind)
    report = write_structured_report(result)
    for structure in result.structures:
        expected = set()
        for frame in structure.masks:
            source = result.images[frame].source
            assert source is not None
            number = source.frame + 1 if kind == "us-frames" else None
            expected.add((source.uid("SOPClassUID"), source.uid("SOPInstanceUID"), number))
        assert {image for name, image in references(report) if name == structure.tracking_id} == expected
    listed = {
        item.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert listed == {image.source.uid("SOPInstanceUID") for image in result.images if image.source}


def test_highdicom_reads_the_same_voxels_at_the_same_places(tmp_path: Path) -> None:
    result = ct_result()
    write_segmentation(result).save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    for number, structure in enumerate(result.structures, 1):
        volume = seg.get_volume(segment_numbers=[number], combine_segments=True)
        inverse = np.linalg.inv(volume.affine)
        points = np.concatenate([
            result.images[k].geometry.to_patient(np.argwhere(m)[:, ::-1] + 0.5) for k, m in structure.masks.items()
        ])  # fmt: skip
        voxels = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        assert (volume.array > 0)[tuple(voxels.T)].all() and int((volume.array > 0).sum()) == len(points)


def test_the_same_study_twice_gives_the_same_identifiers_and_pixels(bundle_folder: Path, tmp_path: Path) -> None:
    write_ct_series(tmp_path / "study", 3)
    contents = []
    for name in ("first", "second"):
        call = [
            "series",
            bundle_folder,
            tmp_path / "study",
            "--text",
            "polyp",
            "-o",
            tmp_path / name,
            "--write",
            "seg,sr,sc,coco",
        ]
        assert CliRunner().invoke(main, [str(a) for a in call]).exit_code == 0
        files = {}
        for path in sorted((tmp_path / name / "objects").rglob("*")):
            if path.suffix == ".dcm":
                data = pydicom.dcmread(path)
                files[path.name] = (data.SOPInstanceUID, data.SeriesInstanceUID, data.get("PixelData"))
            elif path.is_file():
                files[path.name] = path.read_bytes()
        contents.append(files)
    assert contents[0] == contents[1] and {"seg.dcm", "sr.dcm", "sc_0001.dcm"} <= set(contents[0])
