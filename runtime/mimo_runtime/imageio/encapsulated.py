"""Compressed DICOM frames, decoded by GDCM in a process of its own.

GDCM ends its process at some damaged streams. pydicom's own plugin calls it in the process that reads the file; :func:`decode`,
a plugin of pydicom as well, calls :mod:`gdcm_process`. That process is started at the first frame and again after each stream
that ended it. :func:`decode_frame` is for frames that pydicom's plugins refuse: pydicom asks GDCM for JPEG, JPEG-LS and JPEG
2000 only. GDCM also decodes high-throughput JPEG 2000 (HTJ2K) and 12-bit JPEG. Pixel data that contain the bytes of a
delimiter by chance are split into frames by the lengths of their items.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from ..utils.fork import restart_in_child
from .elements import number

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.pixels.decoders.base import DecodeRunner

_PIXEL_DATA = 0x7FE00010
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_UNDEFINED = 0xFFFFFFFF
_PHOTOMETRIC = (
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420",
    "YBR_ICT", "YBR_RCT",
)  # fmt: skip
#: Bytes at the start of a codestream that hold its first scan header.
_HEADERS = 1 << 16
#: JPEG baseline, extended and lossless; JPEG-LS, where GDCM is wrong for few bits, is left to pydicom.
_JPEG = tuple(f"1.2.840.10008.1.2.4.{k}" for k in (50, 51, 57, 70))
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{k}" for k in (90, 91, 201, 202, 203))
PLUGIN, ORIGINAL = "mimo-gdcm", "gdcm"
_SECONDS = 60.0
_JPEG_EXTENDED, _JPEG_LS_NEAR = "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"
_JPEG_LS = ("1.2.840.10008.1.2.4.80", _JPEG_LS_NEAR)
#: What pydicom asks of a plugin: the transfer syntaxes, with the packages that they need.
DECODER_DEPENDENCIES = {
    syntax: ("gdcm>=3.0.10",) for syntax in (*(f"1.2.840.10008.1.2.4.{k}" for k in (50, 51, 57, 70, 90, 91)), *_JPEG_LS)
}


def is_available(uid: str) -> bool:
    """Whether frames of a transfer syntax can be decoded here."""
    return uid in DECODER_DEPENDENCIES and importlib.util.find_spec("gdcm") is not None


def gdcm_decodes(syntax: str) -> bool:
    """Whether GDCM, if it is installed, is asked for frames of a transfer syntax."""
    return syntax in DECODER_DEPENDENCIES or syntax in _JPEG + _JPEG_2000


def plugins(syntax: str) -> list[str]:
    """The names of pydicom's plugins for a transfer syntax in the order to try, GDCM in a process of its own first.

    The empty name leaves the choice to pydicom, where GDCM does not take part.
    """
    if not is_available(syntax):
        return [""]
    from pydicom.pixels.decoders.base import get_decoder

    decoder = get_decoder(syntax)
    with contextlib.suppress(ValueError):  # it was added before
        decoder.add_plugin(PLUGIN, (__name__, "decode"))
    return [PLUGIN, *(name for name in decoder.available_plugins if name not in (PLUGIN, ORIGINAL))]


def decode(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode a frame, as ``pydicom.pixels.decoders.gdcm`` does.

    Args:
        source: the compressed frame.
        runner: what pydicom knows of it; the size and colours of the result are set there.

    Raises:
        ValueError: GDCM cannot read it, or reads it wrongly.
    """
    syntax, stored = str.__str__(runner.transfer_syntax), runner.bits_stored
    if syntax == _JPEG_EXTENDED and stored != 8 or syntax in _JPEG_LS and stored in (6, 7):
        raise ValueError("GDCM does not read samples of that precision")
    if syntax == _JPEG_LS_NEAR and runner.pixel_representation == 1 and stored < 8:
        raise ValueError("GDCM does not read signed samples of that precision")
    header: dict[str, object] = {"planar": runner.planar_configuration if runner.samples_per_pixel > 1 else None}
    if syntax in _JPEG_LS:  # always colour by pixel
        runner.set_option("planar_configuration", 0)
    if syntax in _JPEG_LS + _JPEG_2000:  # the size of a sample is that of its precision
        stored = cast("int", runner.get_option("jls_precision" if syntax in _JPEG_LS else "j2k_precision", stored))
        allocated = next((size for size in (8, 16, 32) if 0 < stored <= size), None)
        if allocated is not None:
            runner.set_option("bits_allocated", allocated)
    decoded = GDCM.decode(
        {
            **header, "rows": runner.rows, "columns": runner.columns, "samples": runner.samples_per_pixel, "stored": stored,
            "allocated": runner.bits_allocated, "signed": runner.pixel_representation, "syntax": syntax,
            "photometric": str.__str__(runner.photometric_interpretation),
        },
        source,
    )  # fmt: skip
    if not decoded:
        raise ValueError("GDCM cannot read it")
    if syntax in _JPEG_2000 and runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
        runner.set_option("photometric_interpretation", "RGB")
    return decoded


