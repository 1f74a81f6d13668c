"""Series from folders, archives, multi-frame files and volumes."""

from __future__ import annotations

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
    data.save_as(tmp_path / "result.dcm", enforce_file_format=True)
    (tmp_path / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"rubbish")
    series = open_image_series(tmp_path)
    assert len(series) == 8 and series.notes[0].startswith("2 files were left out") and PATIENT not in str(series)
    with pytest.raises(ImageError, match="a segmentation"):
        open_image_series(tmp_path / "result.dcm")


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
