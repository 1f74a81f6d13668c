"""The tests that need Optimum, with optimum-onnx 0.1 and transformers 4.57 beside the environment at hand."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("optimum") is not None, reason="Optimum is installed, so its tests run by themselves"
)
def test_the_exporter_and_the_benchmark_run_with_optimum(repository: Path, micro_bundle: Path, tmp_path: Path):
    """`make test-all` fetches the wheels beforehand; without them, pip's cache and index serve."""
    wheels = repository / "build" / "wheelhouse-optimum-0.1"
    source = ["--no-index", "--find-links", str(wheels)] if (wheels / ".filled").exists() else []
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", *source]
    run([*pip, "--target", str(tmp_path), "-r", str(repository / "tests" / "export" / "optimum-0.1.txt")], os.environ)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "MIMO_TESTS_SHARED": str(micro_bundle.parent),
    }
    files = ["tests/export/tools/test_optimum_text_encoder.py", "tests/benchmarks/test_latency.py"]
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "optimum", *files]
    assert "5 passed" in run([*pytest_run, "--rootdir", str(repository)], environment, repository)


def run(command: list[str], environment: dict[str, str] | os._Environ[str], folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
