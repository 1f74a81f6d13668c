"""A bulk run that is killed and resumed is compared with an undisturbed one."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path

import onnx_bundle
import pytest
from click.testing import CliRunner

from mimo_benchmarks.report.result import BenchmarkResult
from mimo_benchmarks.system.batch_resume import Runs, command

pytest.importorskip("psutil")

#: ``mimo-run`` with a batch that takes a while, so that it does not end before it is killed.
SLOW = """
import sys, time
from mimo_runtime.cli.commands import main
from mimo_runtime.services.batch.ledger import Ledger
add = Ledger.add
Ledger.add = lambda ledger, entry: (add(ledger, entry), time.sleep(0.2))
main(sys.argv[1:])
"""
killed = Runs.killed


def killed_slowly(runs: Runs, name: str, workers: int, after: int) -> int:
    slow = copy.copy(runs)
    slow._command = [sys.executable, "-c", SLOW, *runs._command[3:]]
    return killed(slow, name, workers, after)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_batch_is_compared_with_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(Runs, "killed", killed_slowly)
    bundle = onnx_bundle.write_bundle(tmp_path / "bundle")
    outcome = CliRunner().invoke(command, [str(bundle), "--count", "16", "--json"])
    assert outcome.exit_code == 0, outcome.output
    result = BenchmarkResult.from_dict(json.loads(outcome.output))
    figures = {figure.name: figure.value for figure in result.figures}
    assert figures["files that differ after a kill"] == figures["files that differ with two workers"] == 0
    assert 0.1 < figures["two workers against one"] < 10
    assert 8 <= result.details["killed_after"] < 16
