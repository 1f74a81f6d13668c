"""The command line: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from random_weights import scale_largest_weight, write_checkpoint
from slowness import without_progress

from mimo_export import stages
from mimo_export.cli import main
from mimo_export.graphs import select_engine
from mimo_runtime.bundle.manifest import write_manifest
from mimo_runtime.errors import RequestError
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.utils.hashing import sha256


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(result: Result, *words: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr that holds the words."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


class TestBuild:
    def test_prints_a_table_and_the_next_step(self, exported, checkpoint: Path, tmp_path: Path):
        options = ("--target", "cpu", "--precision", "fp32", "--parity-samples", 4, "--no-tune")
        result = run("build", checkpoint, "-o", tmp_path / "out", *options)
        assert result.exit_code == 0, result.output
        for name in GRAPHS:
            assert name in result.stdout
        assert f"mimo-run verify {tmp_path / 'out'}" in result.stdout
        assert without_progress(result.stderr) == ""

    def test_json_is_what_inspect_prints(self, exported, checkpoint: Path, tmp_path: Path):
        result = run("build", checkpoint, "-o", tmp_path / "out", "--parity-samples", 4, "--json", "--no-tune")
        assert result.exit_code == 0 and without_progress(result.stderr) == ""
        assert json.loads(result.stdout) == json.loads(run("inspect", tmp_path / "out", "--json").stdout)

    def test_tunes_for_the_cpu_and_says_what_it_chose(self, exported, checkpoint: Path, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(select_engine, "SECONDS", 0.0)
        monkeypatch.setattr(stages, "busy_cores", lambda: None)
        options = ("--parity-samples", 4, "--json")
        assert run("build", checkpoint, "-o", tmp_path / "out", *options).exit_code == 0
        report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
        assert list(report["engines"]) == list(GRAPHS)
        for name, choice in report["engines"].items():
            graph = manifest["graphs"][name]
            assert choice["chosen"] in choice["latency_ms"] and graph["engine"] in choice["chosen"]
            assert bool(graph.get("options")) == ("," in choice["chosen"] and "1 thread" not in choice["chosen"])
        assert report["decoding"]["kind"] in ("greedy", "speculative")
        assert ("speculation" in manifest["graphs"]["text_decoder"]) == (report["decoding"]["kind"] == "speculative")

    def test_selected_graphs_are_written_without_a_bundle(self, exported, checkpoint: Path, tmp_path: Path):
        result = run("build", checkpoint, "-o", tmp_path / "out", "--graphs", "fusion,text_encoder", "--parity-samples", 4)
        assert result.exit_code == 0 and "not a bundle" in result.stdout
        assert sorted(p.stem for p in (tmp_path / "out" / "graphs").iterdir()) == ["fusion", "text_encoder"]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--target", "gpu"], ["--target gpu", "Use --target cpu"]),
            (["--precision", "int4"], ["--precision int4", "Use --precision fp32"]),
            (["--precision", "int8"], ["--precision int8 needs --calibration"]),
            (["--calibration", "data"], ["--calibration: no effect with --precision fp32", "--precision auto"]),
            (["--tolerance", "0.005"], ["--tolerance: no effect", "--precision auto"]),
            (["--calibration-images", "128"], ["--calibration-images: no effect", "--precision auto"]),
            (["--gate-images", "96"], ["--gate-images: no effect", "--precision auto"]),
            (["--calibration-cache", "cache"], ["--calibration-cache: no effect", "--precision auto"]),
            (["--calibration-seed", "0"], ["--calibration-seed: no effect", "--precision auto"]),
            (["--target", "cuda", "--held-out", "x", "--tolerance", "1"], ["--held-out, --tolerance: no effect", "auto"]),
            (["--precision", "auto", "--calibration", "nowhere"], ["nowhere", "Registered: phantoms"]),
            (["--precision", "auto", "--calibration", "x", "--tolerance", "0"], ["--tolerance is 0"]),
            (["--precision", "auto", "--calibration", "x", "--calibration-images", "3"], ["--calibration-images is 3", "16"]),
            (["--tune", "--target", "cuda"], ["--tune has no effect with --target cuda"]),
            (["--tune", "--graphs", "fusion"], ["--tune has no effect with --graphs"]),
            (["--graphs", "fusion,tongue"], ["'tongue'", "vision_encoder, text_encoder"]),
            (["--graphs", ""], ["''", "vision_encoder"]),
            (["--parity-samples", "1"], ["1 parity samples", "at least 2"]),
            (["--parity-samples", "-3"], ["at least 2"]),
            (["--parity-samples", "many"], ["--parity-samples"]),
            (["--parity-data", "nowhere"], ["nowhere", "does not exist"]),
        ],
    )
    def test_refuses_what_it_cannot_do(self, checkpoint, tmp_path, monkeypatch, options: list[str], words: list[str]):
        monkeypatch.chdir(tmp_path)
        refused(run("build", checkpoint, "-o", tmp_path / "out", *options), *words)
        assert not any(tmp_path.iterdir())

    def test_overwrite_replaces_an_earlier_build_and_nothing_else(self, exported, checkpoint: Path, tmp_path: Path):
        output, options = tmp_path / "out", ("--graphs", "fusion", "--parity-samples", 4)
        assert run("build", checkpoint, "-o", output, *options).exit_code == 0
        refused(run("build", checkpoint, "-o", output, *options), "is not empty", "replace it with --overwrite")
        for option in ("--overwrite", "--force"):
            assert run("build", checkpoint, "-o", output, *options, option).exit_code == 0
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("mine")
        refused(run("build", checkpoint, "-o", tmp_path / "mine", *options, "--overwrite"), "no report.json")
        assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"

    def test_only_force_ships_what_misses_the_tolerance(self, checkpoint: Path, tmp_path: Path, monkeypatch):
        asked = []

        def stop(*_, quantization, overwrite, **__):
            asked.append((quantization.force, overwrite))
            raise RequestError("stop", "here")

        monkeypatch.setattr("mimo_export.build.build", stop)
        monkeypatch.setattr("mimo_calibration.quantize.QuantizationRequest.check", lambda _: None)
        monkeypatch.setattr("mimo_calibration.diagnostics.warnings_of_counts", lambda *_: ())
        command = ("build", checkpoint, "-o", tmp_path / "out", "--precision", "int8", "--calibration", "x")
        for options in ((), ("--overwrite",), ("--force",)):
            refused(run(*command, *options), "stop")
        assert asked == [(False, False), (False, True), (True, True)]

    def test_refuses_an_unwritable_output(self, checkpoint: Path):
        refused(run("build", checkpoint, "-o", "/proc/nowhere/out"), "/proc/nowhere/out")

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda c: shutil.rmtree(c), ["is not a folder"]),
            (lambda c: (c / "config.json").unlink(), ["config.json does not exist"]),
            (lambda c: (c / "model.safetensors").unlink(), ["model.safetensors does not exist"]),
            (lambda c: (c / "tokenizer.json").unlink(), ["tokenizer.json does not exist"]),
            (lambda c: (c / "model.safetensors").write_bytes(b"abc"), ["model.safetensors is damaged"]),
            (lambda c: _edit(c / "config.json", format_version=99), ["format version 99"]),
            (lambda c: _edit(c / "config.json", dim=64), ["must equal dim"]),
            (lambda c: _edit(c / "config.json", colour="red"), ["unknown colour"]),
        ],
    )
    def test_refuses_a_checkpoint_it_does_not_understand(self, checkpoint: Path, tmp_path: Path, damage, words: list[str]):
        copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
        damage(copy)
        refused(run("build", copy, "-o", tmp_path / "out"), *words)
        assert not (tmp_path / "out").exists()


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class TestInspect:
    def test_json_has_the_fields_of_the_design(self, bundle: Path):
        report = json.loads(run("inspect", bundle, "--json").stdout)
        assert set(report) == {"format", "target", "portable", "compute_capability", "graphs", "parity", "domain_statistics"}
        assert (report["format"], report["target"], list(report["graphs"])) == ("mimo-bundle", "cpu", list(GRAPHS))
        for name, graph in report["graphs"].items():
            assert set(graph) == {"engine", "threads", "asked", "delivered", "file", "sha256", "bytes", "build"}
            assert set(graph["delivered"]) == {"int8", "fp16", "fp32"}
            assert graph["sha256"] == sha256(bundle / graph["file"])
            assert graph["bytes"] == (bundle / graph["file"]).stat().st_size
            assert report["parity"][name]["relative_l2"] < 1e-3
        assert report["parity"]["masks_dice"] >= 0.999 and report["parity"]["text_agreement"] >= 0.995

    def test_inspect_prints_model_engines_and_parity(self, bundle: Path):
        result = run("inspect", bundle)
        assert result.exit_code == 0
        assert result.stdout.startswith("mimo-micro (micro, 0.")
        assert "onnxruntime" in result.stdout and "masks Dice 1.0" in result.stdout

    def test_works_without_pytorch_and_onnx(self, bundle: Path):
        program = (
            "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'onnxslim', 'transformers')));"
            "from mimo_export.cli import main; main(['inspect', sys.argv[1]])"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", program, str(bundle)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and "fusion" in done.stdout, done.stderr

    def test_refuses_a_flipped_byte(self, own_bundle: Path):
        file = own_bundle / "graphs" / "fusion.onnx"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        refused(run("inspect", own_bundle), "fusion.onnx")

    def test_refuses_what_is_no_bundle(self, checkpoint: Path, tmp_path: Path):
        refused(run("inspect", checkpoint), "manifest.json")
        refused(run("inspect", tmp_path / "nowhere"), "does not exist")


class TestParity:
    def test_a_good_bundle_passes(self, checkpoint: Path, bundle: Path, tmp_path: Path):
        result = run("parity", checkpoint, bundle, "--samples", 7, "--json", tmp_path / "parity.json")
        assert result.exit_code == 0, result.output
        report = json.loads((tmp_path / "parity.json").read_text())
        assert report["passed"] and report["differing_texts"] == [] and set(GRAPHS) < set(report["parity"])
        assert "text identical in 100.00 %" in result.stdout and "over 7 samples (7 phantom)" in result.stdout

    def test_fails_a_bundle_that_computes_something_else(self, checkpoint: Path, own_bundle: Path, tmp_path: Path):
        # A well-formed bundle with right hashes and a wrong weight: only running it can tell.
        manifest = json.loads((own_bundle / "manifest.json").read_text())
        graph = manifest["graphs"]["prompt_encoder"]
        model = onnx.load(own_bundle / graph["file"])
        scale_largest_weight(model, 1.02)
        onnx.save(model, own_bundle / graph["file"])
        graph |= {"sha256": sha256(own_bundle / graph["file"]), "bytes": (own_bundle / graph["file"]).stat().st_size}
        write_manifest(own_bundle, manifest)
        result = run("parity", checkpoint, own_bundle, "--samples", 4, "--json", tmp_path / "parity.json")
        assert result.exit_code == 1
        assert "prompt_encoder differs by" in result.stderr and without_progress(result.stderr).count("\n") == 1
        assert json.loads((tmp_path / "parity.json").read_text())["passed"] is False

    def test_json_to_stdout(self, checkpoint: Path, bundle: Path):
        result = run("parity", checkpoint, bundle, "--samples", 4, "--json", "-")
        assert result.exit_code == 0 and json.loads(result.stdout)["passed"]

    def test_refuses_another_checkpoint(self, bundle: Path, tmp_path: Path):
        other = write_checkpoint(tmp_path / "other", seed=1)
        refused(run("parity", other, bundle, "--samples", 4), "was not built from checkpoint")

    def test_refuses_too_few_samples(self, checkpoint: Path, bundle: Path):
        refused(run("parity", checkpoint, bundle, "--samples", 0), "at least 2")
        refused(run("parity", checkpoint, bundle, "--engine", "tensorrt"), "--engine tensorrt is no engine of the CPU")

    def test_runs_the_same_files_with_another_engine(self, checkpoint: Path, bundle: Path, tmp_path: Path):
        pytest.importorskip("openvino")
        results = [
            run("parity", checkpoint, bundle, "--samples", 2, "--json", tmp_path / f"{k}.json", *more)
            for k, more in enumerate(([], ["--engine", "openvino"]))
        ]
        assert [result.exit_code for result in results] == [0, 0], results[1].output
        own, other = (json.loads((tmp_path / f"{k}.json").read_text())["parity"] for k in range(2))
        # Rounding differs somewhere: on one machine or another, a single graph may agree to all digits that are report.
        assert other["masks_dice"] >= 0.999 and any(other[graph] != own[graph] for graph in GRAPHS)

    def test_refuses_a_graph_with_operators_of_another_domain(self, checkpoint: Path, own_bundle: Path):
        pytest.importorskip("openvino")
        manifest = json.loads((own_bundle / "manifest.json").read_text())
        graph = manifest["graphs"]["text_encoder"]
        model = onnx.load(own_bundle / graph["file"])
        gelu = next(node for node in model.graph.node if node.op_type == "Gelu")
        gelu.op_type, gelu.domain = "Gelu", "com.example"
        model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
        onnx.save(model, own_bundle / graph["file"])
        graph |= {"sha256": sha256(own_bundle / graph["file"]), "bytes": (own_bundle / graph["file"]).stat().st_size}
        write_manifest(own_bundle, manifest)
        result = run("parity", checkpoint, own_bundle, "--samples", 2, "--engine", "openvino")
        refused(result, "text_encoder.onnx uses operators of another domain", "mimo-export build only")

    def test_refuses_a_fallback_beside_another_engine(self, checkpoint: Path, bundle: Path):
        refused(run("parity", checkpoint, bundle, "--engine", "onnxruntime", "--allow-fallback"), "--allow-fallback")


def test_help_needs_no_pytorch(repository: Path):
    program = "import sys; sys.modules['torch'] = None; from mimo_export.cli import main; main(['build', '--help'])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "--parity-data" in done.stdout
