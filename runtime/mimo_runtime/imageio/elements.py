"""Numbers out of DICOM elements, whatever their value representation says, and functional groups."""

from __future__ import annotations

import contextlib
import logging
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import DamagedImageError, ImageError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


#: Most bytes of a data set that is stored deflated.
MAX_INFLATED = 256 << 20
_BLOCK = 1 << 20
_DEFLATED = "1.2.840.10008.1.2.1.99"


def group(data: Dataset, frame: int, keyword: str) -> Dataset | None:
    """The item of a functional group for a frame: its own, then the shared one, then None."""
    per_frame, shared = data.get("PerFrameFunctionalGroupsSequence"), data.get("SharedFunctionalGroupsSequence")
    for item in (per_frame[frame] if per_frame and frame < len(per_frame) else None, shared[0] if shared else None):
        sequence = item.get(keyword) if item is not None else None
        if sequence:
            value: Dataset | None = sequence[0]
            return value
    return None


def number(data: Dataset, keyword: str) -> float | None:
    """The first value of an element if it is a finite number, else None. Whatever value representation the file states:

    Text (UT, LO, UN) may separate values by a backslash and write a comma for the point; bytes are text or 16-bit numbers.
    """
    values = numbers(data, keyword, 1)
    return values[0] if values else None


def pair(data: Dataset | None, keyword: str) -> tuple[float, float] | None:
    """Two positive numbers, or None."""
    values = numbers(data, keyword, 3) if data is not None else []
    return (values[0], values[1]) if len(values) == 2 and min(values) > 0 else None


def numbers(data: Dataset, keyword: str, at_most: int) -> list[float]:
    """The first numbers of an element; empty if one of them is not a finite number."""
    try:
        values = _parts(_value(data, keyword))[:at_most]
        result = [float(_point(v)) if isinstance(v, str) else float(v) for v in values]  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return []
    return result if all(math.isfinite(v) for v in result) else []


def _value(data: Dataset, keyword: str) -> object:
    from pydicom.tag import Tag

    try:
        return data.get(keyword)
    except Exception:  # pydicom cannot convert what the file holds: take its bytes
        return getattr(data.get_item(Tag(keyword)), "value", None)


def _parts(value: object) -> list[object]:
    if value is None:
        return []
    if isinstance(value, bytes):
        text = value.decode("latin-1").strip("\0 ")
        if not (text.isascii() and text.isprintable()):
            return list(struct.unpack(f"<{len(value) // 2}H", value[: len(value) // 2 * 2]))
        value = text
    if isinstance(value, str):
        return list(value.split("\\")) if value.strip() else []
    return list(value) if isinstance(value, Iterable) else [value]


def _point(text: str) -> str:
    text = text.strip()
    return text.replace(",", ".") if text.count(",") == 1 and "." not in text else text


_reading = threading.local()
#: Libraries whose log lines quote values of files.
_QUOTING = ("pydicom", "highdicom")


def _not_reading(record: logging.LogRecord) -> bool:
    return not getattr(_reading, "now", False)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep pydicom quiet in this thread: its warnings and log lines quote values of the file, which may name the patient."""
    # The warnings filter stays: taking it back is not safe while other threads read.
    warnings.filterwarnings("ignore", module=r"pydicom\b|mimo_runtime\.dicom$")
    # A filter of a logger does not see the records of those below it. Adding one again changes nothing.
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _QUOTING:
            logging.getLogger(name).addFilter(_not_reading)
    before = getattr(_reading, "now", False)
    _reading.now = True
    try:
        yield
    finally:
        _reading.now = before


def check_deflated(source: Path | BinaryIO, name: str) -> None:
    """Refuse a deflated data set that unpacks to more than :data:`MAX_INFLATED` bytes: pydicom unpacks it whole, and 1 MB may
    become 1 GB.

    Args:
        source: a path, or an open binary file, which stays where it is.

    Raises:
        ImageError: larger, or damaged.
    """
    from pydicom.filereader import read_dataset, read_preamble

    def is_other(tag: int, vr: str | None, length: int) -> bool:
        return tag >> 16 != 2

    with open(source, "rb") if isinstance(source, Path) else contextlib.nullcontext(source) as file:
        begin = file.tell()
        try:
            read_preamble(file, True)
            at, syntax = file.tell(), None
            for implicit in (False, True):  # pydicom reads headers of either kind
                file.seek(at)
                header = read_dataset(file, implicit, True, stop_when=is_other)
                with contextlib.suppress(NotImplementedError):
                    syntax = header.get("TransferSyntaxUID")
                    break
            if syntax == _DEFLATED:
                _check_inflated(file, name)
        finally:
            file.seek(begin)


def _check_inflated(file: BinaryIO, name: str) -> None:
    unpacked, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while block := file.read(_BLOCK):
        while block:
            size += len(unpacked.decompress(block, _BLOCK))
            block = unpacked.unconsumed_tail
            if size > MAX_INFLATED:
                what = f"{name} unpacks to more than {MAX_INFLATED >> 20} MB"
                raise ImageError(what, "Export it without the deflated transfer syntax")


def damaged_dicom(name: str, error: Exception) -> DamagedImageError:
    # Only the kind of the error: its text may quote values of the file.
    return DamagedImageError(f"{name} is a damaged DICOM file ({type(error).__name__})", "Export it again")
