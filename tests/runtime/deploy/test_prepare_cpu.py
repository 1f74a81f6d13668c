"""``mimo-run prepare`` of a bundle for the CPU: graphs on OpenVINO are compiled for the processor of this machine."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mimo_runtime.bundle import manifest, processor
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.manifest import spell, with_checksum
from mimo_runtime.cli.commands import main
from mimo_runtime.compiler import cpu_graphs
from mimo_runtime.deploy.doctor import examine
from mimo_runtime.deploy.prepare import prepare
from mimo_runtime.errors import BundleError, EngineError
from mimo_runtime.hardware import host
from mimo_runtime.loading import required_mb
from mimo_runtime.pipeline import Mimo

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
pytest.importorskip("openvino")

#: The graph that stays on ONNX Runtime.
OTHER = "text_encoder"


@pytest.fixture(scope="module")
def source(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with five graphs on OpenVINO; read only."""
    folder = tmp_path_factory.mktemp("source") / "bundle"
    shutil.copytree(bundle_folder, folder)
    data = json.loads((folder / "manifest.json").read_text("utf-8"))
    for name, entry in data["graphs"].items():
        entry["engine"] = "onnxruntime" if name == OTHER else "openvino"
    data["compatibility"]["engines"]["openvino"] = {"built_with": None, "min": "2025.0", "opset": 20}
    onnx_bundle.reseal(folder, data)
    return folder


