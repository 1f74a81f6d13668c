from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import pytest
from onnx_bundle import reseal

from mimo_benchmarks import footprint
from mimo_benchmarks.report import machine
from mimo_benchmarks.report.tables import footprint_table
from mimo_runtime.errors import EngineError, PromptError, RequestError


def test_the_footprint_of_a_bundle(bundle, request_):
    result = footprint.measure(bundle, request_, threads=1, repeats=3)  # other work may delay one
    json.dumps(result, allow_nan=False)
    took, process = result["import"], result["process"]
    assert 0 < took["mimo_runtime_s"] < took["mimo_s"]
    assert took["mimo_runtime_s"] < took["process_s"]
    assert process["heavy_modules"] == []
    assert process["load_s"] > 0 and process["first_answer_s"] > 0
    assert 20 < process["resident_mb"] <= process["peak_mb"] < 500
    assert result["bundle_mb"] == pytest.approx(sum(p.stat().st_size for p in (bundle / "graphs").iterdir()) / 2**20, abs=0.01)
    assert f"{process['resident_mb']:.0f}" in footprint_table(result)
    assert f"{result['estimated_mb']} MB" in footprint_table(result)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured on Linux")
def test_the_estimate_of_memory_is_near_what_a_small_bundle_needs(bundle, request_):
    result = footprint.measure(bundle, request_, threads=1, repeats=1)
    assert result["estimated_mb"] == pytest.approx(result["process"]["resident_mb"], rel=0.25)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured on Linux")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_estimate_of_memory_is_near_what_tiny_needs(tiny_bundle, request_, tmp_path, engine):
    pytest.importorskip(engine)
    folder = tiny_bundle
    if engine == "openvino":
        folder = shutil.copytree(tiny_bundle, tmp_path / "tiny")
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        for entry in manifest["graphs"].values():
            entry["engine"] = engine
        manifest["compatibility"]["engines"] = {engine: {"built_with": "2025.0", "min": "2025.0", "opset": 20}}
        reseal(folder, manifest)
    result = footprint.measure(folder, request_, threads=1, repeats=1)
    assert result["estimated_mb"] == pytest.approx(result["process"]["resident_mb"], rel=0.25)


def test_a_process_that_fails_is_reported_in_one_line(bundle, request_, monkeypatch):
    monkeypatch.setattr(footprint, "_ASK", "import sys; sys.exit('no engine here')")
    with pytest.raises(EngineError, match="^the measured process failed: no engine here. Run mimo-run doctor.$"):
        footprint.measure(bundle, request_, repeats=1)


def test_a_wrong_request_is_refused_first(bundle, request_):
    with pytest.raises(PromptError, match="the request is empty"):
        footprint.measure(bundle, dataclasses.replace(request_, text=""), repeats=1)


def test_heavy_packages_are_noticed(bundle, request_, monkeypatch):
    monkeypatch.setattr(footprint, "HEAVY", ("numpy", "no_such_package"))
    assert footprint.measure(bundle, request_, repeats=1)["process"]["heavy_modules"] == ["numpy"]


def test_memory_without_proc_needs_psutil(monkeypatch):
    monkeypatch.setattr(machine, "process_memory_mb", lambda pid: None)
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(RequestError, match=r"pip install 'mimo-edge\[bench\]'"):
        machine.process_memory(1)
