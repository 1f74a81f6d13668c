from __future__ import annotations

import json

import pytest

from mimo_runtime.bundle import manifest as module
from mimo_runtime.bundle.manifest import parse_manifest, spell, with_checksum, write_manifest
from mimo_runtime.bundle.schema import canonical_json, check_name
from mimo_runtime.errors import BundleError
from mimo_runtime.model.config import MimoConfig

#: Words that an answer of the fixture's model may have before its last one.
LONGEST = MimoConfig.from_preset("micro").text_decoder.max_length - 2


@pytest.fixture
def data(bundle_folder):
    return json.loads((bundle_folder / "manifest.json").read_text("utf-8"))


def parse(data):
    return parse_manifest(spell(with_checksum(data)))


def test_a_written_manifest_is_read_back(data, tmp_path):
    written = write_manifest(tmp_path, data)
    manifest = parse_manifest((tmp_path / "manifest.json").read_bytes())
    assert manifest == written
    assert manifest.model_id == "fake" and manifest.target == "cpu"
    assert manifest.config.preset == "micro"
    assert list(manifest.graphs)[0] == "vision_encoder" and manifest.graphs["fusion"].delivered["fp32"] == 3
    assert manifest.hashes["graphs/fusion.onnx"] == manifest.graphs["fusion"].sha256
    assert "tokenizer.json" in manifest.hashes and "manifest.json" not in manifest.hashes


def test_the_same_data_gives_the_same_bytes(data, tmp_path):
    write_manifest(tmp_path, data)
    first = (tmp_path / "manifest.json").read_bytes()
    write_manifest(tmp_path, dict(reversed(list(data.items()))) | {"manifest_sha256": "x"})
    assert json.loads(first) == json.loads((tmp_path / "manifest.json").read_bytes())
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()


def test_an_invalid_manifest_is_not_written(data, tmp_path):
    del data["licence"]
    with pytest.raises(BundleError, match="missing licence"):
        write_manifest(tmp_path, data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": 1, "format": 1}'])
def test_what_is_not_json_is_refused(raw):
    with pytest.raises(BundleError, match="damaged"):
        parse_manifest(raw)


@pytest.mark.parametrize("raw", [b"[]", b"null", b"{}", b'{"format": "other"}'])
def test_other_json_is_refused(raw):
    with pytest.raises(BundleError, match="not the manifest of a mimo bundle"):
        parse_manifest(raw)


@pytest.mark.parametrize("version", [0, 1, 2, 4, "3", None, 1.5])
def test_other_versions_are_refused_before_anything_else(version):
    with pytest.raises(BundleError, match=f"format version {version}, this program reads 3.*mimo-export build"):
        parse_manifest(json.dumps({"format": "mimo-bundle", "format_version": version}).encode())


def test_a_changed_field_breaks_the_seal(data):
    data["accuracy"] = {"macro": {"box": {"dice": 1.0}}}
    with pytest.raises(BundleError, match="changed after it was written"):
        parse_manifest(json.dumps(data).encode())


def change(data, path, value):
    *parents, last = path.split("/")
    for key in parents:
        data = data[int(key) if isinstance(data, list) else key]
    if value is None:
        del data[last]
    else:
        data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("extra", 1, "unknown extra"),
        ("target", None, "missing target"),
        ("target", 3, "target has the wrong type"),
        ("format_version", True, "wrong type|format version True"),
        ("model/id", None, "model .*missing id"),
        ("model/config/dim", "x", "dim has the wrong type"),
        ("model/config/format_version", 11, "format version 11"),
        ("graphs/fusion", None, "graphs does not fit .*missing fusion"),
        ("graphs/extra", {}, "graphs does not fit .*unknown extra"),
        ("graphs/fusion/engine", None, "graphs.fusion .*missing engine"),
        ("graphs/fusion/build", 1, "build has the wrong type"),
        ("graphs/fusion/build", {"axes": {}}, "graphs.fusion.build .*missing compute_capabilities, operators"),
        (
            "graphs/fusion/build",
            {"axes": {"batch": [1, 2]}, "compute_capabilities": [], "operators": []},
            "graphs.fusion.build.axes: field batch has 2 entries",
        ),
        (
            "graphs/fusion/build",
            {"axes": {}, "compute_capabilities": [8], "operators": []},
            "compute_capabilities: field 0 has the wrong type",
        ),
        ("graphs/fusion/sha256", "abc", "graphs.fusion: field sha256 is 'abc'"),
        ("graphs/fusion/contract/inputs/0/dtype", "float16", "contract.inputs: features_16.dtype is .*float16.*float32"),
        ("graphs/fusion/contract/inputs/0/name", "x", "graphs.fusion.contract.inputs: features_16 is null"),
        ("graphs/fusion/contract/inputs", 5, "wrong type"),
        ("graphs/fusion/contract/outputs", [1], "wrong type"),
        ("graphs/fusion/contract/more", [], "graphs.fusion.contract does not fit .*unknown more"),
        ("preprocessing/size", 128, "preprocessing is"),
        ("compatibility/engines/onnxruntime", None, "has no 'min' for onnxruntime"),
        ("compatibility/arch", None, "missing arch"),
        ("files/tokenizer.json", None, "lists no tokenizer.json"),
        ("files/x", "zz", "files: field x is 'zz'"),
        ("files/graphs%fusion.onnx", "0" * 64, "lists a file twice"),
    ],
)
def test_structure_is_strict_and_names_the_field(data, path, value, match):
    change(data, path.replace("%", "/") if value is None else path, value)
    if "%" in path:
        data["files"] = {name.replace("%", "/"): digest for name, digest in data["files"].items()}
    with pytest.raises(BundleError, match=match):
        parse(data)


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "", "C:x", "a\\b", "a\0b", "a\nb", "manifest.json"]
)
def test_paths_that_leave_the_bundle_are_refused(data, name):
    with pytest.raises(BundleError, match="lists a file with the path"):
        check_name(name)
    data["files"][name] = "0" * 64
    with pytest.raises(BundleError, match="lists a file with the path"):
        parse(data)


