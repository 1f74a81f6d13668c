"""The way of a slice through the DICOM node is timed with a real Orthanc."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import onnx_bundle
import pytest
from click.testing import CliRunner

from mimo_benchmarks.report.result import BenchmarkResult
from mimo_benchmarks.system import node_time

for name in ("psutil", "pynetdicom", "highdicom", "prometheus_client"):
    pytest.importorskip(name)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("Orthanc", path="/usr/sbin:/usr/bin") is None, reason="orthanc is not installed")
def test_slices_are_timed_until_their_results_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    bundle = onnx_bundle.write_bundle(tmp_path / "bundle")
    options = ["--repeats", "2", "--quiet", "0.2", "--text", "liver", "--json"]
    outcome = CliRunner().invoke(node_time.command, [str(bundle), *options])
    assert outcome.exit_code == 0, outcome.output
    result = BenchmarkResult.from_dict(json.loads(outcome.output))
    assert result.details["structures"] == [1, 1] and result.details["quiet_s"] == 0.2
    first, median, slowest = (figure.value for figure in result.figures)
    assert 0.2 <= min(first, median) <= max(first, median) <= slowest < node_time.SECONDS


def test_a_missing_orthanc_is_an_error_that_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    outcome = CliRunner().invoke(node_time.command, [str(onnx_bundle.write_bundle(tmp_path / "bundle"))])
    assert outcome.exit_code == 2 and outcome.output == "error: Orthanc is not installed. apt-get install orthanc.\n"
