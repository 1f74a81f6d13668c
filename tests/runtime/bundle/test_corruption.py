"""Whatever is wrong with a bundle is found before an engine is created: over two thousand corruptions, all from fixed seeds."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from corruption_cases import change, flips, reaches_an_engine, write
from slowness import slowness

from mimo_runtime.bundle import manifest
from mimo_runtime.bundle.archive import Bundle, pack
from mimo_runtime.bundle.manifest import spell, with_checksum
from mimo_runtime.bundle.schema import MANIFEST
from mimo_runtime.cli.commands import main
from mimo_runtime.errors import BundleError, MimoError
from mimo_runtime.pipeline import Mimo

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
pytestmark = pytest.mark.usefixtures("no_engine_is_created")

#: What mimo-tiny's bundle weighs in single precision, and what refusing it may take.
TINY_BYTES, SECONDS = 40 << 20, 1.0


def test_what_is_intact_reaches_an_engine(intact, folder, data, tmp_path):
    """Without this, everything below could be refused for one wrong reason."""
    (tmp_path / "intact.mimo").write_bytes(intact.archive)
    assert reaches_an_engine(tmp_path / "intact.mimo")
    write(folder, data)
    assert reaches_an_engine(folder)
    assert len(intact.files) > 15 and {name.split("/")[0] for name in intact.files} == {
        "golden", "graphs", MANIFEST, "report.md", "tokenizer.json",
    }  # fmt: skip


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
    small = spell(with_checksum(data))
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


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("format", "other-bundle", "not the manifest of a mimo bundle"),
        ("format_version", 1, "has format version 1, this program reads"),
        ("format_version", 99, "has format version 99, this program reads"),
        ("format_version", float(manifest.FORMAT_VERSION), "format_version has the wrong type"),
        ("model/config/format_version", 99, "model.config has format version 99"),
        ("model/config/image_size", 128, "preprocessing is"),
        ("model/config/dim", 64, "must equal dim|has sizes that no model has"),
        ("model/config/dim", 0, "model.config: field dim is 0, not at least 1"),
        ("model/config/vision/neck", [1], "need four entries"),
        ("model/config/fusion/heads", 0, "model.config: fusion: field heads is 0, not at least 1"),
        ("model/config/mask_decoder/queries", 16, "graphs.mask_decoder.contract"),
        ("model/config/text_decoder/layers", 2, "graphs.fusion.contract"),
        ("graphs/fusion/contract/inputs/0/shape/1", 33, "graphs.fusion.contract.inputs: features_16.shape is"),
        ("graphs/fusion/contract/inputs/0/shape/0", 1, "graphs.fusion.contract.inputs: features_16.shape is"),
        ("graphs/fusion/contract/outputs/3/shape/0", True, "outputs.3.shape: field 0 has the wrong type"),
        ("graphs/text_decoder/contract/inputs/0/dtype", "int64", "graphs.text_decoder.contract.inputs: token.dtype is"),
        ("graphs/fusion/bytes", 1, "graphs/fusion.onnx has .* bytes instead of 1"),
        ("graphs/fusion/bytes", -1, "graphs.fusion: field bytes is -1"),
        ("graphs/fusion/bytes", 1e9, "field bytes has the wrong type"),
        ("graphs/fusion/sha256", "0" * 64, "graphs/fusion.onnx does not have the sha256"),
        ("graphs/fusion/file", "graphs/mask_decoder.onnx", "lists a file twice"),
        ("graphs/fusion/file", "../fusion.onnx", "lists a file with the path"),
        ("graphs/fusion/file", "tokenizer.json", "lists a file twice"),
        ("graphs/fusion/threads", 0, "graphs.fusion: field threads is 0"),
        ("graphs/fusion/threads", -4, "graphs.fusion: field threads is -4"),
        ("graphs/fusion/delivered", {"int8": "all"}, "graphs.fusion.delivered: field int8 has the wrong type"),
        ("graphs/fusion/delivered", {"fp32": -1}, "graphs.fusion.delivered: field fp32 is -1"),
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
        ("compatibility/engines/onnxruntime/min", 1.2, "compatibility.engines.onnxruntime: field min has the wrong type"),
        ("compatibility/engines/onnxruntime/min", ..., "onnxruntime does not fit .*missing min"),
        ("compatibility/engines/onnxruntime/built_with", 10, "onnxruntime: field built_with has the wrong type"),
        ("compatibility/arch", "riscv64", "built for riscv64, this machine is"),
        ("compatibility/os", "plan9", "built for plan9, this machine runs"),
        ("compatibility/os", 9, "compatibility: field os has the wrong type"),
        ("compatibility/cpu_features", ["mmx_9000"], "needs the CPU features mmx_9000"),
        ("compatibility/cpu_features", [{}], "compatibility.cpu_features: field 0 has the wrong type"),
        ("compatibility/compute_capability", "new", "compatibility: field compute_capability is 'new'"),
        ("compatibility/compute_capability", "8.0++", "compatibility: field compute_capability is"),
        ("licence", ..., "missing licence"),
        ("more", {}, "unknown more"),
    ],
)  # fmt: skip
def test_a_changed_manifest_with_a_new_checksum_says_what_differs(folder, data, monkeypatch, path, value, expected):
    monkeypatch.setattr(manifest, "cpu_features", lambda: frozenset({"avx2", "asimd"}))
    write(folder, change(data, path, value))
    with pytest.raises(MimoError, match=expected) as caught:
        Mimo.load(folder)
    assert caught.value.exit_code == 2 and caught.value.remedy


def places(value: Any, path: str = "") -> Iterator[str]:
    """Every place of a JSON value, as :func:`change` takes it."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        here = path + str(key).replace("/", "%")
        yield here
        yield from places(part, here + "/")


#: What a manifest states about a bundle, what the shapes of its graphs do not depend on, and how many threads they get.
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


@pytest.fixture(scope="module")
def large(bundle_folder, tmp_path_factory) -> Path:
    """A sealed bundle of the size of mimo-tiny's, whose graphs are noise."""
    folder = shutil.copytree(bundle_folder, tmp_path_factory.mktemp("large") / "large")
    rng, shares = random.Random(8), {"vision_encoder": 12, "fusion": 5, "mask_decoder": 7, "text_decoder": 8, "text_encoder": 7}
    for name, share in shares.items():
        (folder / f"graphs/{name}.onnx").write_bytes(weights(rng, TINY_BYTES * share // sum(shares.values())))
    onnx_bundle.reseal(folder)
    return folder


def weights(rng: random.Random, size: int) -> bytes:
    """A graph without operators and with random weights."""
    tensor = onnx_bundle.helper.make_tensor("w", onnx_bundle.TensorProto.INT8, [size], rng.randbytes(size), raw=True)
    graph = onnx_bundle.helper.make_graph([], "g", [], [], [tensor])
    return onnx_bundle.helper.make_model(graph).SerializeToString()


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
    assert min(took) < SECONDS * slowness(), took


def test_the_command_line_tells_it_in_one_line(intact, folder, image_file, tmp_path):
    (folder / "graphs/fusion.onnx").write_bytes(intact.files["graphs/fusion.onnx"][:-1])
    (tmp_path / "cut.mimo").write_bytes(intact.archive[:-1])
    for path in (folder, tmp_path / "cut.mimo"):
        for command in (["predict", path, image_file, "--text", "polyp"], ["verify", path]):
            done = CliRunner().invoke(main, [str(word) for word in command])
            assert done.exit_code == 2 and done.stdout == ""
            assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
