"""Pixel spacing in DICOM files, and files that are refused."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from dicom_cases import STORED, as_bytes, dataset, item, refused, spacing

from mimo_runtime.imageio.reader import read_image

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import RLELossless  # noqa: E402


def test_spacing_is_row_then_column() -> None:
    assert spacing(PixelSpacing=[0.5, 0.25]) == ((0.5, 0.25), "PixelSpacing")
    assert spacing() == (None, None)
    assert spacing(PixelSpacing=[0, 0.25]) == (None, None)
    assert spacing(NominalScannedPixelSpacing=[0.1, 0.2]) == ((0.1, 0.2), "scanned film")


def test_projection_spacing_says_when_it_is_that_of_the_detector() -> None:
    detector = ((0.2, 0.2), "detector plane, magnified")
    assert spacing(Modality="DX", ImagerPixelSpacing=[0.2, 0.2]) == detector
    assert spacing(Modality="DX", ImagerPixelSpacing=[0.2, 0.2], PixelSpacing=[0.2, 0.2]) == detector
    corrected = {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.15, 0.15]}
    assert spacing(Modality="DX", **corrected) == ((0.15, 0.15), "PixelSpacing")
    calibrated = {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.2, 0.2], "PixelSpacingCalibrationType": "GEOMETRY"}
    assert spacing(Modality="DX", **calibrated) == ((0.2, 0.2), "PixelSpacing")


def test_the_region_of_ultrasound_gives_the_spacing() -> None:
    def region(across: float, down: float, units: int = 3, kind: int = 1) -> Dataset:
        return item(
            RegionSpatialFormat=kind, PhysicalUnitsXDirection=units, PhysicalUnitsYDirection=units,
            PhysicalDeltaX=across, PhysicalDeltaY=down,
        )[0]  # fmt: skip

    def of(*regions: Dataset) -> tuple[Any, Any]:
        return spacing(Modality="US", SequenceOfUltrasoundRegions=Sequence(regions))

    source = "ultrasound regions"
    assert of(region(0.02, 0.03)) == ((0.3, 0.2), source)  # cm -> mm
    assert of(region(0.02, -0.03)) == ((0.3, 0.2), source)
    assert of(region(0.02, 0.03), region(0.02, 0.03)) == ((0.3, 0.2), source)
    assert of(region(0.02, 0.03), region(0.9, 0.9, kind=3)) == ((0.3, 0.2), source)  # a Doppler trace is no area
    assert of(region(0.02, 0.03), region(0.04, 0.03)) == (None, None)  # two scales: neither holds everywhere
    assert of(region(0.02, 0.03, units=4)) == (None, None)  # seconds are no millimetres
    regions = Sequence([region(0.02, 0.03)])
    assert spacing(Modality="US", PixelSpacing=[1, 1], SequenceOfUltrasoundRegions=regions) == ((0.3, 0.2), source)


def test_ultrasound_whose_regions_are_not_calibrated_has_no_millimetres_whatever_its_pixel_spacing() -> None:
    for units, kind in ((0, 1), (4, 3)):  # none, seconds
        region = item(
            RegionSpatialFormat=kind, PhysicalUnitsXDirection=units, PhysicalUnitsYDirection=units,
            PhysicalDeltaX=0.02, PhysicalDeltaY=0.02,
        )[0]  # fmt: skip
        image = read_image(
            as_bytes(dataset(Modality="US", PixelSpacing=[0.5, 0.5], SequenceOfUltrasoundRegions=Sequence([region])))
        )
        assert image.spacing_mm is None and image.geometry.plane == "none" and image.geometry.spacing_mm is None


@pytest.mark.parametrize(
    ("code", "modality"),
    [
        ("CT", "ct"),
        ("US", "ultrasound"),
        ("MG", "mammography"),
        ("OP", "fundus"),
        ("ES", "endoscopy"),
        ("OT", None),
        ("PT", "pt"),
        ("", None),
    ],
)
def test_modality_codes_become_words(code: str, modality: str | None) -> None:
    assert read_image(as_bytes(dataset(Modality=code))).modality == modality


def test_objects_without_pixels_are_refused_by_their_kind() -> None:
    message = refused(as_bytes(dataset(PixelData=None)))
    assert "without pixels" in message and "Ultrasound Image Storage" in message
    assert "without pixels" in refused(as_bytes(dataset(Rows=None)))
    assert "without pixels" in refused(as_bytes(dataset(Columns=0)))


def test_sizes_come_from_the_header() -> None:
    assert "20000 x 20000" in refused(as_bytes(dataset(Rows=20000, Columns=20000)))
    assert "20 x 1 pixels" in refused(as_bytes(dataset(STORED[:1])))


def test_too_little_pixel_data() -> None:
    assert "damaged" in refused(as_bytes(dataset(PixelData=STORED.tobytes()[:-50])))


def test_damaged_compressed_data() -> None:
    data = dataset()
    data.file_meta.TransferSyntaxUID = RLELossless
    data.PixelData = pydicom.encaps.encapsulate([bytes(100)])
    assert "RLE" in refused(as_bytes(data)) or "damaged" in refused(as_bytes(data))


def test_files_without_a_preamble(tmp_path: Path) -> None:
    expected = read_image(as_bytes(dataset(PixelSpacing=[1, 2])))
    for implicit in (True, False):
        data = dataset(PixelSpacing=[1, 2])
        buffer = io.BytesIO()
        del data.file_meta
        pydicom.dcmwrite(buffer, data, implicit_vr=implicit, little_endian=True)
        path = tmp_path / "IM0001"
        path.write_bytes(buffer.getvalue())
        for source in (path, buffer.getvalue()):
            scan = read_image(source)
            assert scan.sha256 == expected.sha256 and scan.spacing_mm == (1, 2)


def test_nothing_of_the_patient_leaks(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """Values that pydicom would quote in warnings and log lines."""
    caplog.set_level(logging.DEBUG)
    raw = as_bytes(dataset(WindowCenter=500, WindowWidth=401)).replace(b"1.2.3\0", b"SECRET")
    raw = raw.replace(b"SECRETID", b"\xff\xfeSECRET")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        read_image(raw)
        refused(raw[:-100])
        pydicom.dcmread(io.BytesIO(raw)).PatientID  # noqa: B018 - others may still hear pydicom's log
    assert not [w for w in heard if "mimo" in str(w.filename)]
    streams = capfd.readouterr()
    assert "SECRET" not in streams.out + streams.err + caplog.text


def test_a_missing_pydicom_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = as_bytes(dataset())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "pip install mimo-edge[dicom]" in refused(raw)
