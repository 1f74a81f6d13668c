"""``mimo-export build`` with a reduced precision, and its report."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from click.testing import CliRunner
from PIL import Image
from quick_calibration import FEW, Lenient, calibrate, make_quick, only

from mimo_calibration import quantize
from mimo_calibration.search.results import GraphResult


@pytest.fixture(scope="module")
def built(micro_bundle: Path, micro_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mimo-export build --precision auto``; its graphs are those of the micro bundle, not exported once more."""
    from mimo_export import cli
    from mimo_export import stages as module

    out = tmp_path_factory.mktemp("built") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        only(patch, text_encoder="", text_decoder="fp32")
        patch.setattr(module, "export_graph", lambda _, spec: onnx.load(micro_bundle / "graphs" / f"{spec.name}.onnx"))
        images = ("--calibration-images", FEW[1], "--gate-images", FEW[3])
        arguments = ("build", micro_checkpoint, "-o", out, "--precision", "auto", "--calibration", data, *images)
        patch.setattr(quantize, "Settings", Lenient)
        result = CliRunner().invoke(cli.main, [str(a) for a in (*arguments, "--parity-samples", 7, "--no-tune")])
    assert result.exit_code == 0, result.output
    assert f"mimo-run verify {out}" in result.stdout
    return out


@pytest.mark.slow
def test_a_build_tells_what_it_was_calibrated_on_and_what_it_lost(built, data):
    manifest = json.loads((built / "manifest.json").read_text("utf-8"))
    report = json.loads((built / "report.json").read_text("utf-8"))
    facts, accuracy = manifest["calibration"], manifest["accuracy"]
    assert (facts["images"], facts["held_out_images"], facts["sets"]) == (16, 8, {"phantoms": 16})
    assert facts["tolerance"] == 0.005 and facts["forced"] is False and facts["id"] != facts["held_out"]
    assert set(accuracy) == {"macro_dice", "fp32", "loss"}
    prompts = {"box", "point", "mask", "text"}
    assert set(accuracy["macro_dice"]) == set(accuracy["fp32"]) == set(accuracy["loss"]["dice"]) == prompts
    for prompt, lost in accuracy["loss"]["dice"].items():
        assert accuracy["fp32"][prompt] - accuracy["macro_dice"][prompt] == pytest.approx(lost, abs=1e-4)
    assert {k: report["precision"][k] for k in facts} == facts
    graphs = report["precision"]["graphs"]
    assert graphs["text_encoder"]["chosen"].startswith("int8")
    assert graphs["text_decoder"]["chosen"] == "fp32 onnxruntime, 1 thread"
    assert manifest["graphs"]["text_decoder"]["threads"] == 1
    for name, graph in manifest["graphs"].items():
        counts = graph["delivered"]
        assert graph["asked"] == "auto" and sum(counts.values()) > 0
        assert bool(counts["int8"]) == (name == "text_encoder"), name
        assert graph["engine"] in graphs[name]["chosen"]


@pytest.mark.slow
def test_a_build_draws_its_report(built):
    for name in ("ranges", "sensitivity", "latency", "trade_off"):
        with Image.open(built / "report" / f"{name}.png") as picture:
            assert picture.format == "PNG" and min(picture.size) > 100
            assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 4  # something is drawn
    text = (built / "report.md").read_text("utf-8")
    assert "## Precision" in text and "![ranges.png](report/ranges.png)" in text
    assert "![trade_off.png](report/trade_off.png)" in text
    report = json.loads((built / "report.json").read_text("utf-8"))["precision"]
    for name, graph in report["graphs"].items():
        assert f"| {name} | {graph['chosen']} |" in text and graph["reason"] in text
    # Every file is sealed, the pictures among them.
    files = json.loads((built / "manifest.json").read_text("utf-8"))["files"]
    pictures = {f"report/{name}.png" for name in ("ranges", "sensitivity", "latency", "trade_off")}
    assert {*pictures, "report.md"} <= set(files)


@pytest.mark.slow
def test_a_device_verifies_it(built):
    from mimo_runtime.cli import commands

    result = CliRunner().invoke(commands.main, ["verify", str(built), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["passed"] and len(report["samples"]) >= 3  # and those beside thresholds


@pytest.mark.slow
def test_it_cannot_be_calibrated_once_more(built, data, tmp_path):
    result = calibrate(built, data, tmp_path / "out")
    assert result.exit_code == 2 and "reduced precision" in result.stderr and "--precision fp32" in result.stderr


# -- pictures --


def test_a_result_without_a_candidate_can_be_drawn(tmp_path):
    from mimo_export.report.charts import draw

    graph = GraphResult(chosen="fp32 onnxruntime", latency_ms={"fp32 onnxruntime": 1.0})
    result = SimpleNamespace(graphs={"fusion": graph}, chosen={"fusion": SimpleNamespace(recipe=None)})
    draw(result, tmp_path, 0.005)
    names = ["latency.png", "ranges.png", "sensitivity.png", "trade_off.png"]
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == names


def test_the_scatter_shows_speed_and_loss_of_every_candidate():
    from mimo_export.report.charts import draw_trade_off

    def gate(loss: float) -> dict:
        return {"dice": {"box": loss - 0.001, "text": loss}, "ci95": {"box": [-1, 1], "text": [loss - 0.002, loss + 0.002]}}

    times = {"fp32 onnxruntime": 10.0, "int8 openvino": 4.0, "int8 weights onnxruntime": 5.0, "int8 onnxruntime": 8.0}
    graph = GraphResult("int8 weights onnxruntime", latency_ms=times,
                         gate={"int8 openvino": gate(0.25), "int8 weights onnxruntime": gate(0.003)})  # fmt: skip
    figure = draw_trade_off(SimpleNamespace(graphs={"fusion": graph}), 0.005)
    lines = [[*map(tuple, line.get_xydata())] for line in figure.axes[0].lines]
    # Each prompt that loses most, with its interval, by how fast the candidate is; the shipped one is marked in the same place.
    assert [(2.5, 0.25)] in lines and lines.count([(2.0, 0.003)]) == 2 and [(1.0, 0.0)] in lines
    assert [(2.0, 0.001), (2.0, 0.005)] in [[(x, round(y, 6)) for x, y in line] for line in lines]
    assert [line[0][0] for line in lines if line[0][1] == 0.06] == [1.25]  # timed, not tried
    assert [(0, 0.005), (1, 0.005)] in lines  # the tolerance
    assert "ships int8 weights ORT, 2.00 times as fast" in figure.axes[0].get_title()
    low, high = figure.axes[0].get_ylim()
    assert low < -0.005 and high > 0.252