@pytest.fixture(scope="module")
def prepared(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, prepared; read only."""
    return prepare(source, tmp_path_factory.mktemp("prepared") / "bundle").path


@pytest.fixture
def changed(prepared: Path, tmp_path: Path) -> Callable[[Callable[[dict], object]], Path]:
    """A prepared bundle whose manifest a function has changed, and which is sealed."""

    def write(change: Callable[[dict], object]) -> Path:
        folder = Path(shutil.copytree(prepared, tmp_path / "changed"))
        data = copy.deepcopy(json.loads((folder / "manifest.json").read_text("utf-8")))
        change(data)
        (folder / "manifest.json").write_bytes(spell(with_checksum(data)))
        return folder

    return write


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.mark.parametrize("form", ["folder", "file"])
def test_the_command_compiles_verifies_and_says_for_what(source: Path, form: str, tmp_path: Path) -> None:
    output = tmp_path / ("out.mimo" if form == "file" else "out")
    result = run("prepare", source, "-o", output)
    assert result.exit_code == 0, result.output
    assert f"for {host.cpu_name()}" in result.stdout and "compiled by openvino 20" in result.stdout
    assert "golden samples passed" in result.stdout and result.stderr.startswith("needs up to ")
    assert OTHER not in result.stdout
    assert run("verify", output).exit_code == 0


def test_the_manifest_names_what_the_graphs_were_compiled_for(source: Path, prepared: Path) -> None:
    before, after = Bundle.open(source), Bundle.open(prepared)
    keys = after.manifest.data["compatibility"]
    assert (keys["arch"], keys["os"]) == (host.architecture(), host.operating_system())
    assert keys["processor"] == processor.this_processor() and keys["processor"]["name"] == host.cpu_name()
    assert keys["engines"]["openvino"]["built_with"] == manifest.installed_version("openvino")
    assert after.manifest.data["files"] == before.manifest.data["files"]
    for name, entry in after.manifest.graphs.items():
        one = name == OTHER
        assert entry.file == f"graphs/{name}.{'onnx' if one else 'blob'}" and entry.is_onnx == one
        assert after.costs[name] == before.costs[name] and entry.spec == before.manifest.graphs[name].spec
        batch_of_one = [{"batch": [1, 1, 1]}]
        assert entry.profiles == (None if one or name == "text_decoder" else batch_of_one)
    assert not list((prepared / "graphs").glob("fusion.onnx"))


def test_answers_of_a_prepared_bundle_are_the_same_to_the_bit(source: Path, prepared: Path, pixels) -> None:
    answers = []
    for path in (source, prepared):
        with Mimo.load(path) as mimo:
            answers.append(mimo.open(pixels).ask("Where is the polyp?", boxes=[(20, 10, 70, 40)]))
    one, two = answers
    assert one.generated == two.generated and one.engines == two.engines
    assert [f.score for f in one.findings] == [f.score for f in two.findings]
    assert all((a.mask == b.mask).all() for a, b in zip(one.findings, two.findings, strict=True))


OTHERS = [
    (lambda d: d["compatibility"]["processor"].update(name="Other 1"), "compiled for the processor Other 1, this machine has"),
    (lambda d: d["compatibility"]["processor"]["features"].append("sve9"), "with sve9, which this one lacks"),
    (lambda d: d["compatibility"]["engines"]["openvino"].update(built_with="2025.1.0"), "compiled by openvino 2025.1.0, "),
    (lambda d: d["compatibility"].update(arch="riscv"), "built for riscv"),
    (lambda d: d["compatibility"].update(os="haiku"), "built for haiku"),
]


@pytest.mark.parametrize(("change", "words"), OTHERS)
def test_another_machine_or_release_is_refused_before_an_engine_reads_a_byte(changed, change, words: str, monkeypatch) -> None:
    monkeypatch.setattr("mimo_runtime.loading.create_engine", lambda *_, **__: pytest.fail("an engine"))
    folder = changed(change)
    with pytest.raises(BundleError, match=words) as caught:
        Mimo.load(folder)
    assert caught.value.remedy.startswith("Run mimo-run prepare BUNDLE -o PREPARED on this machine")
    checks = {check.name: check for check in examine(folder)}
    assert checks["bundle"].state == "broken" and words in checks["bundle"].detail
    Bundle.open(folder, this_machine=False)  # it can be inspected


def test_a_processor_with_more_instruction_sets_is_another_one(changed) -> None:
    if not processor.this_processor()["features"]:
        pytest.skip("the system does not tell the features of its processor")
    with pytest.raises(BundleError, match="without .*, which this one has"):
        Bundle.open(changed(lambda d: d["compatibility"]["processor"]["features"].pop()))


DAMAGED = [
    (lambda d: d["compatibility"].pop("processor"), "compatibility.processor is missing"),
    (lambda d: d["graphs"][OTHER].update(compiled={"weights": 1, "activations": 1}), "that onnxruntime does not compile"),
    (lambda d: d["graphs"]["fusion"]["compiled"].update(weights=-1), "graphs.fusion.compiled: field weights"),
    (lambda d: d["graphs"]["fusion"].update(profiles=[{"batch": [2, 2, 2]}]), "not compiled for a batch of one"),
]


@pytest.mark.parametrize(("change", "words"), DAMAGED)
def test_a_manifest_that_contradicts_itself_is_refused(changed, change, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        Bundle.open(changed(change))


def test_one_changed_byte_of_a_compiled_graph_is_refused(changed) -> None:
    folder = changed(lambda data: None)
    file = folder / "graphs/fusion.blob"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"fusion.blob does not have the sha256"):
        Mimo.load(folder)


def test_the_estimate_of_memory_knows_compiled_graphs(changed, prepared: Path) -> None:
    before = required_mb(Bundle.open(prepared))
    grown = changed(lambda d: d["graphs"]["fusion"]["compiled"].update(activations=100 << 20))
    assert required_mb(Bundle.open(grown)) > before + 100


def test_doctor_says_that_a_prepared_bundle_runs_and_for_which_processor_it_is(prepared: Path) -> None:
    checks = {check.name: check for check in examine(prepared)}
    assert checks["runs"].state == "ok"
    assert f"compiled for {host.cpu_name()}" in checks["graphs"].detail


def test_what_was_prepared_is_not_prepared_again(prepared: Path, tmp_path: Path) -> None:
    result = run("prepare", prepared, "-o", tmp_path / "out")
    assert result.exit_code == 2 and "is compiled for one processor already" in result.stderr
    assert "Name the bundle that it was prepared from" in result.stderr and not (tmp_path / "out").exists()


def test_a_graph_that_does_not_compile_leaves_nothing(source: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        cpu_graphs.OpenVinoEngine, "export_compiled", lambda self: (_ for _ in ()).throw(EngineError("graph fusion: no"))
    )
    result = run("prepare", source, "-o", tmp_path / "out")
    assert result.exit_code == 1 and "graph fusion: no" in result.stderr and list(tmp_path.iterdir()) == []
