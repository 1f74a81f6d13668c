"""Compressed DICOM: every file that pydicom ships, and what its plugins refuse but GDCM decodes."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import numpy as np
import pytest
from dicom_cases import as_bytes, dataset
from fuzz_cases import mutate_bytes, pictures

from mimo_runtime.errors import ImageError
from mimo_runtime.imageio.reader import read_image

pydicom = pytest.importorskip("pydicom")
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import UID, JPEGLosslessSV1  # noqa: E402

FOLDERS = [Path(pydicom.__file__).parent / "data" / "test_files"]

#: A lossless high-throughput JPEG 2000 codestream of the 12-bit picture below, by OpenJPH.
HTJ2K = base64.b64decode(
    "/0//UQApQAAAAAAYAAAAEAAAAAAAAAAAAAAAGAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJ"
    "CQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAJsAAf+TwAAm9fQFB3QAwAATABT0A4d0AMAAEsAAE4CpAQd0AKKK+gCC"
    "NADAABPAABVAWMXqgot0AFChoP4ACEB3VgDAABVQAAVwokSJEvXacgJ1AKQkEolE+uAQ9iEB7LgAwAAtCAAFsioqKioqKioq8/p6enGCeABIBE"
    "EQBEEQBEH+/xABCB79hCB79hCB7L8A/9k="
)
PICTURE = (np.add.outer(np.arange(16) * 37, np.arange(24) * 150) % 4096).astype(np.uint16)


@pytest.mark.parametrize("syntax", ["201", "202", "203"])
def test_high_throughput_jpeg_2000(syntax: str) -> None:
    pytest.importorskip("gdcm")
    data = dataset(PICTURE, BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=4096)
    expected = read_image(as_bytes(data))
    data.file_meta.TransferSyntaxUID = UID(f"1.2.840.10008.1.2.4.{syntax}")
    for frames in (1, 3):
        data.NumberOfFrames, data.PixelData = frames, encapsulate([HTJ2K] * frames)
        data["PixelData"].is_undefined_length = True
        scan = read_image(as_bytes(data), frame=frames - 1)
        np.testing.assert_array_equal(scan.pixels, expected.pixels)


@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPGExtended.dcm"])
def test_12_bit_jpeg_extended(name: str) -> None:
    pytest.importorskip("gdcm")
    scan = read_image(get_testdata_file(name, download=False))
    assert (scan.width, scan.height) == (256, 1024) and scan.pixels.std() > 20 and scan.bits.endswith("0..112 to 0..255")


def test_the_decoders_that_were_tried_are_named() -> None:
    pytest.importorskip("gdcm")
    data = dataset()
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.PixelData = encapsulate([b"\xff\xd8" + bytes(100) + b"\xff\xd9"])
    with pytest.raises(ImageError, match="which gdcm cannot read") as caught:
        read_image(as_bytes(data))
    assert "JPEG Lossless" in str(caught.value) and "install" not in str(caught.value)


def test_gdcm_runs_in_a_process_of_its_own_which_may_end(monkeypatch) -> None:
    """pydicom's own plugin, which calls GDCM in this process, takes no part."""
    pytest.importorskip("gdcm")
    from pydicom.pixels.decoders import gdcm as in_this_process

    from mimo_runtime.imageio.encapsulated import GDCM

    monkeypatch.setattr(in_this_process, "_decode_frame", lambda *_: pytest.fail("GDCM in this process"))
    lossy = pictures()[-1]
    expected = read_image(lossy).pixels
    first = GDCM._process
    assert first is not None and first.poll() is None
    assert np.array_equal(read_image(lossy).pixels, expected) and GDCM._process is first
    first.kill()
    assert np.array_equal(read_image(lossy).pixels, expected) and GDCM._process is not first


def test_a_stream_that_ends_gdcm_is_refused() -> None:
    """The length of a Huffman table that GDCM's JPEG reader takes for an invalid logic behaviour: it calls abort()."""
    pytest.importorskip("gdcm")
    lossy, rng, results = pictures()[-1], random.Random(7), set()
    for _ in range(60):
        try:
            read_image(mutate_bytes(lossy, rng, 900))
            results.add("read")
        except ImageError as error:
            assert error.remedy
            results.add("refused")
    assert results == {"read", "refused"}


def test_damaged_frames_never_escape() -> None:
    pytest.importorskip("gdcm")
    rng = np.random.default_rng(5)
    data = dataset(PICTURE, BitsStored=12, HighBit=11)
    data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.201")
    for _ in range(8):
        stream = bytearray(HTJ2K)
        for at in rng.integers(4, len(stream), 3):
            stream[at] = rng.integers(256)
        data.PixelData = encapsulate([bytes(stream[: rng.integers(20, len(stream) + 1)])])
        try:
            assert read_image(as_bytes(data)).pixels.dtype == np.uint8
        except ImageError as error:
            assert error.remedy
