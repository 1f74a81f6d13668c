"""``mimo-run prepare``: a portable bundle becomes one that runs, on a machine with the engine alone, or nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from slowness import without_progress
from tensorrt_fake import GPU
from waiting import PATIENCE_S

from mimo_export import stages
from mimo_export.build import build
from mimo_runtime import Bundle
from mimo_runtime.bundle.archive import pack
from mimo_runtime.cli.commands import main
from mimo_runtime.compiler import build as compiler_module
from mimo_runtime.deploy import prepare as prepare_module
from mimo_runtime.engines.tensorrt_library import missing_rtx_package
from mimo_runtime.hardware import host
from mimo_runtime.hardware.nvidia import find_gpus
from mimo_runtime.model.graph_spec import GRAPHS

needs_compiler = pytest.mark.skipif(missing_rtx_package() is not None, reason="the extra tensorrt-rtx is not installed")
no_gpu = pytest.mark.skipif(bool(find_gpus().usable), reason="about machines without a GPU")


@pytest.fixture(scope="module")
def portable(bundle: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Portable bundles by target; read only."""
    place = tmp_path_factory.mktemp("portable")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "export_graph", lambda _, spec: onnx.load(bundle / f"graphs/{spec.name}.onnx"))
        options = {"portable": True, "parity_samples": 7}
        return {t: build(checkpoint, place / t, target=t, **options).path for t in ("tensorrt", "tensorrt-rtx")}


def prepare(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["prepare", *map(str, arguments)])


# -- TensorRT, which is a fake ---------------------------------------------------------------------------------------


