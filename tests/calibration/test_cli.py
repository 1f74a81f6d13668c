"""The commands: ``mimo-calibrate``, and ``mimo-export build`` with a reduced precision."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from quick_calibration import FEW, Lenient, calibrate, invoke, make_quick, only
from small_sets import make_set, read_rows, write_rows

from mimo_calibration import calibrate_bundle, quantize
from mimo_calibration.diagnostics import warnings_after
from mimo_calibration.search.results import GraphResult
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.errors import RequestError, VerificationError
from mimo_runtime.model.graph_spec import GRAPHS


def refused(result: Result, *words: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr that holds the words."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimo_calibration.quantize.PrecisionSelector", lambda *_: pytest.fail("it began"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--calibration-images", "3"], ["is 3", "at least 16"]),
        (["--gate-images", "7"], ["is 7", "at least 8"]),
        (["--tolerance", "0"], ["--tolerance is 0"]),
        (["--tolerance", "nan"], ["--tolerance is nan"]),
        (["--tolerance", "much"], ["--tolerance"]),
        (["--precision", "int4"], ["--precision", "auto"]),
        (["--precision", "fp32"], ["--precision", "auto"]),
        (["--calibration", "nowhere"], ["nowhere", "Registered: phantoms"]),
        (["--held-out", "nowhere"], ["--held-out nowhere", "Registered: phantoms"]),
        (["--cache", "/proc/none"], ["cache /proc/none cannot be written"]),
        (["--seed", "-1"], ["--seed"]),
    ],
    ids=" ".join,
)
def test_what_cannot_work_is_refused_in_one_line(no_work, micro_bundle, data, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    refused(calibrate(micro_bundle, data, tmp_path / "out", *options), *words)
    assert not any(tmp_path.iterdir())


def test_calibration_and_output_are_required(micro_bundle, data, tmp_path):
    refused(invoke("run", micro_bundle, "-o", tmp_path / "out"), "--calibration")
    refused(invoke("run", micro_bundle, "--calibration", data), "--output")


def test_what_is_no_bundle_is_refused(no_work, data, tmp_path, micro_bundle):
    refused(calibrate(tmp_path / "nowhere", data, tmp_path / "out"), "nowhere")
    damaged = Path(shutil.copytree(micro_bundle, tmp_path / "damaged"))
    graph = damaged / "graphs/fusion.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    refused(calibrate(damaged, data, tmp_path / "out"), "fusion.onnx")
    assert not (tmp_path / "out").exists()


def test_too_few_images_and_images_in_both_splits_are_refused(no_work, micro_bundle, own_data, tmp_path):
    make_set(tmp_path / "few", {"ct": 12})
    refused(calibrate(micro_bundle, tmp_path / "few", tmp_path / "out"), "12 images of split 'train'", "at least 16")
    rows = read_rows(own_data)
    train, val = (next(own_data / row["image"] for row in rows if row["split"] == split) for split in ("train", "val"))
    shutil.copyfile(train, val)
    refused(calibrate(micro_bundle, own_data, tmp_path / "out"), train.name, val.name, "Split the data by case")
    assert not (tmp_path / "out").exists()


def test_an_output_that_holds_something_is_refused(no_work, micro_bundle, data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    refused(calibrate(micro_bundle, data, tmp_path / "out"), "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_an_earlier_output_is_replaced_by_overwrite_alone(micro_bundle, data, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise VerificationError("it began", "stop")

    monkeypatch.setattr(calibrate_bundle, "quantize_with_accuracy_control", fail)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / calibrate_bundle.NUMBERS).write_text("{}")
    for options in ((), ("--force",)):
        refused(calibrate(micro_bundle, data, tmp_path / "out", *options), "is not empty", "replace it with --overwrite")
    assert calibrate(micro_bundle, data, tmp_path / "out", "--overwrite").stderr == "error: it began. stop.\n"
    assert (tmp_path / "out" / calibrate_bundle.NUMBERS).read_text() == "{}"  # nothing replaces it but a result


# -- warnings ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(own_data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """To calibrate on and to decide on: some images of modalities that no model knows, other ones in each split."""
    held_out = Path(shutil.copytree(own_data, tmp_path / "held_out"))
    for folder, split, modality in ((own_data, "train", "pet"), (held_out, "val", "oct")):
        rows = read_rows(folder)
        for row in [row for row in rows if row["split"] == split][:4]:
            row["modality"] = modality
        write_rows(folder, rows)
    return own_data, held_out


MODALITIES = ("ct", "mri", "xray", "ultrasound")
WARNED = [
    "warning: --calibration-images is 500, but the data has only 16 in split 'train': these are used",
    "warning: --gate-images is 90, but the data has only 8 in split 'val' besides those of the search: these are used",
    "warning: calibrates on modalities that the training data did not have: pet",
    "warning: decides on modalities that the training data did not have: oct",
    "warning: not installed, so not tried: openvino",
    "error: misses the tolerance. stop.",
]


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimo_calibration.search.pipeline.why_not", lambda name: "not here" if name == "openvino" else None)


def fails(*_: object, **__: object) -> None:
    raise VerificationError("misses the tolerance", "stop")


def test_a_calibration_warns_before_the_work(without_openvino, micro_bundle, foreign, tmp_path, monkeypatch):
    opened = Bundle.open(micro_bundle)
    config = dataclasses.replace(opened.config, modalities=MODALITIES)
    knowing = SimpleNamespace(manifest=opened.manifest, config=config, bytes=opened.bytes)
    monkeypatch.setattr(calibrate_bundle.Bundle, "open", lambda _: knowing)
    monkeypatch.setattr(quantize, "PrecisionSelector", fails)
    options = ("--held-out", foreign[1], "--calibration-images", 500, "--gate-images", 90)
    result = calibrate(micro_bundle, foreign[0], tmp_path / "out", *options)
    assert result.exit_code == 1 and result.stderr.splitlines() == WARNED


def test_a_build_warns_before_the_work(without_openvino, foreign, tmp_path, monkeypatch):
    from random_weights import write_checkpoint

    from mimo_export import cli
    from mimo_export import stages as module

    checkpoint = write_checkpoint(tmp_path / "checkpoint", modalities=MODALITIES)
    monkeypatch.setattr(module, "export_graph", fails)
    arguments = ("build", checkpoint, "-o", tmp_path / "out", "--precision", "int8", "--calibration", foreign[0])
    options = ("--held-out", foreign[1], "--calibration-images", 500, "--gate-images", 90)
    result = CliRunner().invoke(cli.main, [str(a) for a in (*arguments, *options)])
    assert result.exit_code == 1 and result.stderr.splitlines() == WARNED


def test_nobody_is_warned_of_a_default_or_of_what_is_known(micro_bundle, data, tmp_path, monkeypatch):
    monkeypatch.setattr("mimo_calibration.search.pipeline.why_not", lambda name: None)
    monkeypatch.setattr(quantize, "PrecisionSelector", fails)
    result = invoke("run", micro_bundle, "--calibration", data, "-o", tmp_path / "out")
    assert result.exit_code == 1 and result.stderr.splitlines() == WARNED[-1:]


def test_what_was_forced_is_warned_of_at_the_end():
    (warning,) = warnings_after({"forced": True}, "int8")
    assert "int8" in warning and "--force" in warning
    assert list(warnings_after({"forced": False}, "int8")) == []


def test_a_bundle_in_reduced_precision_is_refused(tmp_path, data, monkeypatch):
    entries = {name: SimpleNamespace(delivered={"int8": 0, "fp16": 0, "fp32": 3}) for name in GRAPHS}
    entries["fusion"] = SimpleNamespace(delivered={"int8": 2, "fp16": 0, "fp32": 1})
    opened = SimpleNamespace(manifest=SimpleNamespace(graphs=entries))
    monkeypatch.setattr(calibrate_bundle.Bundle, "open", lambda path: opened)
    with pytest.raises(RequestError, match="reduced precision: fusion"):
        calibrate_bundle.calibrate_bundle(tmp_path / "bundle", tmp_path / "out", SimpleNamespace())


def test_names_lists_the_registered_sets():
    result = invoke("names")
    assert result.exit_code == 0 and "phantoms" in result.stdout.split()


def test_help_says_what_comes_out():
    result = invoke("run", "--help")
    assert result.exit_code == 0
    for word in ("symmetric", "shipped", "calibration.json", "--tolerance", "--force", "--overwrite"):
        assert word in result.stdout


@pytest.mark.slow
def test_run_prints_a_table_and_writes_the_folder(quick, micro_bundle, data, tmp_path, monkeypatch):
    only(monkeypatch, text_encoder="")
    result = calibrate(micro_bundle, data, tmp_path / "out", "--precision", "auto", "--tolerance", "0.2")
    assert result.exit_code == 0 and result.stderr == "", result.output
    report = json.loads((tmp_path / "out" / "calibration.json").read_text("utf-8"))
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.split()}
    for name, graph in report["graphs"].items():
        assert graph["chosen"] in lines[name] and graph["reason"] in lines[name]
        ratio = graph["latency_ms"]["fp32 onnxruntime"] / graph["latency_ms"][graph["chosen"]]
        assert f" {ratio:.2f} " in lines[name]
        for kind in ("symmetric", "shipped"):
            onnx.load(tmp_path / "out" / kind / f"{name}.onnx")
    assert result.stdout.rstrip().endswith(f"Wrote {tmp_path / 'out'}")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["calibration.json", "shipped", "symmetric"]


# -- building ----------------------------------------------------------------------------------------------------------


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
        result = CliRunner().invoke(cli.main, [str(a) for a in (*arguments, "--parity-samples", 7)])
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
    assert report["passed"] and len(report["samples"]) == 3


@pytest.mark.slow
def test_it_cannot_be_calibrated_once_more(built, data, tmp_path):
    refused(calibrate(built, data, tmp_path / "out"), "reduced precision", "--precision fp32")


def test_a_build_without_data_or_with_some_graphs_is_refused(micro_checkpoint, data, tmp_path):
    from mimo_export import cli

    def build(*options: object) -> Result:
        return CliRunner().invoke(cli.main, [str(a) for a in ("build", micro_checkpoint, "-o", tmp_path / "out", *options)])

    refused(build("--precision", "int8"), "--precision int8 needs --calibration")
    few = ("--calibration", data, "--calibration-images", 16, "--gate-images", 8)
    refused(build("--precision", "auto", "--graphs", "fusion", *few), "--graphs leaves some", "--precision fp32")
    assert not (tmp_path / "out").exists()


def test_evidence_without_a_candidate_can_be_drawn(tmp_path):
    from mimo_export.report.precision import draw

    graph = GraphResult(chosen="fp32 onnxruntime", latency_ms={"fp32 onnxruntime": 1.0})
    result = SimpleNamespace(graphs={"fusion": graph}, chosen={"fusion": SimpleNamespace(recipe=None)})
    draw(result, tmp_path, 0.005)
    names = ["latency.png", "ranges.png", "sensitivity.png", "trade_off.png"]
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == names


def test_the_scatter_shows_what_each_form_gains_and_loses():
    from mimo_export.report.precision import _trade_off

    def gate(loss: float) -> dict:
        return {"dice": {"box": loss - 0.001, "text": loss}, "ci95": {"box": [-1, 1], "text": [loss - 0.002, loss + 0.002]}}

    times = {"fp32 onnxruntime": 10.0, "int8 openvino": 4.0, "int8 weights onnxruntime": 5.0, "int8 onnxruntime": 8.0}
    graph = GraphResult("int8 weights onnxruntime", latency_ms=times,
                         gate={"int8 openvino": gate(0.25), "int8 weights onnxruntime": gate(0.003)})  # fmt: skip
    figure = _trade_off(SimpleNamespace(graphs={"fusion": graph}), 0.005)
    lines = [[*map(tuple, line.get_xydata())] for line in figure.axes[0].lines]
    # Each prompt that loses most, with its interval, by how fast the form is; the shipped one is marked in the same place.
    assert [(2.5, 0.25)] in lines and lines.count([(2.0, 0.003)]) == 2 and [(1.0, 0.0)] in lines
    assert [(2.0, 0.001), (2.0, 0.005)] in [[(x, round(y, 6)) for x, y in line] for line in lines]
    assert [line[0][0] for line in lines if line[0][1] == 0.06] == [1.25]  # timed, not tried
    assert [(0, 0.005), (1, 0.005)] in lines  # the tolerance
    assert "ships int8 weights ORT, 2.00 times as fast" in figure.axes[0].get_title()
    low, high = figure.axes[0].get_ylim()
    assert low < -0.005 and high > 0.252
