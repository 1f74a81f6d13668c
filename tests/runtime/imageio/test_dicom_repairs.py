"""DICOM elements with wrong value representations, padding that compression moved, and elements that are missing."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from dicom_cases import STORED, as_bytes, dataset

from mimo_runtime.imageio.reader import read_image

pytest.importorskip("pydicom")
from pydicom.dataelem import RawDataElement  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.tag import Tag  # noqa: E402
from pydicom.uid import JPEGLSNearLossless  # noqa: E402

WINDOW = {"WindowCenter": 400, "WindowWidth": 600}

#: 16 x 24 values by CharLS with NEAR = 5: padding that became 0 in 8 columns, then about 910 and 1110.
NEAR_LOSSLESS = base64.b64decode(
    "/9j/6AAgU1BJRkYAAgAAAQAAABAAAAAYChAGAQAAASwAAAEs/+gACAAAAAH/2P/3AAsQABAAGAEBEQD/+AANAf//ACEAXAE3AED/2gAIAQEABQ"
    "AA/FHBwoYoIZE4QjSMKdQEBBgIKAgQEAQECKAgICHxCgSQQMBAgYGEIMDAhgQ6ihgQRGBAgRQEEUUcGoIZIIooYMEEUUDDBTEEpwQQwwkHFCkM"
    "oTxCUYoUhwERBKUIRlhOEIBBglBQKQpScoYQEMIMIThQMJSqZ0wpEJxnCBg0uNRldISgjCIQIdRximY0jMRUwhglVZk0pKaicoCKAqIqZmkxFR"
    "NQpKnFziKVVQY5xQxNVUowuNTVVBCiKiMo/9k="
)


def with_raw(data: Dataset, keyword: str, vr: str, value: bytes) -> Dataset:
    tag = Tag(keyword)
    data[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    return data


@pytest.mark.parametrize(
    ("vr", "centre", "width"),
    [
        ("UT", b"400\\300", b"600\\100"),
        ("LO", b"400,0", b"600,0 "),
        ("LO", b" 400 ", b"600.0 "),
        ("OB", b"400 ", b"600 "),
        ("US", b"\x90\x01", b"\x58\x02"),
        ("DS", b"400,0 ", b"600,0 "),
        ("DS", b"400\\", b"600\\"),
        ("FD", np.float64(400).tobytes(), np.float64(600).tobytes()),
    ],
)
def test_windows_of_any_representation(vr: str, centre: bytes, width: bytes) -> None:
    expected = read_image(as_bytes(dataset(**WINDOW)))
    data = with_raw(with_raw(dataset(), "WindowCenter", vr, centre), "WindowWidth", vr, width)
    scan = read_image(as_bytes(data))
    assert (scan.sha256, scan.bits) == (expected.sha256, "DICOM, window 400/600")


@pytest.mark.parametrize(("vr", "value"), [("UT", b"2.5000\\3.5"), ("LO", b"2,5\\3,5"), ("OB", b"2.5\\3.5 ")])
def test_spacing_of_any_representation(vr: str, value: bytes) -> None:
    assert read_image(as_bytes(with_raw(dataset(), "PixelSpacing", vr, value))).spacing_mm == (2.5, 3.5)


def test_padding_with_the_sign_of_the_other_representation() -> None:
    signed = STORED.astype(np.int16)
    signed[:, :8] = -2000
    right = dataset(signed)
    right.add_new("PixelPaddingValue", "SS", -2000)
    wrong = dataset(signed)
    wrong.add_new("PixelPaddingValue", "US", 63536)
    unsigned = dataset(signed.view(np.uint16))
    unsigned.add_new("PixelPaddingValue", "SS", -2000)
    scans = [read_image(as_bytes(data)) for data in (right, wrong, unsigned)]
    assert not scans[0].pixels[:, :8].any() and "percentile 42.975..992.025" in scans[0].bits
    assert len({scan.sha256 for scan in scans}) == 1


def test_padding_within_the_error_of_near_lossless_compression() -> None:
    data = dataset(np.zeros((16, 24), np.uint16), PixelPaddingValue=3)
    data.file_meta.TransferSyntaxUID = JPEGLSNearLossless
    data.PixelData = encapsulate([NEAR_LOSSLESS])
    data["PixelData"].is_undefined_length = True
    scan = read_image(as_bytes(data))
    assert not scan.pixels[:, :8].any()
    assert scan.pixels[:, 8:16].mean() < 60 < 200 < scan.pixels[:, 16:].mean()  # the contrast is that of the rest


def test_a_window_that_shows_nothing_is_stated() -> None:
    scan = read_image(as_bytes(dataset(WindowCenter=5000, WindowWidth=400)))
    assert not scan.pixels.any() and "shows no difference" in scan.bits
    assert "shows" not in read_image(as_bytes(dataset(**WINDOW))).bits


@pytest.mark.parametrize("keyword", ["PhotometricInterpretation", "BitsStored", "HighBit", "PixelRepresentation"])
def test_a_missing_element_with_one_sensible_value_is_filled_in(keyword: str) -> None:
    scan = read_image(as_bytes(dataset(**{keyword: None})))
    assert scan.sha256 == read_image(as_bytes(dataset())).sha256
    assert keyword in scan.bits or keyword == "HighBit"


def test_a_number_of_frames_that_is_none_counts_as_one() -> None:
    scan = read_image(as_bytes(with_raw(dataset(), "NumberOfFrames", "IS", b"1A")))
    assert scan.sha256 == read_image(as_bytes(dataset())).sha256 and "NumberOfFrames" in scan.bits