@pytest.fixture
def fake_tensorrt(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """A GPU, a ``tensorrt`` that the child processes find, and answers that nothing verifies. No temporary file stays."""
    place = tmp_path_factory.mktemp("fake")
    (place / "tensorrt").mkdir()
    (place / "tensorrt" / "__init__.py").write_text("import tensorrt_fake\ntensorrt_fake.install_for_child()\n", "utf-8")
    (place / "temporary").mkdir()
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("FAKE_TENSORRT", "none")
    monkeypatch.setattr(compiler_module, "find_cuda_device", lambda: GPU)
    monkeypatch.setattr(
        prepare_module, "check_answers", lambda folder, progress: ({"passed": True, "samples": [1, 2, 3]}, None)
    )
    monkeypatch.setattr(tempfile, "tempdir", str(place / "temporary"))
    yield
    assert list((place / "temporary").iterdir()) == []


@pytest.mark.usefixtures("fake_tensorrt")
@pytest.mark.parametrize("form", ["folder", "file"])
def test_every_graph_is_compiled_for_the_gpu_of_the_device(portable, form: str, tmp_path: Path):
    source = portable["tensorrt"]
    if form == "file":
        pack(source, tmp_path / "portable.mimo")
        source = tmp_path / "portable.mimo"
    output = tmp_path / ("out.mimo" if form == "file" else "out")
    result = prepare(source, "-o", output, "--timing-cache", tmp_path / "times")
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.splitlines()  # and a line a minute about long work
    assert line.startswith("needs up to 2")
    assert "compiled by tensorrt 10.3.0 for 8.0" in result.stdout and "golden samples passed" in result.stdout
    opened = Bundle.open(output, this_machine=False)
    keys = opened.manifest.data["compatibility"]
    assert not opened.manifest.portable and keys["engines"]["tensorrt"]["built_with"] == "10.3.0"
    assert (keys["compute_capability"], keys["arch"]) == ("8.0", host.architecture())
    for name, entry in opened.manifest.graphs.items():
        assert (entry.file, entry.build) == (f"graphs/{name}.plan", None) and opened.bytes(entry.file) == b"a plan"
        assert entry.delivered == {"int8": 0, "fp16": 1, "bf16": 0, "fp32": 1}  # of the engine, not of the file
    before = Bundle.open(source, this_machine=False)
    assert opened.manifest.data["files"] == before.manifest.data["files"]
    assert [f.name for f in (tmp_path / "times").iterdir()] == ["tensorrt-10.3.0-Fake-A100-8.0.timing"]


@pytest.mark.usefixtures("fake_tensorrt")
@pytest.mark.parametrize(("how", "words"), [("segfault", "crashed (SIGSEGV)"), ("killed", "lack of memory")])
def test_a_compiler_that_dies_leaves_what_was_there(portable, how: str, words: str, tmp_path: Path, monkeypatch):
    shutil.copytree(portable["tensorrt"], tmp_path / "out")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    monkeypatch.setenv("FAKE_TENSORRT", how)
    result = prepare(portable["tensorrt"], "-o", tmp_path / "out", "--force")
    assert result.exit_code == 1 and words in result.stderr and "vision_encoder" in result.stderr
    assert prepare(portable["tensorrt"], "-o", tmp_path / "new").exit_code == 1
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.usefixtures("fake_tensorrt")
def test_a_bundle_that_does_not_reproduce_its_samples_is_not_written(portable, tmp_path: Path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(prepare_module, "find_gpus", lambda: type("G", (), {"usable": ("a GPU",)})())
    source = tmp_path / "portable"
    shutil.copytree(portable["tensorrt"], source)

    def compile_graphs(graphs, keys, specs, read, folder, **_):
        """Plans that ONNX Runtime computes; one of them is of another graph."""
        (folder / "graphs").mkdir()
        compiled = {}
        for name, entry in graphs.items():
            data = read(entry["file"])
            (folder / entry["file"]).write_bytes(data)
            compiled[name] = {**entry, "engine": "onnxruntime", "build": None}
        versions = {"onnxruntime": {"built_with": None, "min": "1.20", "opset": 20}}
        compatibility = {**keys, "engines": versions}
        return prepare_module.compile_bundle.CompiledGraphs(compiled, compatibility, dict.fromkeys(compiled, 0.0), "none")

    monkeypatch.setattr(prepare_module.compile_bundle, "check", lambda *_: 1)
    monkeypatch.setattr(prepare_module.compile_bundle, "compile_graphs", compile_graphs)
    assert prepare(source, "-o", tmp_path / "good", "--json").exit_code == 0
    expected = source / "golden" / "00" / "expected.json"
    wrong = {**json.loads(expected.read_text("utf-8")), "text": "something else"}
    expected.write_text(json.dumps(wrong), "utf-8")
    _reseal(source)
    result = prepare(source, "-o", tmp_path / "bad")
    assert result.exit_code == 1 and "does not reproduce its golden samples: golden/00: text is" in result.stderr
    assert not (tmp_path / "bad").exists()


def _reseal(folder: Path) -> None:
    from mimo_export.manifest import other_files
    from mimo_runtime.bundle.manifest import write_manifest

    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    files = other_files(folder, manifest["graphs"])
    write_manifest(folder, {**manifest, "files": {k: v for k, v in files.items() if k != "manifest.json"}})


# -- TensorRT for RTX, which is real ---------------------------------------------------------------------------------


@pytest.mark.rtx
@needs_compiler
@no_gpu
def test_a_device_with_the_engine_alone_compiles_all_graphs(portable, tmp_path: Path):
    """The real compiler, in a process where neither PyTorch nor onnx can be imported, nor can they in its children."""
    for name in ("torch", "onnx", "mimo_export", "mimo_calibration", "mimo_train"):
        (tmp_path / "blocked" / name).mkdir(parents=True)
        (tmp_path / "blocked" / name / "__init__.py").write_text(f"raise ImportError('{name} is not on a device')", "utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "blocked"), *sys.path])}
    command = [sys.executable, "-m", "mimo_runtime", "prepare", str(portable["tensorrt-rtx"]), "-o", str(tmp_path / "out.mimo")]
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert without_progress(done.stderr) == ""
    assert list(report["graphs"]) == list(GRAPHS) and report["compute_capability"] == "8.0+"
    assert report["verified"] is None and "NVIDIA GPU" in report["not_verified"]
    opened = Bundle.open(tmp_path / "out.mimo")  # this machine has the engine that it needs
    assert opened.manifest.data["compatibility"]["engines"]["tensorrt-rtx"]["built_with"] == report["built_with"]
    for name, entry in opened.manifest.graphs.items():
        assert entry.bytes == report["graphs"][name]["bytes"] > 10_000 and entry.delivered["fp32"] > 0


# -- what is refused -------------------------------------------------------------------------------------------------


@no_gpu
def test_what_cannot_work_is_refused_before_it_starts(portable, bundle: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(compiler_module, "_run", lambda *_: pytest.fail("a child was started"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    rtx, out = portable["tensorrt-rtx"], tmp_path / "out"
    for arguments, code, words in (
        ((bundle, "-o", out), 2, ["nothing to prepare", f"mimo-run verify {bundle}"]),
        ((tmp_path / "nowhere", "-o", out), 2, ["does not exist"]),
        ((rtx, "-o", rtx), 2, ["is the bundle itself"]),
        ((rtx, "-o", tmp_path / "mine"), 2, ["is not empty"]),
        ((rtx, "-o", tmp_path / "mine", "--force"), 2, ["no manifest.json"]),
        ((rtx, "-o", out, "--timing-cache", tmp_path / "t"), 2, ["--timing-cache has no effect with tensorrt-rtx"]),
        ((portable["tensorrt"], "-o", out), 1, ["no NVIDIA GPU is visible", "nvidia-smi"]),
    ):
        result = prepare(*arguments)
        assert result.exit_code == code and result.stdout == "", result.output
        for word in words:
            assert word in result.stderr
    monkeypatch.setattr(host, "memory_mb", lambda: (4000, 500))
    if missing_rtx_package() is None:
        assert "needs about" in prepare(rtx, "-o", out).stderr
    monkeypatch.setattr(compiler_module, "missing_rtx_package", lambda: "tensorrt_rtx_bindings")
    result = prepare(rtx, "-o", out)
    assert result.exit_code == 2 and "tensorrt_rtx_bindings is not installed" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_killed_prepare_leaves_nothing_that_loads(portable, how: signal.Signals, tmp_path: Path):
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # a session under nohup hands down that it is ignored
        "from mimo_runtime.cli.commands import main\nfrom mimo_runtime.compiler import compile_bundle\n"
        "def hang(*_, **__):\n    print('there', flush=True)\n    time.sleep(600)\n"
        "compile_bundle.check, compile_bundle.build_engine = lambda *_: 1, hang\nmain(['prepare', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", program, str(portable["tensorrt-rtx"]), "-o", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "there\n"
        process.send_signal(how)
        process.wait(timeout=PATIENCE_S)
    left = list(tmp_path.iterdir())
    assert not (tmp_path / "out").exists() and (how == signal.SIGKILL) == bool(left)
    for folder in left:  # hidden, and without a manifest
        assert folder.name.startswith(".out.tmp-") and not (folder / "manifest.json").exists()
