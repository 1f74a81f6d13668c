"""A table of DICOM files: each is read, or refused for the reason that holds. The test prints how many there are.

The files are those that pydicom installs, those of the package ``pydicom-data`` if it is installed, and files that the test
writes. Nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from dicom_cases import as_bytes, dataset
from PIL import Image

from mimo_runtime.errors import ImageError
from mimo_runtime.imageio.reader import read_image

pydicom = pytest.importorskip("pydicom")
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import UID, AllTransferSyntaxes, RLELossless  # noqa: E402

READ = "read"
#: Patterns of paths below pydicom's data folder, or ``pydicom-data/``, and a part of the message; the first that fits counts.
#: Everything else is read.
TABLE = {
    "*.txt": "is not an image that can be read",
    "*.json": "is not an image that can be read",
    "*.md": "is not an image that can be read",
    "*.dump": "is not an image that can be read",
    "*.gz": "is not an image that can be read",
    "*.icc": "is not an image that can be read",
    "*/README": "is not an image that can be read",
    "*/no_meta.dcm": "is not an image that can be read",
    "*/chrJapMulti*.dcm": "without pixels (Computed Radiography Image Storage), though it states 32 x 32",
    "*/chrKoreanMulti.dcm": "without pixels (Computed Radiography Image Storage)",
    "*/chrSQEncoding*.dcm": "without pixels",
    "palettes/*.dcm": "without pixels (Color Palette Storage)",
    "*/DICOMDIR*": "without pixels (Media Storage Directory Storage)",
    "*/TINY_ALPHA/*/IM*": "without pixels (CT Image Storage)",
    "*/Expl*NoMeta.dcm": "without pixels (RT Ion Plan Storage)",
    "*/JPEG2000-embedded-sequence-delimiter.dcm": "compressed pixels are of another kind or size than it states",
    "*/MR_truncated.dcm": "damaged DICOM file",
    "*/SC_rgb_small_odd*.dcm": "has 3 x 3 pixels. Each side needs at least 8 pixels",
    "*/UN_sequence.dcm": "without pixels (CT Image Storage)",
    "*/badVR.dcm": "no image: a dose distribution",
    "*/rtdose*.dcm": "no image: a dose distribution",
    "*/liver*.dcm": "no image: a segmentation",
    "*/reportsi*.dcm": "without pixels (Basic Text SR Storage)",
    "*/rtplan*.dcm": "without pixels (RT Plan Storage)",
    "*/rtstruct.dcm": "without pixels (RT Structure Set Storage)",
    "*/test-SR.dcm": "without pixels (Comprehensive SR Storage)",
    "*/waveform_ecg.dcm": "without pixels (12-lead ECG Waveform Storage)",
    **dict.fromkeys(("*/empty_charset_LEI.dcm", "*/meta_missing_tsyntax.dcm", "*_priv_SQ.dcm", "*/priv_SQ.dcm",
                     "*/no_meta_group_length.dcm"), "without pixels"),
    "pydicom-data/emri_small_jpeg_2k_lossless_too_short.dcm": "without pixels (Enhanced MR Image Storage)",
}  # fmt: skip

PICTURE = (np.add.outer(np.arange(16) * 37, np.arange(24) * 150) % 256).astype(np.uint8)


def files() -> Iterator[tuple[str, Path]]:
    """(name in the table, path) of every installed file."""
    roots = {"": Path(pydicom.__file__).parent / "data"}
    if (companion := importlib.util.find_spec("data_store")) is not None and companion.origin:
        roots["pydicom-data/"] = Path(companion.origin).parent / "data"
    for prefix, root in roots.items():
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                yield prefix + path.relative_to(root).as_posix(), path


def outcome(source: Path | bytes) -> str:
    """:data:`READ`, or the line of the refusal. Every other exception fails the test."""
    try:
        assert read_image(source).pixels.dtype == np.uint8
    except ImageError as error:
        assert error.remedy and len(str(error)) <= 300 and str(error).isprintable()
        assert "pip install" not in str(error) and "Traceback" not in str(error)  # all decoders are installed here
        return str(error)
    return READ


def stream(kind: str) -> bytes:
    """The picture as JPEG or JPEG 2000."""
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {"irreversible": False}))
    return buffer.getvalue()


def compressed(syntax: str, frame: bytes) -> bytes:
    data = dataset(PICTURE)
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.PixelData = encapsulate([frame])
    data["PixelData"].is_undefined_length = True
    return as_bytes(data)


def test_every_installed_file_is_read_or_refused_for_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = {name: outcome(path) for name, path in files()}
    expected = {name: next((text for pattern, text in TABLE.items() if fnmatch(name, pattern)), READ) for name in outcomes}
    wrong = {name: (expected[name], text) for name, text in outcomes.items() if expected[name] not in text}
    assert not wrong
    read, dicom = sum(text == READ for text in outcomes.values()), sum("not an image" not in t for t in outcomes.values())
    with capsys.disabled():
        print(f"\n{len(outcomes)} files, {dicom} of them DICOM: {read} read, {dicom - read} refused for their reason")
    assert dicom >= 52 and read >= 60


@pytest.mark.parametrize("syntax", [u for u in AllTransferSyntaxes if u.is_compressed], ids=lambda u: str(u)[18:])
def test_a_compression_that_is_not_decoded_is_named_with_the_decoders_that_tried(syntax: UID) -> None:
    text = outcome(compressed(syntax, b"\x01\x02\x03\x04" * 8))
    assert f"is compressed as '{syntax.name[:80]}'" in text or syntax == RLELossless
    decoders = [name for name in ("gdcm", "pydicom", "pillow", "pylibjpeg") if name in text.partition("', ")[2]]
    is_video = any(word in syntax.name for word in ("MPEG2", "MPEG-4", "HEVC", "SMPTE", "JPIP", "Part 2"))
    if is_video:
        assert text.endswith("for which no decoder is installed. Convert it to uncompressed DICOM.")
    elif importlib.util.find_spec("gdcm") and syntax != RLELossless:
        assert "gdcm" in decoders and "Check that it is complete" in text


@pytest.mark.parametrize("native", ["1.2", "1.2.1", "1.2.1.99", "1.2.2"])
def test_encodings_without_compression_are_read(native: str) -> None:
    data = dataset(PICTURE.astype(np.uint16))
    data.file_meta.TransferSyntaxUID = UID(f"1.2.840.10008.{native}")
    if native == "1.2.2":
        data.PixelData = PICTURE.astype(">u2").tobytes()
    assert outcome(as_bytes(data)) == READ


#: Codestreams of the picture, by transfer syntax: JPEG baseline and extended, JPEG 2000 with and without loss.
STREAMS = {"50": "JPEG", "51": "JPEG", "90": "JPEG2000", "91": "JPEG2000"}


@pytest.mark.parametrize("syntax", STREAMS)
def test_damaged_streams_are_read_or_refused_and_the_process_lives(syntax: str) -> None:
    frame, rng = stream(STREAMS[syntax]), np.random.default_rng(int(syntax))
    assert outcome(compressed(f"1.2.840.10008.1.2.4.{syntax}", frame)) == READ
    for number in range(12):
        damaged = bytearray(frame)
        for at in rng.integers(2, len(damaged), 1 + number % 4):
            damaged[at] = rng.integers(256)
        text = outcome(compressed(f"1.2.840.10008.1.2.4.{syntax}", bytes(damaged[: rng.integers(8, len(frame) + 1)])))
        assert text == READ or "cannot read" in text or "damaged" in text


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless.dcm", "JPEGLSNearLossless_16.dcm", "SC_rgb_jls_lossy_line.dcm"])
def test_damaged_jpeg_ls_is_read_or_refused_and_the_process_lives(name: str) -> None:
    raw = (Path(pydicom.__file__).parent / "data/test_files" / name).read_bytes()
    start, rng = raw.index(b"\xff\xd8\xff"), np.random.default_rng(len(name))
    for _ in range(8):
        damaged = bytearray(raw)
        for at in rng.integers(start + 2, min(len(raw), start + 400), 3):
            damaged[at] = rng.integers(256)
        text = outcome(bytes(damaged))
        assert text == READ or "cannot read" in text or "damaged" in text
