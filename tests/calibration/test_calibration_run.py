"""A calibration from end to end on the micro bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
from click.testing import Result as CliResult
from quick_calibration import always_worse, calibrate, latency, make_quick, only
from slowness import without_progress
from small_graphs import operators

from mimo_calibration.data import draw_images
from mimo_calibration.graph.qdq import amax_of
from mimo_calibration.search import pipeline as pipeline_module
from mimo_calibration.search import selector
from mimo_calibration.search.accuracy_gate import AccuracyGate
from mimo_calibration.search.loss import compare, macro_dice
from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.engines import create_engine, why_not
from mimo_runtime.model.graph_spec import GRAPHS, graph_specs
from mimo_runtime.pipeline import Mimo

pytestmark = pytest.mark.slow

ENGINES = [name for name in ("onnxruntime", "openvino") if why_not(name) is None]


class Calibrated(NamedTuple):
    result: CliResult
    report: dict[str, Any]
    folder: Path
    cache: Path


@pytest.fixture(scope="module")
def calibrated(micro_bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """``--precision auto``, once for all tests of this file."""
    place = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        result = calibrate(micro_bundle, data, place / "out", "--precision", "auto", "--cache", place / "cache", "--json")
    assert result.exit_code == 0, result.output
    return Calibrated(result, json.loads(result.stdout), place / "out", place / "cache")


# -- what it decided -------------------------------------------------------------------------------------------------


#: Of engines, beside their usual settings, and of INT8 on OpenVINO.
VARIANTS = {"own threads", "dynamic blocks", "INT8 attention"}


def test_every_graph_has_candidates_latencies_and_a_reason(calibrated):
    assert list(calibrated.report["graphs"]) == list(GRAPHS)
    for name, graph in calibrated.report["graphs"].items():
        labels = set(graph["latency_ms"])
        expected = {"fp32 onnxruntime"} | {f"fp32 {e}" for e in ENGINES}
        if name != "text_decoder":
            expected |= {"int8 weights onnxruntime"} | {f"int8 {e}" for e in ENGINES}
            # Blocks are left out "without" a name; a comma begins other settings of the engine, or INT8 attention.
            plain = {label for label in labels if " without " not in label}
            assert {label for label in plain if "," not in label} == expected, name
            assert {label.partition(", ")[2] for label in plain - expected} <= VARIANTS, name
            assert graph["methods_sqnr_db"] and len(graph["sensitivity"]) == 2
            assert graph["sensitivity"][0]["sqnr_db"] <= graph["sensitivity"][1]["sqnr_db"]  # the worst comes first
        else:
            assert expected | {"fp32 onnxruntime, 1 thread"} <= labels
            assert graph["sensitivity"] and not any(row["dice_loss"] for row in graph["sensitivity"])
            assert {label.split()[0] for label in labels} == {"fp32", "int8", "int4"}
        assert set(graph["bytes"]) == labels and all(size > 0 for size in graph["bytes"].values())
        assert graph["chosen"] in labels and graph["reason"] and not graph["forced"]


def test_the_fastest_candidate_within_the_tolerance_ships(calibrated):
    tolerance = calibrated.report["tolerance"]
    for name, graph in calibrated.report["graphs"].items():
        passed = {
            label
            for label, loss in graph["gate"].items()
            if max(*loss["dice"].values(), loss["presence_f1" if loss["presence_by"] == "f1" else "presence_changed"] / 2)
            <= tolerance
            and loss["text_agreement"] >= 0.98
        }
        faster = {label for label, ms in graph["latency_ms"].items() if ms < graph["latency_ms"][graph["chosen"]]}
        assert passed <= {graph["chosen"]}, name  # nothing is measured after the first that passes
        assert faster <= set(graph["rejected"]), name
        if graph["chosen"] == "fp32 onnxruntime":
            assert not passed and "nothing faster" in graph["reason"]
        else:
            assert passed == {graph["chosen"]}
            assert f"{4.0 / latency(graph['chosen']):.2f} times as fast" in graph["reason"]
        for label in set(graph["gate"]) - passed:
            assert "outside the tolerance" in graph["rejected"][label]
        # What is slower than single precision by more than 3 % is not measured in the gate.
        if "fp32 openvino" in graph["latency_ms"] and latency(graph["chosen"]) == 4.0:
            assert "not faster" in graph["rejected"]["fp32 openvino"]


def test_something_was_reduced_and_the_files_are_smaller(calibrated):
    reduced = [n for n, g in calibrated.report["graphs"].items() if not g["chosen"].startswith("fp32")]
    assert reduced
    for name in reduced:
        graph = calibrated.report["graphs"][name]
        assert graph["recipe"] and graph["bytes"][graph["chosen"]] < graph["bytes"]["fp32 onnxruntime"]
        assert graph["sqnr_db"][graph["chosen"]] > 15


def test_the_shipped_files_are_what_was_measured(quick, calibrated, micro_chain, data):
    """The chain put together again from the files gives the accuracy that the report tells."""
    specs, engines = graph_specs(micro_chain.config), {}
    for name, graph in calibrated.report["graphs"].items():
        content = (calibrated.folder / "shipped" / f"{name}.onnx").read_bytes()
        assert len(content) == graph["bytes"][graph["chosen"]]
        engine = next(e for e in ENGINES if e in graph["chosen"])
        engines[name] = create_engine(engine, content, specs[name], threads=1)
    full = {n: create_engine("onnxruntime", m.SerializeToString(), specs[n], threads=1) for n, m in micro_chain.models.items()}
    datasets = read_datasets(data)
    search = draw_images(datasets, "val", 8, 0, least=8)
    gate = draw_images(datasets, "val", 8, 1, frozenset(search.hashes.values()), least=8)
    assert gate.identity == calibrated.report["held_out"]
    accuracy_gate, replies = AccuracyGate(gate, datasets, max_classes=1), []
    for chosen in (engines, full):
        with Mimo(micro_chain.config, chosen, micro_chain.tokenizer) as mimo:
            replies.append(accuracy_gate.run(mimo))
    assert macro_dice(replies[0]) == pytest.approx(calibrated.report["macro_dice"], abs=2e-3)
    assert macro_dice(replies[1]) == pytest.approx(calibrated.report["macro_dice_fp32"], abs=2e-3)
    loss = compare(replies[1], replies[0])
    assert loss.dice == pytest.approx(calibrated.report["loss"]["dice"], abs=2e-3)
    assert loss.questions == calibrated.report["loss"]["questions"]


def test_the_symmetric_files_are_valid_and_fit_their_specs(calibrated, micro_chain):
    specs = graph_specs(micro_chain.config)
    for name, graph in calibrated.report["graphs"].items():
        model = onnx.load(calibrated.folder / "symmetric" / f"{name}.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert {o.domain for o in model.opset_import} == {""}
        create_engine("onnxruntime", model.SerializeToString(), specs[name], threads=1)
        quantized = len(operators(model, "DequantizeLinear"))
        assert bool(quantized) == bool(graph["recipe"]) == (not graph["chosen"].startswith("fp32"))


def test_the_reported_ranges_are_those_in_the_file(calibrated):
    for name, graph in calibrated.report["graphs"].items():
        if graph["chosen"].startswith("int8 onnxruntime") and graph["recipe"].startswith("INT8,"):
            model = onnx.load(calibrated.folder / "symmetric" / f"{name}.onnx")
            assert graph["amax"] == pytest.approx(amax_of(model), rel=1e-4, abs=1e-6)


def test_the_report_names_the_images(calibrated, data):
    report = calibrated.report
    assert (report["images"], report["held_out_images"], report["sets"]) == (16, 8, {"phantoms": 16})
    assert report["id"] == draw_images(read_datasets(data), "train", 16, 0).identity
    assert report["unseen_modalities"] == [] and report["forced"] is False and report["seed"] == 0
    assert report["engines_tried"] == ENGINES
    assert json.loads((calibrated.folder / "calibration.json").read_text("utf-8")) == report


def test_the_cache_holds_one_file_of_statistics_per_graph(calibrated):
    assert len(list(calibrated.cache.glob("*.npz"))) == len(GRAPHS)


# -- requested precisions ------------------------------------------------------------------------------------


def test_int8_that_loses_too_much_is_refused_with_a_table_and_shipped_by_force(
    quick, micro_bundle, data, tmp_path, monkeypatch
):
    only(monkeypatch, text_encoder="")
    always_worse(monkeypatch)
    observed = []

    class Counted(pipeline_module.ObservingEngine):
        def __init__(self, model, spec, **options):
            observed.append(spec.name)
            super().__init__(model, spec, **options)

    monkeypatch.setattr(pipeline_module, "ObservingEngine", Counted)
    cache = ("--cache", tmp_path / "cache")
    refused = calibrate(micro_bundle, data, tmp_path / "out", "--precision", "int8", *cache)
    assert refused.exit_code == 1 and refused.stdout == ""
    assert refused.stderr.startswith("error: --precision int8 misses the tolerance of 0.005 in ")
    lines = {line.split(":")[0].strip(): line for line in refused.stderr.splitlines()[1:]}
    assert set(lines) == set(GRAPHS)
    for label in ("int8 onnxruntime", "int8 weights onnxruntime"):
        assert f"{label}: outside the tolerance of 0.005: Dice box -0.2500" in lines["text_encoder"]
    assert "--force" in refused.stderr and not (tmp_path / "out").exists()
    assert observed == list(GRAPHS)

    observed.clear()
    forced = calibrate(micro_bundle, data, tmp_path / "out", "--precision", "int8", "--force", "--json", *cache)
    assert forced.exit_code == 0, forced.output
    report = json.loads(forced.stdout)
    assert report["forced"] is True
    graph = report["graphs"]["text_encoder"]
    assert graph["forced"] and graph["chosen"].startswith("int8")
    assert graph["reason"].startswith("forced, although outside the tolerance of 0.005")
    assert not any(g["forced"] for name, g in report["graphs"].items() if name != "text_encoder")
    # Statistics do not depend on the tolerance: only the graphs behind the one that changed are observed again.
    assert observed == list(GRAPHS[2:])


def test_requested_fp16_ships_even_if_it_is_no_faster(quick, micro_bundle, data, tmp_path, monkeypatch):
    only(monkeypatch, text_encoder="", vision_encoder="")
    monkeypatch.setattr(selector, "graph_times", lambda runs, inputs: {label: 5.0 - label.startswith("fp32") for label in runs})
    refused = calibrate(micro_bundle, data, tmp_path / "out", "--precision", "fp16", "--force", "--json")
    assert refused.exit_code == 0, refused.output
    report = json.loads(refused.stdout)
    assert report["forced"] is True  # the others stayed as they were
    for name in ("text_encoder", "vision_encoder"):
        graph = report["graphs"][name]
        assert graph["chosen"].startswith("fp16") and not graph["forced"]
        assert {"LayerNormalization", "Softmax"} <= {why.split()[0] for why in graph["fp32_nodes"].values()}
        shipped = onnx.load(tmp_path / "out" / "shipped" / f"{name}.onnx")
        onnx.checker.check_model(shipped, full_check=True)
        assert any(w.data_type == onnx.TensorProto.FLOAT16 for w in shipped.graph.initializer)
        assert graph["bytes"][graph["chosen"]] < 0.8 * graph["bytes"]["fp32 onnxruntime"]
        assert graph["sqnr_db"][graph["chosen"]] > 40


def test_run_prints_a_table_and_writes_the_folder(quick, micro_bundle, data, tmp_path, monkeypatch):
    only(monkeypatch, text_encoder="")
    result = calibrate(micro_bundle, data, tmp_path / "out", "--precision", "auto", "--tolerance", "0.2")
    assert result.exit_code == 0 and without_progress(result.stderr) == "", result.output
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
