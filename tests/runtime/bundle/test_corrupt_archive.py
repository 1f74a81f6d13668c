"""Damaged .mimo files are refused before an engine reads them."""

from __future__ import annotations

import random
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from corruption_cases import flips, reaches_an_engine

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.manifest import spell
from mimo_runtime.bundle.schema import MANIFEST

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
pytestmark = pytest.mark.usefixtures("no_engine_is_created")

#: Offsets in the records of a zip archive (APPNOTE.TXT 6.3, 4.3.7, 4.3.12, 4.3.16) at which a reader does not look, or which
#: cannot change what is read: versions, flags, times, attributes, numbers of disks; in the record before each file also what
#: the central directory says with more authority.
IDLE_LOCAL = {*range(4, 26)}


IDLE_CENTRAL = {*range(4, 10), *range(12, 16), *range(34, 42)}


IDLE_END = {*range(4, 12)}


def frame(archive: bytes) -> dict[int, bool]:
    """Every offset of a ``.mimo`` file that is not within a file of the bundle -> whether its byte is idle."""
    size, start = struct.unpack("<2L", archive[-10:-2])
    found = {len(archive) - 22 + k: k in IDLE_END for k in range(22)}
    at = start
    while at < start + size:
        assert archive[at : at + 4] == b"PK\1\2"
        name, extra, comment = struct.unpack("<3H", archive[at + 28 : at + 34])
        (local,) = struct.unpack("<L", archive[at + 42 : at + 46])
        assert archive[local : local + 4] == b"PK\3\4" and extra == comment == 0
        found |= {at + k: k in IDLE_CENTRAL for k in range(46 + name)}
        found |= {local + k: k in IDLE_LOCAL for k in range(30 + name)}
        last, at = at, at + 46 + name
    # The lengths in the last record: beyond it there is nothing that a longer one could swallow.
    return found | {last + k: True for k in range(28, 34)}


def test_a_byte_that_differs_within_a_file_of_the_archive(intact, tmp_path):
    rng, around, path, tried = random.Random(4), frame(intact.archive), tmp_path / "bad.mimo", 0
    for at, bad in flips(intact.archive, 120, rng):
        if at not in around:
            path.write_bytes(bad)
            assert not reaches_an_engine(path), at
            tried += 1
    assert tried > 110


def test_a_byte_that_differs_around_the_files_of_the_archive(intact, tmp_path):
    """It is refused; or it is one that zip has no use for, and then everything that is read is the same to the byte."""
    rng, around, path = random.Random(5), frame(intact.archive), tmp_path / "bad.mimo"
    contents = sum(map(len, intact.files.values()))
    assert len(around) == len(intact.archive) - contents and set(around.values()) == {True, False}
    kept, offsets = 0, sorted(around)
    for at in [*rng.sample(offsets, 240), *offsets[-90:]]:  # the last record, and that of the end
        change = 1 << rng.randrange(8) if at % 2 else rng.randrange(1, 256)
        path.write_bytes(intact.archive[:at] + bytes([intact.archive[at] ^ change]) + intact.archive[at + 1 :])
        if reaches_an_engine(path):
            assert around[at], at
            bundle = Bundle.open(path)
            read = {name: bundle.bytes(name) for name in bundle.names()}
            assert {**read, MANIFEST: spell(bundle.manifest.data)} == intact.files, at
            kept += 1
    assert kept > 60  # else the second half of the promise was not tried


def test_an_archive_that_is_cut_grew_or_lies_within_something_else(intact, tmp_path):
    good, path, rng = intact.archive, tmp_path / "bad.mimo", random.Random(6)
    lengths = {0, 1, 21, 22, *(len(good) - k for k in range(1, 60)), *(rng.randrange(len(good)) for _ in range(60))}
    cut = [good[:length] for length in sorted(lengths)]
    grown = [good + rng.randbytes(k) for k in (1, 2, 22, 4000)] + [rng.randbytes(k) + good for k in (1, 2, 30, 4000)]
    commented = good[:-2] + struct.pack("<H", 5) + b"hello"
    for bad in (*cut, *grown, commented, good + good, good + good[-22:], good[:-22] + good[-22:] * 2, good[:-30] + good[-22:]):
        path.write_bytes(bad)
        assert not reaches_an_engine(path), len(bad)


def repacked(intact: SimpleNamespace, path: Path, change: Callable[[zipfile.ZipInfo, bytes], list[tuple[Any, bytes]]]) -> Path:
    """The archive again, with what ``change`` makes of every entry."""
    with zipfile.ZipFile(path, "w") as out:
        for name, content in intact.files.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            for new, data in change(info, content):
                out.writestr(new, data)
    return path


def renamed(info: zipfile.ZipInfo, name: str) -> zipfile.ZipInfo:
    new = zipfile.ZipInfo(name, info.date_time)
    new.external_attr = info.external_attr
    return new


def linked(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def compressed(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


ENTRIES = {
    "missing": lambda info, data: [],
    "twice": lambda info, data: [(info, data), (renamed(info, info.filename), data)],
    "twice, another first": lambda info, data: [(renamed(info, info.filename), b"other"), (info, data)],
    "renamed": lambda info, data: [(renamed(info, info.filename.swapcase()), data)],
    "up": lambda info, data: [(info, data), (renamed(info, "../" + info.filename), data)],
    "absolute": lambda info, data: [(info, data), (renamed(info, "/" + info.filename), data)],
    "backslash": lambda info, data: [(info, data), (renamed(info, "a\\" + info.filename), data)],
    "one more": lambda info, data: [(info, data), (renamed(info, info.filename + "~"), data)],
    "a link": lambda info, data: [(linked(info), data)],
    "compressed": lambda info, data: [(compressed(info), data)],
    "empty": lambda info, data: [(info, b"")],
    "a folder": lambda info, data: [(renamed(info, info.filename + "/"), b"")],
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ENTRIES)
def test_an_entry_that_no_bundle_has(intact, tmp_path, kind):
    assert reaches_an_engine(repacked(intact, tmp_path / "same.mimo", lambda info, content: [(info, content)]))
    for name in (MANIFEST, "tokenizer.json", "graphs/fusion.onnx", "golden/01/request.json"):
        bad = repacked(
            intact, tmp_path / "bad.mimo",
            lambda info, content, name=name: ENTRIES[kind](info, content) if info.filename == name else [(info, content)],
        )  # fmt: skip
        assert not reaches_an_engine(bad), name


def test_an_archive_made_to_break_its_reader(intact, tmp_path):
    """Names that are no UTF-8 though they are said to be, and places beyond what a file can have."""
    good, path = bytearray(intact.archive), tmp_path / "bad.mimo"
    (start,) = struct.unpack("<L", good[-6:-2])
    no_text = bytearray(good)
    no_text[start + 9] |= 0x08
    no_text[start + 46] = 0xFF
    size, name = struct.unpack("<L", good[-10:-6])[0], struct.unpack("<H", good[start + 28 : start + 30])[0]
    extra = struct.pack("<2HQ", 1, 8, 1 << 63)
    far = bytearray(good[: start + 46 + name] + extra + good[start + 46 + name :])
    struct.pack_into("<H", far, start + 30, len(extra))
    struct.pack_into("<L", far, start + 42, 0xFFFFFFFF)
    struct.pack_into("<L", far, len(far) - 10, size + len(extra))
    for bad in (no_text, far):
        path.write_bytes(bad)
        assert not reaches_an_engine(path)
