"""Whatever is wrong with a bundle is found before an engine is created: over two thousand corruptions, all from fixed seeds."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
import stat
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from mimo_runtime import engines, loading
from mimo_runtime.bundle import manifest, placement
from mimo_runtime.bundle.archive import Bundle, pack
from mimo_runtime.bundle.manifest import seal, spell
from mimo_runtime.bundle.schema import MANIFEST
from mimo_runtime.cli.commands import main
from mimo_runtime.errors import BundleError, MimoError
from mimo_runtime.hardware import host
from mimo_runtime.hardware.nvidia import Gpu, Gpus
from mimo_runtime.pipeline import Mimo

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)

#: What mimo-tiny's bundle weighs in single precision, and what refusing it may take.
TINY_BYTES, SECONDS = 40 << 20, 1.0


class Reached(BaseException):
    """An engine was about to be created. No ``except Exception`` on the way may take it for a failure of the engine."""


@pytest.fixture(autouse=True)
def no_engine(monkeypatch):
    def create(*_: object, **__: object) -> None:
        raise Reached

    monkeypatch.setattr(loading, "create_engine", create)


@pytest.fixture(scope="module")
def intact(bundle_folder) -> SimpleNamespace:
    """The bundle in both forms: ``files`` by name, the manifest among them, and the bytes of the ``.mimo`` file."""
    files = {p.relative_to(bundle_folder).as_posix(): p.read_bytes() for p in sorted(bundle_folder.rglob("*")) if p.is_file()}
    packed = bundle_folder.parent / "intact.mimo"
    pack(bundle_folder, packed)
    return SimpleNamespace(folder=bundle_folder, files=files, archive=packed.read_bytes())


@pytest.fixture
def folder(bundle_folder, tmp_path) -> Path:
    """A copy to corrupt."""
    return shutil.copytree(bundle_folder, tmp_path / "copy")


@pytest.fixture
def data(bundle_folder) -> dict[str, Any]:
    """The manifest as JSON, to change."""
    return json.loads((bundle_folder / MANIFEST).read_text("utf-8"))


def reaches_an_engine(path: Path, **options: Any) -> bool:
    """False: refused, with an error that names the bundle or what is wrong with it, and a remedy."""
    try:
        Mimo.load(path, **options)
    except Reached:
        return True
    except MimoError as error:
        assert isinstance(error, BundleError) and error.exit_code == 2, repr(error)
        assert error.what and error.remedy and "\n" not in str(error)
        return False
    raise AssertionError("loaded without an engine")


def write(folder: Path, changed: dict[str, Any]) -> None:
    """A manifest that is sealed and spelt as it should be, whatever it says."""
    (folder / MANIFEST).write_bytes(spell(seal(changed)))


def flips(content: bytes, count: int, rng: random.Random) -> Iterator[tuple[int, bytes]]:
    """``(offset, content with another byte there)``: in turns one bit turned over, and any other byte."""
    for number in range(count):
        at = rng.randrange(len(content))
        change = 1 << rng.randrange(8) if number % 2 else rng.randrange(1, 256)
        yield at, content[:at] + bytes([content[at] ^ change]) + content[at + 1 :]


def test_what_is_intact_reaches_an_engine(intact, folder, data, tmp_path):
    """Without this, everything below could be refused for one wrong reason."""
    (tmp_path / "intact.mimo").write_bytes(intact.archive)
    assert reaches_an_engine(tmp_path / "intact.mimo")
    write(folder, data)
    assert reaches_an_engine(folder)
    assert len(intact.files) > 15 and {name.split("/")[0] for name in intact.files} == {
        "golden", "graphs", MANIFEST, "report.md", "tokenizer.json",
    }  # fmt: skip


# -- a folder ----------------------------------------------------------------------------------------------------------


def test_a_byte_that_differs_in_any_file(intact, folder):
    rng, tried = random.Random(1), 0
    for name, content in intact.files.items():
        for at, bad in flips(content, 100 if name == MANIFEST else 24, rng):
            (folder / name).write_bytes(bad)
            with pytest.raises(BundleError) as caught:
                Mimo.load(folder)
            assert name in str(caught.value) and "mimo-export build" in str(caught.value), (name, at)
            tried += 1
        (folder / name).write_bytes(content)
    assert tried >= 500
    assert reaches_an_engine(folder)


def test_white_space_and_spelling_of_the_manifest(intact, folder, data):
    """What JSON reads as the same is not the same file."""
    good = intact.files[MANIFEST]
    spaces = [at for at, byte in enumerate(good) if byte in b" \n"]
    for at in random.Random(2).sample(spaces, 40):
        for other in b" \t\r\n":
            if other != good[at]:
                (folder / MANIFEST).write_bytes(good[:at] + bytes([other]) + good[at + 1 :])
                assert not reaches_an_engine(folder), (at, other)
    spelt = [good.replace(b"\n", b"\r\n"), good + b" ", b"\xef\xbb\xbf" + good, json.dumps(json.loads(good)).encode()]
    data["parity"] = {"relative_l2": 2.7e-05}
    small = spell(seal(data))
    assert b"2.7e-05" in small
    for bad in (*spelt, small.replace(b"2.7e-05", b"2.7E-05"), small.replace(b"2.7e-05", b"0.000027")):
        (folder / MANIFEST).write_bytes(bad)
        assert not reaches_an_engine(folder), bad[:80]


@pytest.mark.parametrize(
    "value", ["NaN", "1e999", "-Infinity", '"\\ud800"', "[" * 990 + "]" * 990, "[" * 9999 + "]" * 9999, "9" * 5000]
)
def test_json_that_no_manifest_holds(folder, intact, value):
    good = intact.files[MANIFEST].decode("utf-8")
    (folder / MANIFEST).write_text(good.replace('"parity": {}', f'"parity": {{"x": {value}}}'), "utf-8")
    assert not reaches_an_engine(folder)


def test_a_file_that_is_cut_or_grew(intact, folder):
    rng = random.Random(3)
    for name, content in intact.files.items():
        lengths = {0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(6))}
        grown = [content + b"\0", b"\0" + content, content + content, content + rng.randbytes(100)]
        for bad in [*(content[:length] for length in sorted(lengths)), *grown]:
            (folder / name).write_bytes(bad)
            assert not reaches_an_engine(folder), (name, len(bad))
        (folder / name).write_bytes(content)


def test_any_two_files_in_each_others_place(intact, folder):
    names = sorted(intact.files)
    for first in names:
        for second in names:
            if first < second and intact.files[first] != intact.files[second]:
                (folder / first).write_bytes(intact.files[second])
                (folder / second).write_bytes(intact.files[first])
                assert not reaches_an_engine(folder), (first, second)
                (folder / first).write_bytes(intact.files[first])
                (folder / second).write_bytes(intact.files[second])


def test_a_file_that_is_missing_is_elsewhere_or_is_too_many(intact, folder):
    for name in intact.files:
        path = folder / name
        path.rename(folder / "moved")
        assert not reaches_an_engine(folder), name
        (folder / "moved").rename(path)
        other = path.with_name(path.name.swapcase())
        path.rename(other)
        assert not reaches_an_engine(folder), name
        other.rename(path)
        path.with_name(path.name + "~").write_bytes(b"")
        assert not reaches_an_engine(folder), name
        path.with_name(path.name + "~").unlink()
    for extra in (".hidden", "graphs/extra.onnx", "golden/02/image.png", "new/manifest.json"):
        (folder / extra).parent.mkdir(exist_ok=True)
        (folder / extra).write_bytes(b"x")
        assert not reaches_an_engine(folder), extra
        (folder / extra).unlink()
    assert reaches_an_engine(folder)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_what_is_no_file_of_the_bundle_itself(intact, folder):
    for name, content in intact.files.items():
        path = folder / name
        path.unlink()
        for make in (lambda p=path, n=name: p.symlink_to(intact.folder / n), lambda p=path: os.mkfifo(p), path.mkdir):
            make()
            assert not reaches_an_engine(folder), name
            path.rmdir() if path.is_dir() else path.unlink()
        path.write_bytes(content)
    for name in ("graphs", "golden", "golden/00"):
        (folder / name).rename(folder.parent / "aside")
        (folder / name).symlink_to(intact.folder / name)
        assert not reaches_an_engine(folder), name
        (folder / name).unlink()
        (folder.parent / "aside").rename(folder / name)
    assert reaches_an_engine(folder)


# -- a single file -----------------------------------------------------------------------------------------------------

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


# -- a manifest that was changed and sealed again ----------------------------------------------------------------------


def change(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The manifest with another value at ``a/b/0``, where % stands for a slash in a name; ``...`` removes it."""
    changed: Any = copy.deepcopy(data)
    keys: list[Any] = [key.replace("%", "/") for key in path.split("/")]
    inner = changed
    for number, key in enumerate(keys):
        key = int(key) if isinstance(inner, list) else key
        if number + 1 < len(keys):
            inner = inner[key]
        elif value is ...:
            del inner[key]
        else:
            inner[key] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("format", "other-bundle", "not the manifest of a mimo bundle"),
        ("format_version", 1, "has format version 1, this program reads"),
        ("format_version", 99, "has format version 99, this program reads"),
        ("format_version", float(manifest.FORMAT_VERSION), "format_version has the wrong type"),
        ("model/config/format_version", 99, "model.config has format version 99"),
        ("model/config/image_size", 128, "preprocessing is"),
        ("model/config/dim", 64, "model.config has sizes that no model has"),
        ("model/config/dim", 0, "model.config: field dim is 0, not at least 1"),
        ("model/config/vision/neck", [1], "model.config has sizes that no model has"),
        ("model/config/fusion/heads", 0, "model.config: fusion: field heads is 0, not at least 1"),
        ("model/config/mask_decoder/queries", 16, "graphs.mask_decoder.contract"),
        ("model/config/text_decoder/layers", 2, "graphs.fusion.contract"),
        ("graphs/fusion/contract/inputs/0/shape/1", 33, "graphs.fusion.contract.inputs: features_16 is"),
        ("graphs/fusion/contract/inputs/0/shape/0", 1, "graphs.fusion.contract.inputs: features_16 is"),
        ("graphs/fusion/contract/outputs/3/shape/0", True, "graphs.fusion.contract.outputs: cross_keys is"),
        ("graphs/text_decoder/contract/inputs/0/dtype", "int64", "graphs.text_decoder.contract.inputs: token is"),
        ("graphs/fusion/bytes", 1, "graphs/fusion.onnx has .* bytes instead of 1"),
        ("graphs/fusion/bytes", -1, "graphs/fusion.onnx has .* bytes instead of -1"),
        ("graphs/fusion/bytes", 1e9, "field bytes has the wrong type"),
        ("graphs/fusion/sha256", "0" * 64, "graphs/fusion.onnx does not have the sha256"),
        ("graphs/fusion/file", "graphs/mask_decoder.onnx", "lists a file twice"),
        ("graphs/fusion/file", "../fusion.onnx", "lists a file with the path"),
        ("graphs/fusion/file", "tokenizer.json", "lists a file twice"),
        ("graphs/fusion/threads", 0, "graphs.fusion.threads is 0"),
        ("graphs/fusion/threads", -4, "graphs.fusion.threads is -4"),
        ("graphs/fusion/delivered", {"int8": "all"}, "graphs.fusion.delivered does not count operators"),
        ("graphs/fusion/delivered", {"fp32": -1}, "graphs.fusion.delivered does not count operators"),
        ("graphs/fusion/engine", "npu", "no 'min' for npu"),
        ("graphs/fusion/engine", "openvino", "no 'min' for openvino"),
        ("files/golden%00%image.png", "0" * 64, "golden/00/image.png does not have the sha256"),
        ("files/tokenizer.json", "0" * 64, "tokenizer.json does not have the sha256"),
        ("files/tokenizer.json", ..., "lists no tokenizer.json"),
        ("files/report.md", ..., "holds 'report.md', which its manifest does not list"),
        ("files/none", "0" * 64, "incomplete: none is missing"),
        ("preprocessing/size", 32, "preprocessing is"),
        ("preprocessing/range", [0, 255], "preprocessing is"),
        ("compatibility/engines/onnxruntime/min", "999.1", "needs onnxruntime 999.1 or later, .* is installed"),
        ("compatibility/engines/onnxruntime/min", "new", "compatibility.engines.onnxruntime.min is no version"),
        ("compatibility/engines/onnxruntime/min", 1.2, "compatibility.engines.onnxruntime.min is no version"),
        ("compatibility/engines/onnxruntime/min", ..., "no 'min' for onnxruntime"),
        ("compatibility/engines/onnxruntime/built_with", 10, "compatibility.engines.onnxruntime.built_with is no version"),
        ("compatibility/arch", "riscv64", "built for riscv64, this machine is"),
        ("compatibility/os", "plan9", "built for plan9, this machine runs"),
        ("compatibility/os", 9, "compatibility: field os has the wrong type"),
        ("compatibility/cpu_features", ["mmx_9000"], "needs the CPU features mmx_9000"),
        ("compatibility/cpu_features", [{}], "compatibility.cpu_features does not name features"),
        ("compatibility/compute_capability", "new", "compatibility.compute_capability is none"),
        ("compatibility/compute_capability", "8.0++", "compatibility.compute_capability is none"),
        ("licence", ..., "missing licence"),
        ("more", {}, "unknown more"),
    ],
)  # fmt: skip
def test_a_changed_and_sealed_manifest_says_what_differs(folder, data, monkeypatch, path, value, told):
    monkeypatch.setattr(manifest, "cpu_features", lambda: frozenset({"avx2", "asimd"}))
    write(folder, change(data, path, value))
    with pytest.raises(MimoError, match=told) as caught:
        Mimo.load(folder)
    assert caught.value.exit_code == 2 and caught.value.remedy


