"""Compressed DICOM frames that pydicom's plugins refuse, decoded through GDCM itself.

pydicom asks GDCM for JPEG, JPEG-LS and JPEG 2000 only. GDCM also decodes high-throughput JPEG 2000 (HTJ2K) and 12-bit JPEG, and
pixel data that contain the bytes of a delimiter by chance can be cut into frames by the lengths of their items.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from .elements import number

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_PIXEL_DATA = 0x7FE00010
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_UNDEFINED = 0xFFFFFFFF
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
    try:
        import gdcm
    except ImportError:
        return None
    rows, columns, samples = (int(number(data, k) or 1) for k in ("Rows", "Columns", "SamplesPerPixel"))
    stored, signed = int(number(data, "BitsStored") or 8), int(number(data, "PixelRepresentation") or 0)
    size = 1 if stored <= 8 else 2
    fragments = gdcm.SequenceOfFragments.New()
    parts = _frame_parts(_items(source, data), max(1, int(number(data, "NumberOfFrames") or 1)), frame)
    if not parts or not 0 < stored <= 16 or samples not in (1, 3):
        return None
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(b"".join(parts))
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    photometric = str(data.get("PhotometricInterpretation") or "MONOCHROME2")
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(photometric)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    image.SetPixelFormat(gdcm.PixelFormat(samples, 8 * size, stored, stored - 1, signed))
    buffer = image.GetBuffer()
    decoded = b"" if buffer is None else buffer.encode("utf-8", "surrogateescape")  # the binding returns char* as text
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
