"""``mimo-run prepare`` of a CPU bundle of a real model: compiled graphs give the bits of those that are compiled at load."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx_bundle import reseal

from mimo_export.cli import main
from mimo_runtime import Bundle, Mimo
from mimo_runtime.deploy.prepare import prepare
from mimo_runtime.deploy.verify import read_sample, sample_names
from mimo_runtime.engines.recording import RecordingEngine
from mimo_runtime.hardware.host import cpu_name

pytest.importorskip("openvino")


@pytest.fixture
def on_openvino(own_bundle: Path) -> Path:
    """The micro bundle with all its graphs on OpenVINO."""
    data = json.loads((own_bundle / "manifest.json").read_text("utf-8"))
    for entry in data["graphs"].values():
        entry["engine"] = "openvino"
    data["compatibility"]["engines"] = {"openvino": {"built_with": None, "min": "2025.0", "opset": 20}}
    reseal(own_bundle, data)
    return own_bundle


def outputs_of(path: Path) -> list[dict[str, np.ndarray]]:
    """What every run of every graph gives while the golden samples are answered."""
    bundle = Bundle.open(path)
    with Mimo.load(bundle) as mimo:  # with the threads that it was prepared for
        recorders = {name: RecordingEngine(engine) for name, engine in mimo.engines.items()}
        mimo.engines.update(recorders)
        for name in sample_names(bundle):
            sample = read_sample(bundle, name)
            mimo.open(sample.pixels).ask(sample.prompt.text, sample.prompt.boxes, sample.prompt.points, sample.prompt.mask)
        return [outputs for recorder in recorders.values() for _, outputs in recorder.calls]


def test_every_output_of_every_graph_is_the_same_to_the_bit(on_openvino: Path, tmp_path: Path) -> None:
    report = prepare(on_openvino, tmp_path / "prepared").report
    assert report["verified"]["passed"] and len(report["graphs"]) == 6
    before, after = outputs_of(on_openvino), outputs_of(tmp_path / "prepared")
    assert len(before) == len(after) > 20
    for expected, found in zip(before, after):
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "prepared")])
    assert f"compiled by openvino {report['built_with']} for {cpu_name()} (" in result.stdout
