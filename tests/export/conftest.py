"""A micro checkpoint with random weights and the bundle built from it, made once per session: exporting takes a while."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import onnx
import pytest
import torch

from mimo_export import build as build_module
from mimo_export.build import build
from mimo_runtime.contracts import GraphContract

sys.path.insert(0, str(Path(__file__).parent))

from random_weights import write_checkpoint  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "mimo-micro")


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: tests that change a bundle copy it."""
    return build(checkpoint, tmp_path_factory.mktemp("bundle") / "micro", parity_samples=7).path


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(bundle, tmp_path / "own"))


@pytest.fixture
def exported(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds take their graphs from the bundle that exists, instead of exporting them again: a second instead of a minute."""

    def read(module: torch.nn.Module, contract: GraphContract) -> onnx.ModelProto:
        return onnx.load(bundle / "graphs" / f"{contract.name}.onnx")

    monkeypatch.setattr(build_module, "export_graph", read)
