"""Series from folders, archives, multi-frame files and volumes."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dicom_series import PATIENT, ball, ct_slice, write_ct_series
from PIL import Image

from mimo_runtime.errors import ImageError
from mimo_runtime.series import archives
from mimo_runtime.series.image_series import open_image_series

pydicom = pytest.importorskip("pydicom")

ORDER = [3, 0, 7, 5, 1, 6, 2, 4]


def test_a_folder_of_shuffled_slices_comes_in_order_with_true_distances(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "deep" / "a", order=ORDER, distance=2.5)
    (tmp_path / "DICOMDIR").write_bytes(b"x")
    series = open_image_series(tmp_path)
    assert len(series) == 8 and series.is_regular and series.layout.distance_mm == pytest.approx(2.5)
    heights = [image.geometry.position[2] for image in series if image.geometry.position]
    assert heights == sorted(heights) and series.geometry(0).position == (0, 0, 10)
    expected, _ = ball(distance=2.5)
    for index, image in enumerate(series):
        assert image.values is not None and np.array_equal(image.values.array(), expected[index])
    part = series[2:5]
    assert len(part) == 3 and part.geometry(0).position == (0, 0, 15)


def test_an_archive_gives_the_frames_of_its_folder(tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path / "a", order=ORDER)
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, f"../../{path.name}")  # names are never used as paths
        archive.writestr("__MACOSX/._IM0001", b"x")
    packed, plain = open_image_series(tmp_path / "study.zip"), open_image_series(tmp_path / "a")
    assert [i.sha256 for i in packed] == [i.sha256 for i in plain] and packed.is_regular


def test_a_gap_and_a_duplicate_refuse_the_volume_and_keep_the_slices(tmp_path: Path) -> None:
    write_ct_series(tmp_path)[3].unlink()
    series = open_image_series(tmp_path)
    assert not series.is_regular and "a frame is missing" in series.layout.problem and len(list(series)) == 7


def test_several_series_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "a")
    values, _ = ball(1)
    ct_slice(1, values[0], (0, 0, 0), SeriesInstanceUID="1.2.9", Modality="MR").save_as(
        tmp_path / "z", enforce_file_format=True
    )
    with pytest.raises(ImageError, match=r"holds 2 series \(1: ct, 8 frames, 2: mri, 1 frames\). Choose one"):
        open_image_series(tmp_path)
    assert len(open_image_series(tmp_path, series=1)) == 8 and len(open_image_series(tmp_path, series="1.2.9")) == 1
    for wrong in (0, 3, "1.2", True):
        with pytest.raises(ImageError, match="has no series"):
            open_image_series(tmp_path, series=wrong)


def test_what_is_no_image_is_left_out_and_said(tmp_path: Path) -> None:
    write_ct_series(tmp_path)
    data = ct_slice(99, ball(1)[0][0], (0, 0, 0), Modality="SEG")
    data.save_as(tmp_path / f"{PATIENT}.dcm", enforce_file_format=True)
    (tmp_path / f"a {PATIENT}.dcm").write_bytes(bytes(128) + b"DICM" + b"rubbish")
    series = open_image_series(tmp_path)
    assert len(series) == 8 and series.lost == 1 and PATIENT not in str(series)
    assert [note.partition(": file ")[0] for note in series.notes] == ["1 damaged file was left out", "1 file was left out"]
    with pytest.raises(ImageError, match="a segmentation"):
        open_image_series(tmp_path / f"{PATIENT}.dcm")


def test_names_of_files_are_in_no_message_about_a_folder_a_list_or_an_archive(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    for k in range(2):
        (folder / f"{PATIENT} {k}.dcm").write_bytes(bytes(128) + b"DICM" + b"rubbish")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    for source in (folder, sorted(folder.iterdir()), tmp_path / "study.zip"):
        with pytest.raises(ImageError, match="holds no image: file 1 of 2") as caught:
            open_image_series(source)
        assert PATIENT not in str(caught.value)


@pytest.mark.parametrize("source", [42, None, b"study", [1, 2], {"a": 1}, np.zeros((4, 4))], ids=lambda s: type(s).__name__)
def test_what_names_no_files_is_refused_in_one_line(source: object) -> None:
    with pytest.raises(ImageError, match="a series cannot be made of") as caught:
        open_image_series(source)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_folders_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ct_series(tmp_path / "study" / "a", 2)
    (tmp_path / "study" / "closed").mkdir()
    closed = {str(tmp_path / "closed"), str(tmp_path / "study" / "closed")}
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:  # root may read everything
        if str(path) in closed:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ImageError, match="closed cannot be read: Permission denied. Check the permissions"):
        open_image_series(tmp_path / "closed")
    series = open_image_series(tmp_path / "study")
    assert len(series) == 2 and series.notes == ("1 folder in it cannot be read: Permission denied",)


def test_colour_frames_of_endoscopy_and_ultrasound_are_a_series(mimo, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3)).astype(np.uint8)
    elements = {
        "Modality": "US", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1", "PhotometricInterpretation": "RGB",
        "SamplesPerPixel": 3, "PlanarConfiguration": 0, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "NumberOfFrames": 3,
        "ImagePositionPatient": None, "ImageOrientationPatient": None, "RescaleSlope": None, "RescaleIntercept": None,
        "RescaleType": None, "PixelData": colours.tobytes(),
    }  # fmt: skip
    ct_slice(1, colours[0, ..., 0].astype(int), (0, 0, 0), **elements).save_as(tmp_path / "us.dcm", enforce_file_format=True)
    series = open_image_series(tmp_path / "us.dcm")
    assert len(series) == 3 and all(np.array_equal(image.pixels, colours[k]) for k, image in enumerate(series))
    assert series.layout.problem == "the frames have no position in the patient" and len(series.layout.stacks) == 1
    elements |= {"Modality": "ES", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.1", "NumberOfFrames": None}
    (tmp_path / "es").mkdir()
    for k in range(3):
        frame = elements | {"PixelData": colours[k].tobytes()}
        del frame["NumberOfFrames"]
        ct_slice(k + 1, colours[k, ..., 0].astype(int), (0, 0, 0), **frame).save_as(
            tmp_path / "es" / str(k), enforce_file_format=True
        )
    answer = mimo.open_series(tmp_path / "es").ask("the polyp", boxes=[(5, 5, 20, 20)])
    assert [f.frame for f in answer.frames] == [0, 1, 2] and answer.findings[0].frames == (0, 1, 2)
    assert answer.volume_ml(answer.findings[0]) is None


def test_a_truncated_file_of_several_frames_keeps_those_that_are_whole(mimo, tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 900, (4, 40, 40))
    data = ct_slice(1, frames[0], (0, 0, 0), NumberOfFrames=4)
    data.PixelData = frames.astype("<u2").tobytes()
    data.save_as(tmp_path / "frames.dcm", enforce_file_format=True)
    whole = [image.values for image in open_image_series(tmp_path / "frames.dcm")]
    (tmp_path / "frames.dcm").write_bytes((tmp_path / "frames.dcm").read_bytes()[:-4000])
    scans = mimo.open_series(tmp_path / "frames.dcm")
    for index in range(2):
        values = scans.series[index].values
        assert values is not None and np.array_equal(values.stored, whole[index].stored)
    answer = scans.ask("the polyp", boxes=[(5, 5, 20, 20)])
    assert [f.frame for f in answer.frames] == [0, 1] and [f.frame for f in answer.failures] == [2, 3]
    assert all(f.reason.startswith("the file ") and "\n" not in f.reason for f in answer.failures)


def test_notes_say_what_a_person_has_to_know_and_no_more(tmp_path: Path) -> None:
    Image.new("L", (40, 40), 90).save(tmp_path / "one.png")
    single = open_image_series(tmp_path / "one.png")
    assert single.notes == () and single.layout.problem == ""
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(np.zeros((20, 24, 3), np.int16), np.diag([0.8, 0.8, 2, 1])), tmp_path / "v.nii")
    (note,) = open_image_series(tmp_path / "v.nii").notes
    assert "does not state its modality" in note and open_image_series(tmp_path / "v.nii", modality="ct").notes == ()


def test_multi_frame_files_and_volumes_are_series(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    values, _ = ball()
    nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), np.diag([0.8, 0.8, -2, 1])), tmp_path / "v.nii.gz")
    volume = open_image_series(tmp_path / "v.nii.gz", modality="ct")
    assert len(volume) == 8 and volume.is_regular and volume.layout.distance_mm == pytest.approx(2)
    assert [i.source.frame for i in volume if i.source] == list(range(8))
    pages = [Image.fromarray(np.full((20, 30), 10 * k, np.uint8)) for k in range(5)]
    pages[0].save(tmp_path / "p.tiff", save_all=True, append_images=pages[1:])
    stack = open_image_series(tmp_path / "p.tiff")
    assert [int(i.pixels[0, 0, 0]) for i in stack] == [0, 10, 20, 30, 40] and "no position" in stack.layout.problem


def test_pictures_are_ordered_by_the_numbers_in_their_names(tmp_path: Path) -> None:
    for k in (1, 2, 10):
        Image.fromarray(np.full((20, 30), k, np.uint8)).save(tmp_path / f"frame{k}.png")
    assert [int(i.pixels[0, 0, 0]) for i in open_image_series(tmp_path)] == [1, 2, 10]
    reverse = [tmp_path / "frame10.png", str(tmp_path / "frame1.png")]
    assert [int(i.pixels[0, 0, 0]) for i in open_image_series(reverse)] == [10, 1]


def test_bad_sources_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4" + bytes(50))
    (tmp_path / "text.bin").write_text("hello")
    for source, reason in (
        ("empty", "holds no image"),
        ("bad.zip", "no zip archive"),
        ("no", "cannot be opened"),
        ("text.bin", "not an image"),
    ):
        with pytest.raises(ImageError, match=reason) as caught:
            open_image_series(tmp_path / source)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    write_ct_series(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "big.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 20))
    monkeypatch.setattr(archives, "MAX_MEMBER", 1 << 16)
    with pytest.raises(ImageError, match="holds a file of 1 MB"):
        open_image_series(tmp_path / "big.zip")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 0)
    with pytest.raises(ImageError, match="holds 1 files"):
        open_image_series(tmp_path / "big.zip")
