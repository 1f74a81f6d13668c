"""Videos are recognised by their content, and cut-off files by the sizes that the container states."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from mimo_runtime.video.containers import container_of, is_cut_off, is_video

EBML = b"\x1a\x45\xdf\xa3\x84abcd"
SEGMENT = b"\x18\x53\x80\x67"


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def riff(content: bytes) -> bytes:
    return struct.pack("<4sI", b"RIFF", len(content)) + content


MP4 = box(b"ftyp", b"isom") + box(b"moov", b"m" * 40) + struct.pack(">I4sQ", 1, b"mdat", 116) + b"d" * 100
MKV = EBML + SEGMENT + b"\x40\x64" + b"s" * 100
AVI = riff(b"AVI " + b"a" * 60) + riff(b"AVIX" + b"b" * 60)


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (MP4, "mp4"),
        (box(b"mdat", b""), "mp4"),
        (MKV, "matroska"),
        (AVI, "avi"),
        (b"\0\0\1\xba", "mpeg"),
        ((b"G" + b"\0" * 187) * 3, "mpeg"),
        (b"GIF89a" + b"G" * 400, ""),
        (box(b"ftyp", b"heic"), ""),
        (box(b"ftyp", b"avif"), ""),
        (b"RIFF\0\0\0\0WEBP", ""),
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"", ""),
    ],
)
def test_a_container_is_known_by_its_first_bytes(head: bytes, container: str) -> None:
    assert container_of(head) == container


@pytest.mark.parametrize("data", [MP4, MKV, AVI])
def test_a_file_that_is_shorter_than_its_header_states_is_cut_off(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "clip"
    for content, expected in ((data, False), (data[:-1], True), (data + b"\0\0\0", False)):
        file.write_bytes(content)
        with file.open("rb") as opened:
            assert is_cut_off(opened) == expected


@pytest.mark.parametrize(
    "data", [EBML + SEGMENT + b"\x01" + b"\xff" * 7, riff(b"")[:8] + b"AVI ", box(b"ftyp", b"") + b"\0" * 9]
)
def test_a_recording_without_a_stated_size_is_not_cut_off(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "clip").write_bytes(data)
    with (tmp_path / "clip").open("rb") as opened:
        assert not is_cut_off(opened)


def test_what_is_no_file_is_no_video(tmp_path: Path) -> None:
    assert not is_video(tmp_path) and not is_video(tmp_path / "missing.mp4") and not is_video([1]) and not is_video("a\0b")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "text.txt").write_text("no video")
    assert is_video(tmp_path / "text.mp4") and not is_video(tmp_path / "text.txt")
