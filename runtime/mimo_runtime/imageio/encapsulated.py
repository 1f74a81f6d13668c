"""Compressed DICOM frames that pydicom's plugins refuse, decoded through GDCM itself.

pydicom asks GDCM for JPEG, JPEG-LS and JPEG 2000 only. GDCM also decodes high-throughput JPEG 2000 (HTJ2K) and 12-bit JPEG, and
pixel data that contain the bytes of a delimiter by chance can be cut into frames by the lengths of their items.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from .elements import number

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_PIXEL_DATA = 0x7FE00010
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_UNDEFINED = 0xFFFFFFFF
_SECONDS = 60
_PHOTOMETRIC = (
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420",
    "YBR_ICT", "YBR_RCT",
)  # fmt: skip
#: Bytes at the start of a codestream that hold its first scan header.
_HEADERS = 1 << 16
#: JPEG baseline, extended and lossless; JPEG-LS, where GDCM is wrong for few bits, is left to pydicom.
_JPEG = tuple(f"1.2.840.10008.1.2.4.{k}" for k in (50, 51, 57, 70))
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{k}" for k in (90, 91, 201, 202, 203))


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
    header = {
        "rows": rows, "columns": columns, "samples": samples, "stored": stored, "signed": signed,
        "syntax": syntax, "photometric": photometric,
    }  # fmt: skip
    decoded = _decoded_elsewhere(json.dumps(header).encode() + b"\n" + b"".join(parts))
    if len(decoded) != rows * columns * samples * size:
        return None
    values = np.frombuffer(decoded, f"{'i' if signed else 'u'}{size}").reshape(rows, columns, samples)
    if samples == 1:
        return values[..., 0]
    return _as_rgb(values, photometric) if syntax in _JPEG else values  # JPEG 2000 comes as RGB


def _decoded_elsewhere(request: bytes) -> bytes:
    """The answer of ``gdcm_process``; empty if it ends early."""
    command = [sys.executable, "-m", f"{__package__}.gdcm_process"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(command, input=request, capture_output=True, env=environment, timeout=_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout if done.returncode == 0 else b""


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
    """The fragments of a frame; empty if they cannot be told apart."""
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
