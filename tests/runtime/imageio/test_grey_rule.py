"""One rule for grey values: the window that is requested, that of the file, that of the modality, else percentiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reader_cases import COLOURS, encode

from mimo_runtime.errors import ImageError
from mimo_runtime.imageio.intensity import WINDOWS, GreyRule, window
from mimo_runtime.imageio.reader import read_image

#: A slice of a body in Hounsfield units: air, fat, liver, bone.
BODY = np.full((40, 50), -1000, np.int16)
BODY[5:35, 5:45], BODY[8:32, 8:42], BODY[12:16, 12:16] = -100, 60, 700
SHOWN = window(BODY.astype(np.float32), *WINDOWS["ct"])


def nifti(values: np.ndarray, path: Path) -> Path:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(values.T[::-1, ::-1, None], np.eye(4)), path)
    return path


def dicom(**elements: object) -> bytes:
    pytest.importorskip("pydicom")
    from dicom_cases import as_bytes, dataset

    return as_bytes(dataset(BODY, Modality="CT", RescaleSlope=1, RescaleIntercept=0, **elements))


def test_one_slice_looks_alike_from_every_source(tmp_path: Path) -> None:
    volume = nifti(BODY, tmp_path / "ct.nii")
    sources = (BODY, BODY.astype(np.float64), volume, dicom(), encode(Image.fromarray(BODY.astype(np.int32)), "TIFF"))
    for source in sources:
        scan = read_image(source, modality="ct")
        np.testing.assert_array_equal(scan.pixels[..., 0], SHOWN)
        assert scan.bits.endswith("window 40/400 of ct") and scan.modality == "ct"
    assert read_image(dicom()).sha256 == read_image(BODY, modality=" CT ").sha256


def test_the_window_of_the_file_precedes_that_of_the_modality() -> None:
    assert read_image(dicom(WindowCenter=-600, WindowWidth=1500)).bits == "DICOM, window -600/1500"
    assert "percentile" in read_image(dicom(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])).bits
    assert "percentile" in read_image(dicom(RescaleType="OD")).bits


def test_the_window_of_a_model_precedes_that_of_the_file() -> None:
    lung = {"ct": (-600.0, 1500.0)}
    expected = window(BODY.astype(np.float32), -600, 1500)
    for source in (dicom(), dicom(WindowCenter=40, WindowWidth=80), BODY):
        scan = read_image(source, modality="ct", windows=lung)
        np.testing.assert_array_equal(scan.pixels[..., 0], expected)
        assert scan.window == (-600, 1500) and scan.bits.endswith("window -600/1500 of ct")
        assert read_image(source, modality="ct", window=(0, 9), windows=lung).window == (0, 9)
    other = dict(WindowCenter=40, WindowWidth=80)
    for more in ({"ImageType": ["DERIVED", "PRIMARY", "LOCALIZER"]}, {"RescaleType": "US"}):
        scan = read_image(dicom(**other, **more), windows=lung)
        assert scan.bits == "DICOM, window 40/80" and scan.window is None
    assert read_image(dicom(**other), windows={"mri": (1, 2)}).bits == read_image(dicom(**other)).bits == "DICOM, window 40/80"


def test_8_bit_dicom_is_in_no_unit() -> None:
    pytest.importorskip("pydicom")
    from dicom_cases import as_bytes, dataset

    captured = as_bytes(dataset(SHOWN, Modality="CT"))
    np.testing.assert_array_equal(read_image(captured, windows=WINDOWS).pixels[..., 0], SHOWN)


def test_a_requested_window_precedes_all(tmp_path: Path) -> None:
    expected = window(BODY.astype(np.float32), -600, 1500)
    for source in (BODY, nifti(BODY, tmp_path / "ct.nii"), dicom(WindowCenter=0, WindowWidth=80)):
        scan = read_image(source, window=(-600, 1500))
        np.testing.assert_array_equal(scan.pixels[..., 0], expected)
        assert "window -600/1500" in scan.bits


@pytest.mark.parametrize(
    "values", [BODY + 1024, ((np.clip(BODY, -160, 240) + 160) / 400).astype(np.float32), SHOWN.astype(np.int16)]
)
def test_ct_values_that_are_no_hounsfield_units_are_stated(values: np.ndarray, tmp_path: Path) -> None:
    for source in (values, nifti(values, tmp_path / "ct.nii")):
        scan = read_image(source, modality="ct")
        assert "no Hounsfield units" in scan.bits and scan.pixels.std() > 20
        assert "no Hounsfield" not in read_image(source, modality="mri").bits


@pytest.mark.parametrize("values", [BODY, BODY[13:30, 13:40], BODY * 0 - 1000, BODY * 0, np.maximum(BODY, 0)])
def test_crops_and_empty_slices_of_ct_are_not_doubted(values: np.ndarray) -> None:
    assert GreyRule("ct").apply(values, "the image")[1] == "window 40/400 of ct"


def test_a_volume_that_looks_like_ct_says_so(tmp_path: Path) -> None:
    assert "name the modality ct" in read_image(nifti(BODY, tmp_path / "a.nii")).bits
    assert "modality" not in read_image(nifti(BODY + 1024, tmp_path / "b.nii")).bits


@pytest.mark.parametrize("wrong", [(40,), (40, 0), (40, -1), (np.nan, 9), ("a", 1), 40, (1, 2, 3)])
def test_wrong_windows_are_refused(wrong: object) -> None:
    with pytest.raises(ImageError, match="centre and width"):
        read_image(BODY, window=wrong)  # type: ignore[arg-type]


def test_colour_has_no_window() -> None:
    for source in (COLOURS, encode(Image.fromarray(COLOURS))):
        with pytest.raises(ImageError, match="colour"):
            read_image(source, window=(40, 400))
