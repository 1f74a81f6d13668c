"""The cost of the HTTP service is measured beside the Python call."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_bundle
import pytest
from click.testing import CliRunner

from mimo_benchmarks.report.result import BenchmarkResult
from mimo_benchmarks.system.service_cost import command

pytest.importorskip("uvicorn")
pytest.importorskip("psutil")


@pytest.mark.slow
def test_a_service_is_measured_beside_threads_of_this_process(tmp_path: Path):
    bundle = onnx_bundle.write_bundle(tmp_path / "bundle")
    options = ["--seconds", "3", "--asks", "5", "--images", "2", "--json"]
    outcome = CliRunner().invoke(command, [str(bundle), *options])
    assert outcome.exit_code == 0, outcome.output
    result = BenchmarkResult.from_dict(json.loads(outcome.output))
    figures = {figure.name: figure for figure in result.figures}
    assert figures["responses that are neither 200 nor 429"].value == 0
    assert 0 < figures["16 clients against 8 threads"].value < 10
    assert figures["HTTP beside the Python call"].goal == 8
    assert set(result.details["statuses"]) == {"200"} and result.details["memory_first_mb"] > 10
