"""A bulk run that is killed and resumed is compared with an undisturbed one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import onnx_bundle
import pytest
from click.testing import CliRunner

from mimo_benchmarks.report.result import BenchmarkResult
from mimo_benchmarks.system.batch_resume import command

pytest.importorskip("psutil")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_batch_is_compared_with_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    bundle = onnx_bundle.write_bundle(tmp_path / "bundle")
    outcome = CliRunner().invoke(command, [str(bundle), "--count", "16", "--json"])
    assert outcome.exit_code == 0, outcome.output
    result = BenchmarkResult.from_dict(json.loads(outcome.output))
    figures = {figure.name: figure.value for figure in result.figures}
    assert figures["files that differ after a kill"] == figures["files that differ with two workers"] == 0
    assert 0.1 < figures["two workers against one"] < 10
    assert 8 <= result.details["killed_after"] < 16