def test_a_bundle_with_something_left_to_build_is_portable_and_runs_nowhere(data):
    build = {"axes": {"batch": [1, 1, 4]}, "compute_capabilities": [], "operators": []}
    data["graphs"]["fusion"]["build"] = build
    manifest = parse(data)
    assert manifest.portable and manifest.graphs["fusion"].build == build
    for check in (manifest.check_machine, manifest.check_compiled):
        with pytest.raises(BundleError, match="portable: .*Run mimo-run prepare BUNDLE -o PREPARED on the device"):
            check()


# -- this machine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("compatibility/arch", "riscv64", "built for riscv64, this machine is"),
        ("compatibility/cpu_features", ["nonsense_512"], "CPU features nonsense_512"),
        ("compatibility/engines/onnxruntime/min", "999.1", r"onnxruntime 999.1 or later, .* pip install 'mimo-edge\[cpu\]' -U"),
    ],
)
def test_another_machine_is_refused_with_what_differs_and_how_to_rebuild(data, path, value, match):
    change(data, path, value)
    with pytest.raises(BundleError, match=match) as caught:
        parse(data).check_machine()
    assert "--target cpu" in str(caught.value) or "pip install" in str(caught.value)


def test_unknown_and_missing_engines(data, monkeypatch):
    for entry in data["graphs"].values():
        entry["engine"] = "npu"
    data["compatibility"]["engines"]["npu"] = {"min": "10.3"}
    with pytest.raises(BundleError, match="engine 'npu'"):
        parse(data).check_machine()
    monkeypatch.setattr(module, "installed_version", lambda name: None)
    for entry in data["graphs"].values():
        entry["engine"] = "onnxruntime"
    with pytest.raises(BundleError, match=r"not installed. pip install 'mimo-edge\[cpu\]'"):
        parse(data).check_machine()


def test_this_machine_passes(data):
    change(data, "compatibility/arch", module.architecture())
    change(data, "compatibility/cpu_features", sorted(module.cpu_features() or ())[:3])
    parse(data).check_machine()


@pytest.mark.parametrize(
    ("graph", "profiles", "lost"),
    [
        ("fusion", [{"batch": [1, 1, 4]}], None),
        ("fusion", None, None),
        ("fusion", [], "field profiles has 0 entries"),
        ("fusion", [{"batch": [1, 4]}], "field batch has 2 entries"),
        ("fusion", [{"batch": [4, 2, 1]}], "does not have ranges"),
        ("fusion", [{"batch": [2, 2, 4]}], "not compiled for a batch of one"),
        ("fusion", [{}], "not compiled for a batch of one"),
        ("text_decoder", [{"batch": [1, 1, 1], "past": [0, 0, 0]}, {"batch": [1, 1, 1], "past": [1, 9, LONGEST]}], None),
        ("text_decoder", [{"batch": [1, 1, 1], "past": [0, 9, LONGEST - 1]}], f"not compiled for a cache of {LONGEST} words"),
        ("text_decoder", [{"batch": [1, 1, 1], "past": [1, 9, LONGEST]}], "not compiled for a cache of 0 words"),
        ("text_decoder", [{"batch": [1, 1, 1]}], "not compiled for a batch of one"),
    ],
)
def test_a_plan_has_to_be_compiled_for_what_the_runtime_asks(data, graph, profiles, lost):
    data["graphs"][graph]["profiles"] = profiles
    if lost is None:
        assert parse(data).graphs[graph].profiles == profiles
        return
    with pytest.raises(BundleError, match=lost) as message:
        parse(data)
    assert graph in str(message.value) and "mimo-export build" in str(message.value)
