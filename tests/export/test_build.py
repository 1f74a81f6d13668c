"""A build gives a whole, honest bundle, or nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from click.testing import Result as CliResult
from PIL import Image
from random_weights import scale_largest_weight, write_checkpoint

from mimo_calibration.search.candidates import Candidate
from mimo_calibration.search.loss import Loss
from mimo_calibration.search.recipe import GraphContext, QuantizationRecipe
from mimo_calibration.search.results import GraphResult, Result
from mimo_export import stages
from mimo_export.build import build
from mimo_export.cli import main
from mimo_export.graphs import graph_file
from mimo_export.parity.compare import ask
from mimo_export.parity.samples import draw_samples
from mimo_runtime import Bundle, Mimo
from mimo_runtime.deploy.verify import verify
from mimo_runtime.errors import BundleError, EngineError, RequestError, VerificationError
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_train.checkpoint import load_checkpoint
from mimo_train.torch_engine import load_mimo


def everything_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*")}


class TestBundle:
    def test_opens_and_verifies(self, bundle: Path):
        opened = Bundle.open(bundle)
        with Mimo.load(opened) as mimo:
            result = verify(mimo, opened)
        assert result["passed"] and len(result["samples"]) >= 3

    def test_answers_as_the_checkpoint_does(self, bundle: Path, checkpoint: Path):
        # In the process that exported: whatever a module caches while it is traced is symbolic, and would break this.
        torch_side, bundle_side = load_mimo(checkpoint), Mimo.load(bundle)
        for sample in draw_samples(3, [], torch_side.config, torch_side.tokenizer):
            ours, theirs = ask(torch_side, sample), ask(bundle_side, sample)
            assert ours.text == theirs.text
            assert [f.query for f in ours.findings] == [f.query for f in theirs.findings]
            for a, b in zip(ours.findings, theirs.findings):
                assert np.mean(a.mask != b.mask) < 1e-3
                assert a.score == pytest.approx(b.score, abs=1e-4)

    def test_the_manifest_describes_the_files(self, bundle: Path, checkpoint: Path):
        manifest = Bundle.open(bundle).manifest
        model, _ = load_checkpoint(checkpoint)
        assert manifest.config == model.config
        assert manifest.data["model"]["id"] == "mimo-micro"
        assert manifest.data["model"]["parameters"] == sum(p.numel() for p in model.parameters())
        for entry in manifest.graphs.values():
            nodes = onnx.load(bundle / entry.file).graph.node
            assert entry.asked == "fp32"
            count = sum(node.op_type in ("Conv", "MatMul", "Gemm") for node in nodes)
            assert entry.delivered == {"int8": 0, "fp16": 0, "fp32": count}
        assert manifest.data["tools"]["torch"].split("+")[0] == torch.__version__.split("+")[0]

    def test_parity_is_measured_in_the_chain_for_one_and_two(self, bundle: Path):
        parity = Bundle.open(bundle).manifest.data["parity"]
        for name in GRAPHS:
            assert 0 < parity[name]["relative_l2"] < 1e-4  # exactly 0 would be a comparison with itself
            assert parity[name]["calls"] >= 2 and parity[name]["batches_of_two"] >= 1
        assert parity["masks"] >= 3 and parity["masks_dice"] > 0.999 and parity["text_agreement"] == 1
        assert parity["samples"] == {"phantom": 7}

    def test_report_has_a_row_for_every_graph(self, bundle: Path):
        text = (bundle / "report.md").read_text("utf-8")
        report = json.loads((bundle / "report.json").read_text("utf-8"))
        for name in GRAPHS:
            assert f"| {name} | onnxruntime | fp32 | {report['graphs'][name]['delivered']['fp32']} fp32 |" in text
        assert max(map(len, text.splitlines())) < 200

    def test_carries_no_path_and_no_date(self, bundle: Path, repository: Path, checkpoint: Path):
        for name in ("manifest.json", "report.json", "report.md"):
            text = (bundle / name).read_text("utf-8")
            assert str(repository) not in text and str(checkpoint.parent) not in text and str(Path.home()) not in text
            assert time.strftime("%Y-") not in text


class TestRepeated:
    @pytest.mark.slow
    def test_the_same_checkpoint_gives_the_same_bytes_in_either_form(self, exported, bundle, checkpoint, tmp_path):
        folder = build(checkpoint, tmp_path / "again", parity_samples=7).path
        for path in sorted(p.relative_to(bundle) for p in bundle.rglob("*") if p.is_file()):
            assert (bundle / path).read_bytes() == (folder / path).read_bytes(), path
        one, two = (build(checkpoint, tmp_path / name, parity_samples=7).path for name in ("one.mimo", "two.mimo"))
        assert one.read_bytes() == two.read_bytes()
        assert Bundle.open(one).manifest.data == Bundle.open(bundle).manifest.data
        assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "one.mimo", "two.mimo"]

    def test_user_images_take_part_but_never_enter(self, exported, checkpoint: Path, tmp_path: Path):
        data = tmp_path / "clinic"
        data.mkdir()
        for k in range(3):
            Image.fromarray(np.full((30, 30, 3), 100 + k, np.uint8)).save(data / f"{k}.png")
        common = {"split": "test", "modality": "ct", "region": "head", "classes": {}}
        lines = [{"image": f"{k}.png", "case": str(k), **common} for k in range(3)]
        (data / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
        path = build(checkpoint, tmp_path / "out", parity_data=[data], parity_samples=10).path
        assert Bundle.open(path).manifest.data["parity"]["samples"] == {"clinic": 5, "phantom": 5}
        for image in path.rglob("image.png"):
            assert np.ptp(np.asarray(Image.open(image))) > 50


class TestRefused:
    def test_an_image_that_cannot_be_read_is_an_error_before_the_work(self, checkpoint, tmp_path, monkeypatch):
        """A search takes an hour; its parity check comes after it."""
        monkeypatch.setattr(stages, "export_graph", lambda *_: pytest.fail("the work has begun"))
        (tmp_path / "a.png").write_bytes(b"no image")
        row = {"image": "a.png", "case": "1", "split": "test", "modality": "ct", "region": "head", "classes": {}}
        (tmp_path / "dataset.jsonl").write_text(json.dumps(row))
        with pytest.raises(RequestError, match=r"a\.png"):
            build(checkpoint, tmp_path / "out", parity_data=[tmp_path], parity_samples=4)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("previous", [False, True])
    def test_a_file_that_computes_something_else_is_no_bundle(self, exported, checkpoint, tmp_path, monkeypatch, previous):
        original = stages.export_graph

        def tampered(module, spec):
            model = original(module, spec)
            if spec.name == "fusion":
                scale_largest_weight(model, 1.05)
            return model

        output = tmp_path / "out"
        if previous:
            build(checkpoint, output, parity_samples=7)
        before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
        monkeypatch.setattr(stages, "export_graph", tampered)
        with pytest.raises(VerificationError, match="fusion differs by .* relative L2 in output") as caught:
            build(checkpoint, output, parity_samples=7, overwrite=previous)
        assert caught.value.exit_code == 1
        assert "vision_encoder" not in str(caught.value)  # the others are innocent: they got the reference's inputs
        assert {p: p.read_bytes() for p in output.rglob("*") if p.is_file()} == before
        assert sorted(p.name for p in tmp_path.iterdir()) == (["out"] if previous else [])

    def test_parity_is_measured_on_the_written_file(self, exported, checkpoint: Path, tmp_path: Path, monkeypatch):
        original = stages.write_graph

        def damaged(model, spec, config, target, precision, folder, *more):
            entry = original(model, spec, config, target, precision, folder, *more)
            model = onnx.load(folder / entry["file"])
            scale_largest_weight(model, float("nan"))
            onnx.save(model, folder / entry["file"])
            return entry

        monkeypatch.setattr(stages, "write_graph", damaged)
        with pytest.raises(VerificationError, match="gives NaN"):
            build(checkpoint, tmp_path / "out", parity_samples=2)
        assert not any(tmp_path.iterdir())

    def test_weights_that_are_not_finite(self, checkpoint: Path, tmp_path: Path, monkeypatch):
        model, tokenizer = load_checkpoint(checkpoint)
        with torch.no_grad():
            model.fusion.level[0, 0] = float("nan")
        monkeypatch.setattr(stages, "load_checkpoint", lambda folder: (model, tokenizer))
        with pytest.raises(RequestError, match="holds NaN or infinity in fusion.level"):
            build(checkpoint, tmp_path / "out")
        assert not any(tmp_path.iterdir())

    def test_another_precision_than_asked(self, exported, checkpoint: Path, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(graph_file, "delivered", lambda model: {"int8": 0, "fp16": 1, "fp32": 8})
        with pytest.raises(EngineError, match="vision_encoder was asked for in fp32"):
            build(checkpoint, tmp_path / "out")
        assert not any(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["out", "out.mimo"])
    def test_an_output_that_exists_is_kept(self, checkpoint: Path, tmp_path: Path, name: str):
        output = tmp_path / name
        output.mkdir() if name == "out" else output.write_text("mine")
        (output / "notes.txt").write_text("mine") if name == "out" else None
        before = everything_below(tmp_path)
        remedy = r"is not empty\. Choose another\.$" if name == "out" else "or replace it with --overwrite"
        with pytest.raises(RequestError, match=remedy):
            build(checkpoint, output)
        if name == "out":
            with pytest.raises(RequestError, match=r"no manifest\.json"):
                build(checkpoint, output, overwrite=True)
        assert everything_below(tmp_path) == before


class TestForced:
    """INT8 weights in one graph, which compute something else; the rest is as it is."""

    @pytest.fixture
    def forced(self, exported, checkpoint: Path, bundle: Path, monkeypatch) -> Callable[..., Path]:
        chosen, graphs = {}, {}
        for name in GRAPHS:
            model = onnx.load(bundle / "graphs" / f"{name}.onnx")
            label, precision = "fp32 onnxruntime", "fp32"
            if name == "text_encoder":
                model = GraphContext(model, {}, []).ort_cpu(QuantizationRecipe("weights", 8))
                for weight in model.graph.initializer:
                    if weight.name.endswith("_scales"):
                        scales = onnx.numpy_helper.to_array(weight) * np.float32(3)
                        weight.CopyFrom(onnx.numpy_helper.from_array(scales, weight.name))
                label, precision = "int8 weights onnxruntime", "int8-weights"
            chosen[name] = Candidate(label, precision, "onnxruntime", 1, model.SerializeToString())
            times = {label: 1.0, "fp32 onnxruntime": 1.0}
            graphs[name] = GraphResult(label, "because", latency_ms=times, bytes={label: 1})
        loss, spent = Loss({}, {}, 0.0, None, 0), {"calibrate": 0.0, "decide": 0.0}
        facts = {
            "id": "a", "images": 16, "sets": {}, "seed": 0, "held_out": "b", "held_out_images": 8, "tolerance": 0.005,
            "unseen_modalities": [], "forced": True, "engines_tried": [], "engines_missing": [], "timed": True,
        }  # fmt: skip
        monkeypatch.setattr(
            stages,
            "quantize_with_accuracy_control",
            lambda *_, **__: (Result(chosen, {}, graphs, loss, {}, {}, spent), facts),
        )
        monkeypatch.setattr("mimo_calibration.quantize.QuantizationRequest.check", lambda _: None)
        monkeypatch.setattr("mimo_calibration.diagnostics.warnings_of_counts", lambda *_: ())
        monkeypatch.setattr(stages, "warnings_before", lambda *_: ())

        def run(output: Path, outside_the_tolerance: bool) -> CliResult:
            graphs["text_encoder"].forced = outside_the_tolerance
            options = ("--precision", "int8", "--calibration", "x", "--force", "--parity-samples", "7", "--no-tune")
            return CliRunner().invoke(main, ["build", str(checkpoint), "-o", str(output), *options])

        return run

    def test_what_it_misses_of_parity_is_a_warning_and_recorded(self, forced, tmp_path: Path):
        result = forced(tmp_path / "out", outside_the_tolerance=True)
        assert result.exit_code == 0, result.output
        assert "warning: parity: text_encoder differs by" in result.stderr and "--force" in result.stderr
        parity = Bundle.open(tmp_path / "out").manifest.data["parity"]
        assert any(message.startswith("text_encoder differs by") for message in parity["missed"])
        assert parity["text_encoder"]["limit"] == 0.3 < parity["text_encoder"]["relative_l2"]
        assert parity["fusion"]["limit"] == 1e-3
        assert json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["parity"]["missed"] == parity["missed"]
        assert "outside the limits of parity, shipped because of --force: text_encoder differs by" in (
            tmp_path / "out" / "report.md"
        ).read_text("utf-8")
        assert (
            "shipped because of --force: text_encoder differs by"
            in CliRunner().invoke(main, ["inspect", str(tmp_path / "out")]).stdout
        )

    def test_force_changes_nothing_where_no_graph_ships_outside_the_tolerance(self, forced, tmp_path: Path):
        result = forced(tmp_path / "out", outside_the_tolerance=False)
        assert result.exit_code == 1 and "parity failed: text_encoder differs by" in result.stderr
        assert not any(tmp_path.iterdir())


class TestSingleGraphs:
    def test_are_checked_but_are_no_bundle(self, exported, checkpoint: Path, tmp_path: Path):
        built = build(checkpoint, tmp_path / "out", graphs=["text_encoder"], parity_samples=2)
        files = sorted(p.relative_to(built.path).as_posix() for p in built.path.rglob("*") if p.is_file())
        assert files == ["graphs/text_encoder.onnx", "report.json", "report.md"]
        assert built.report["parity"]["text_encoder"]["relative_l2"] < 1e-3
        with pytest.raises(BundleError, match=r"no manifest\.json"):
            Bundle.open(built.path)

    def test_do_not_go_into_one_file(self, checkpoint: Path, tmp_path: Path):
        with pytest.raises(RequestError, match="needs all graphs"):
            build(checkpoint, tmp_path / "out.mimo", graphs=["text_encoder"])


KILLED = """
import sys, time
from pathlib import Path
import onnx
from mimo_export import stages
from mimo_export.build import build