def places(value: Any, path: str = "") -> Iterator[str]:
    """Every place of a JSON value, as :func:`change` takes it."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        here = path + str(key).replace("/", "%")
        yield here
        yield from places(part, here + "/")


#: What is told about a bundle, what the shapes of its graphs do not depend on, and how many threads they get.
FREE = re.compile(
    r"model/(id|parameters|checkpoint_sha256|config/.*)|target|tools(/.*)?|calibration|parity|accuracy|licence"
    r"|graphs/\w+/(asked|threads|delivered(/\w+)?)|compatibility/engines/onnxruntime/(built_with|opset)"
)


def test_any_field_of_the_manifest_with_any_other_value(folder, data):
    """Sealed again, so that only its meaning can tell: it is refused, or is one that has no say; a traceback never."""
    rng, refused = random.Random(7), 0
    values = [None, True, -1, 0, 1.5, 2**70, "", "x", "\u00e9", [], [{}], {"a": 1}, ...]
    for path in sorted(places({key: value for key, value in data.items() if key != "manifest_sha256"})):
        value = rng.choice(values)
        changed = change(data, path, value)
        if spell(changed) != spell(data):
            write(folder, changed)
            if reaches_an_engine(folder):
                assert FREE.fullmatch(path), (path, value)
            else:
                refused += 1
    assert refused > 400


# -- another machine ---------------------------------------------------------------------------------------------------

A2000 = Gpus((Gpu("NVIDIA RTX A2000", "8.6", 6144),), "550.54.14", "12.4")
T400 = Gpus((Gpu("NVIDIA T400", "7.5", 2048),), "550.54.14", "12.4")
NO_GPU = Gpus(problem="there is no NVIDIA GPU")


def built_for(data: dict[str, Any], engine: str, release: str, capability: str | None) -> dict[str, Any]:
    """The manifest of a bundle whose graphs another engine runs."""
    built = copy.deepcopy(data)
    for entry in built["graphs"].values():
        entry["engine"] = engine
    built["target"] = engines.KINDS[engine].device
    built["compatibility"] |= {
        "engines": {engine: {"built_with": release, "min": "1.0"}}, "compute_capability": capability,
        "arch": host.architecture(), "os": host.operating_system(),
    }  # fmt: skip
    return built


@pytest.mark.parametrize(
    ("engine", "release", "capability", "installed", "gpus", "options", "told"),
    [
        ("tensorrt", "10.3.0", "8.6", "10.3.0.26", A2000, {}, None),
        ("tensorrt-rtx", "1.7.1.116", "8.0+", "1.7.1.116", A2000, {}, None),
        ("tensorrt-rtx", "1.7.1.116", "8.6,8.9", "1.7.1.116", A2000, {}, None),
        ("onnxruntime-cuda", "1.20.0", None, "1.31.1", A2000, {}, None),
        ("onnxruntime-cuda", "1.20.0.dev1+cu13", None, "1.31.1", A2000, {}, None),
        ("tensorrt", "10.3.0", "8.6", "10.16.1", A2000, {}, "compiled by tensorrt 10.3.0, 10.16.1 is installed"),
        ("tensorrt", "10.3.0", "8.6", "10.3.1", A2000, {}, "compiled by tensorrt 10.3.0, 10.3.1 is installed"),
        ("tensorrt", None, "8.6", "10.3.0", A2000, {}, "compiled by tensorrt unknown, 10.3.0 is installed"),
        ("tensorrt-rtx", "1.7.1.116", "8.0+", "1.8.0.1", A2000, {}, "compiled by tensorrt-rtx 1.7.1.116, 1.8.0.1 is"),
        ("tensorrt", "10.3.0", "8.7", "10.3.0", A2000, {}, "needs compute capability 8.7, NVIDIA RTX A2000 has 8.6"),
        ("tensorrt-rtx", "1.7.1.116", "8.0+", "1.7.1.116", T400, {}, r"needs compute capability 8.0\+, NVIDIA T400 has 7.5"),
        ("tensorrt-rtx", "1.7.1.116", "8.9,12.0", "1.7.1.116", A2000, {}, "needs compute capability 8.9,12.0"),
        ("tensorrt", "10.3.0", "8.6", "10.3.0", NO_GPU, {}, "built for tensorrt; there is no NVIDIA GPU"),
        ("onnxruntime-cuda", "1.20.0", None, "1.31.1", NO_GPU, {}, "built for cuda; there is no NVIDIA GPU"),
        ("tensorrt", "10.3.0", "8.6", None, A2000, {}, "needs the engine tensorrt, which is not installed"),
        ("tensorrt", "10.3.0", "8.6", "10.3.0", A2000, {"device": "cuda"}, "built for tensorrt and does not run on cuda"),
        ("tensorrt", "10.3.0", "8.6", "10.3.0", A2000, {"device": "cpu", "allow_fallback": True}, "no CPU runs its tensorrt"),
        ("onnxruntime", "1.20.0", None, "1.31.1", NO_GPU, {"device": "tensorrt"}, "built for cpu and does not run on tensorrt"),
    ],
)  # fmt: skip
def test_another_device(folder, data, monkeypatch, engine, release, capability, installed, gpus, options, told):
    """``told`` is None for the machine that the bundle was built for."""
    monkeypatch.setattr(placement, "find_gpus", lambda: gpus)
    for module in (placement, engines, manifest):
        monkeypatch.setattr(module, "installed_version", lambda name: installed if name == engine else None)
    write(folder, built_for(data, engine, release, capability))
    if told is None:
        assert reaches_an_engine(folder, **options)
        return
    with pytest.raises(BundleError, match=told) as caught:
        Mimo.load(folder, **options)
    assert caught.value.remedy


# -- how long it takes, and what a person sees -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(bundle_folder, tmp_path_factory) -> Path:
    """A sealed bundle of the size of mimo-tiny's, whose graphs are noise."""
    folder = shutil.copytree(bundle_folder, tmp_path_factory.mktemp("large") / "large")
    rng, shares = random.Random(8), {"vision_encoder": 12, "fusion": 5, "mask_decoder": 7, "text_decoder": 8, "text_encoder": 7}
    for name, share in shares.items():
        (folder / f"graphs/{name}.onnx").write_bytes(rng.randbytes(TINY_BYTES * share // sum(shares.values())))
    onnx_bundle.reseal(folder)
    return folder


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_bundle_of_the_size_of_tiny_is_refused_within_a_second(large, tmp_path, form):
    """The byte that differs lies in the file that is looked at last."""
    bundle = Bundle.open(large)
    last = bundle.names()[-1]
    assert sum(len(bundle.bytes(name)) for name in bundle.names()) > 0.99 * TINY_BYTES
    path, target, at = large, large / last, 100
    good = target.read_bytes()
    if form == "file":
        path = target = tmp_path / "large.mimo"
        pack(large, path)
        with zipfile.ZipFile(path) as archive:
            at += archive.getinfo(last).header_offset + 30 + len(last)
    with target.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    try:
        took = []
        for _ in range(5):
            begin = time.perf_counter()
            assert not reaches_an_engine(path)
            took.append(time.perf_counter() - begin)
    finally:
        (large / last).write_bytes(good)
    assert min(took) < SECONDS, took


def test_the_command_line_tells_it_in_one_line(intact, folder, image_file, tmp_path):
    (folder / "graphs/fusion.onnx").write_bytes(intact.files["graphs/fusion.onnx"][:-1])
    (tmp_path / "cut.mimo").write_bytes(intact.archive[:-1])
    for path in (folder, tmp_path / "cut.mimo"):
        for command in (["predict", path, image_file, "--text", "polyp"], ["verify", path]):
            done = CliRunner().invoke(main, [str(word) for word in command])
            assert done.exit_code == 2 and done.stdout == ""
            assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