class GdcmProcess:
    """The process that decodes, started when it is needed. One frame at a time."""

    def __init__(self) -> None:
        self.restart()
        restart_in_child(self)

    def restart(self) -> None:
        """Start without a process: a forked child must not use its parent's."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, header: dict[str, object], stream: bytes) -> bytes:
        """The decoded bytes of a frame; empty if GDCM cannot read it, or ends, or takes longer than a minute."""
        words = json.dumps(header).encode()
        with self._lock:
            try:
                with self._running() as process:
                    assert process.stdin is not None and process.stdout is not None
                    process.stdin.write(struct.pack("<II", len(words), len(stream)) + words + stream)
                    process.stdin.flush()
                    (size,) = struct.unpack("<I", process.stdout.read(4))
                    decoded = process.stdout.read(size)
                    return decoded if len(decoded) == size else b""
            except (OSError, struct.error, subprocess.SubprocessError):
                self._end()
                return b""

    @contextlib.contextmanager
    def _running(self) -> Iterator[subprocess.Popen[bytes]]:
        """The process, which is killed after a minute."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.gdcm_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env=environment,
            )  # fmt: skip
        timer = threading.Timer(_SECONDS, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            yield self._process
        finally:
            timer.cancel()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what was not written yet
                if stream is not None:
                    stream.close()

    def close(self) -> None:
        """End the process; the next frame starts another."""
        with self._lock:
            self._end()


GDCM = GdcmProcess()
atexit.register(GDCM.close)


def decode_frame(source: Path | BinaryIO, data: Dataset, frame: int) -> np.ndarray | None:
    """The stored values of a frame, ``[H, W]`` or ``[H, W, 3]``; None if GDCM is missing or cannot read it.

    Args:
        source: the file of ``data``.
        data: its elements, with the transfer syntax.
    """
    syntax = str(data.file_meta.TransferSyntaxUID)
    if syntax not in _JPEG + _JPEG_2000:
        return None
    if importlib.util.find_spec("gdcm") is None:
        return None
    rows, columns, samples = (int(number(data, k) or 1) for k in ("Rows", "Columns", "SamplesPerPixel"))
    stored, signed = int(number(data, "BitsStored") or 8), int(number(data, "PixelRepresentation") or 0)
    size = 1 if stored <= 8 else 2
    parts = _frame_parts(_items(source, data), max(1, int(number(data, "NumberOfFrames") or 1)), frame)
    if not parts or not 0 < stored <= 16 or samples not in (1, 3):
        return None
    photometric = str(data.get("PhotometricInterpretation") or "MONOCHROME2")
    header: dict[str, object] = {
        "rows": rows, "columns": columns, "samples": samples, "stored": stored, "allocated": 8 * size, "signed": signed,
        "syntax": syntax, "photometric": photometric,
    }  # fmt: skip
    decoded = GDCM.decode(header, b"".join(parts))
    if len(decoded) != rows * columns * samples * size:
        return None
    values = np.frombuffer(decoded, f"{'i' if signed else 'u'}{size}").reshape(rows, columns, samples)
    if samples == 1:
        return values[..., 0]
    return _as_rgb(values, photometric) if syntax in _JPEG else values  # JPEG 2000 comes as RGB


def _as_rgb(values: np.ndarray, photometric: str) -> np.ndarray | None:
    if not photometric.startswith("YBR"):
        return values
    if values.dtype != np.uint8:
        return None
    from pydicom.pixels.processing import convert_color_space

    return np.asarray(convert_color_space(values, "YBR_FULL", "RGB"))


def near_lossless(source: Path | BinaryIO, data: Dataset) -> int:
    """The largest error of a value in near-lossless JPEG-LS (NEAR of its first scan, ISO 14495-1 C.2.3); 0 if not found."""
    stream = b"".join(_items(source, data, at_most=2)[1:])[:_HEADERS]
    at = stream.find(b"\xff\xda")
    if at < 0 or len(stream) < at + 8:
        return 0
    near = at + 5 + 2 * stream[at + 4]  # behind marker, length, and number and selectors of the components
    return stream[near] if near < len(stream) else 0


def _items(source: Path | BinaryIO, data: Dataset, at_most: int | None = None) -> list[bytes]:
    """The items of the pixel data, the offset table first, by their lengths: their bytes may look like a delimiter."""
    at = getattr(data.get_item(_PIXEL_DATA), "value_tell", None)
    if at is None:
        return []
    if isinstance(source, Path):
        with source.open("rb") as file:
            return _read_items(file, at, at_most)
    return _read_items(source, at, at_most)


def _read_items(file: BinaryIO, at: int, at_most: int | None) -> list[bytes]:
    file.seek(at)
    items: list[bytes] = []
    while at_most is None or len(items) < at_most:
        head = file.read(8)
        if len(head) < 8 or head[:4] != _ITEM:
            return items if head[:4] == _DELIMITER or len(head) < 8 else []
        length = struct.unpack("<I", head[4:])[0]
        body = b"" if length == _UNDEFINED else file.read(length)
        if len(body) != length:
            return []
        items.append(body)
    return items


def _frame_parts(items: list[bytes], frames: int, frame: int) -> list[bytes]:
    """The fragments of a frame; empty if nothing marks where a frame begins."""
    fragments = items[1:]
    if frames == 1:
        return fragments
    if len(fragments) == frames:
        return [fragments[frame]]
    offsets = np.frombuffer(items[0], "<u4") if items and len(items[0]) == 4 * frames else None
    if offsets is None:
        return []
    starts = np.cumsum([0, *(len(part) + 8 for part in fragments)])
    end = int(offsets[frame + 1]) if frame + 1 < frames else int(starts[-1])
    return [part for part, start in zip(fragments, starts[:-1]) if offsets[frame] <= start < end]


def check_stream(source: Path | BinaryIO, data: Dataset, frame: int) -> bool:
    """Whether the compressed stream of a frame agrees with the data set; true where that cannot be seen.

    GDCM ends the process at some disagreements, so they must not reach it.
    """
    if str(data.get("PhotometricInterpretation") or "MONOCHROME2") not in _PHOTOMETRIC:
        return False
    items = _items(source, data, at_most=frame + 2)
    stream = items[-1][:_HEADERS] if len(items) == frame + 2 else b""
    if stream[:4] == b"\xff\x4f\xff\x51" and len(stream) > 50:
        right, bottom, left, top = struct.unpack(">4I", stream[8:24])
        size = bottom - top, right - left, struct.unpack(">H", stream[40:42])[0]
    else:
        header = _jpeg_size(stream) if stream[:2] == b"\xff\xd8" else None
        if header is None:
            return True
        size = header
    return size == tuple(int(number(data, k) or 1) for k in ("Rows", "Columns", "SamplesPerPixel"))


def _jpeg_size(stream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components of the frame header of JPEG or JPEG-LS."""
    at = 2
    while at + 10 <= len(stream):
        if stream[at] != 0xFF:
            return None
        marker = stream[at + 1]
        if marker == 0xF7 or 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            rows, columns = struct.unpack(">HH", stream[at + 5 : at + 9])
            return rows, columns, stream[at + 9]
        at += 1 if marker == 0xFF else 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None