checkpoint, bundle, output, stage = sys.argv[1:]
stages.export_graph = lambda _, spec: onnx.load(Path(bundle) / "graphs" / f"{spec.name}.onnx")

def hang(*arguments):
    print("there", flush=True)
    time.sleep(600)

setattr(stages, stage, hang)
build(checkpoint, output, parity_samples=7)
"""


@pytest.mark.parametrize(("stage", "name"), [("compare", "out"), ("manifest_data", "out"), ("manifest_data", "out.mimo")])
def test_a_killed_build_leaves_nothing_that_loads(bundle: Path, checkpoint: Path, tmp_path: Path, stage: str, name: str):
    command = [sys.executable, "-c", KILLED, str(checkpoint), str(bundle), str(tmp_path / name), stage]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout.readline() == "there\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / name).exists()
    left = [path for path in (tmp_path, *everything_below(tmp_path)) if path.is_dir()]
    assert any((folder / "graphs").is_dir() for folder in left)  # it was killed in the middle, not before
    for folder in left:
        with pytest.raises(BundleError):
            Bundle.open(folder)


def test_a_checkpoint_of_other_weights_gives_other_hashes(tmp_path: Path, bundle: Path):
    other = write_checkpoint(tmp_path / "other", seed=1)
    built = build(other, tmp_path / "out", graphs=["text_encoder"], parity_samples=2)
    assert built.report["graphs"]["text_encoder"]["sha256"] != Bundle.open(bundle).manifest.graphs["text_encoder"].sha256
