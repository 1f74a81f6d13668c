"""Which files are videos, by their first bytes, and whether one is complete, by the sizes that its container states."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

#: Names of video files, for files whose content is none.
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv")
#: Enough for the second packet of a transport stream.
_HEAD = 400
#: Brands of pictures, which share their container with MP4: HEIF, AVIF, JPEG 2000 and Canon's raw format.
_PICTURES = (b"hei", b"hev", b"mif1", b"msf1", b"avi", b"jp2 ", b"jpx ", b"jpm ", b"crx ")
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_ASF = bytes.fromhex("3026b2758e66cf11")


def is_video(source: object) -> bool:
    """Whether a path leads to a video file, by its content, or else by its name. False for what cannot be opened."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    try:
        with open(source, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return False
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return False
    return container_of(head) != "" or Path(os.fsdecode(source)).suffix.lower() in SUFFIXES


def container_of(head: bytes) -> str:
    """The container by the first bytes of a file: "mp4", "matroska", "avi", "mpeg" or "asf"; "" for another file."""
    if head[4:8] in _BOXES and not (head[4:8] == b"ftyp" and head[8:12].startswith(_PICTURES)):
        return "mp4"
    if head.startswith(_EBML):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    is_transport_stream = head[:1] == head[188:189] == head[376:377] == b"G" and not head.startswith(b"GIF8")
    if head.startswith((b"\0\0\1\xba", b"\0\0\1\xb3")) or is_transport_stream:
        return "mpeg"
    return "asf" if head.startswith(_ASF) else ""


def is_cut_off(file: BinaryIO) -> bool:
    """Whether a file is shorter than its container states. Streams (MPEG) and live recordings state no size."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    end = _ENDS.get(container_of(file.read(_HEAD)))
    return end is not None and end(file, size) > size


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the last box of an MP4 or MOV file ends."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length, kind = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        if length < 8 or not re.fullmatch(rb"[\x20-\x7e\xa9]{4}", kind):  # 0: to the end of the file
            break
        position += length
    return position


def _end_of_segment(file: BinaryIO, size: int) -> int:
    """Where the segment of a Matroska file ends; 0 where it states no size."""
    file.seek(0)
    head = file.read(_HEAD)
    length, start = _number(head, 4)
    segment = start + length
    if head[segment : segment + 4] != _SEGMENT:
        return 0
    length, start = _number(head, segment + 4)
    return start + length if length >= 0 else 0


def _number(data: bytes, place: int) -> tuple[int, int]:
    """A size in EBML and the place after it; -1 for an unknown size."""
    first = data[place] if place < len(data) else 0
    width = 9 - first.bit_length()
    bits = int.from_bytes(data[place : place + width], "big") & ((1 << 7 * width) - 1)
    return (-1 if bits == (1 << 7 * width) - 1 or width > 8 else bits), place + width


def _end_of_chunks(file: BinaryIO, size: int) -> int:
    """Where the last RIFF chunk of an AVI file ends; recorders that were switched off leave a size of 0."""
    position = end = 0
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF" or length in (0, 0xFFFFFFFF):
            break
        end = position + 8 + length
        position = end + end % 2
    return end


_ENDS: dict[str, Callable[[BinaryIO, int], int]] = {
    "mp4": _end_of_boxes, "matroska": _end_of_segment, "avi": _end_of_chunks,
}  # fmt: skip
