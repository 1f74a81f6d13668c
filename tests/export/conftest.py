"""The micro checkpoint and bundle of the session, under the names that these tests use."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
import torch

from mimo_export import stages
from mimo_runtime.model.graph_spec import GraphSpec


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(micro_checkpoint: Path) -> Path:
    return micro_checkpoint


@pytest.fixture(scope="session")
def bundle(micro_bundle: Path) -> Path:
    """Read only: tests that change a bundle copy it."""
    return micro_bundle


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(bundle, tmp_path / "own"))


@pytest.fixture
def exported(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds take their graphs from the bundle that exists, instead of exporting them again: a second instead of a minute."""

    def read(module: torch.nn.Module, spec: GraphSpec) -> onnx.ModelProto:
        return onnx.load(bundle / "graphs" / f"{spec.name}.onnx")

    monkeypatch.setattr(stages, "export_graph", read)
