"""A small phantom set and a trained micro checkpoint, once per test session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_runs import QUIET, micro_config

from mimo_train.data.phantom import generate
from mimo_train.training.log import TrainingLog
from mimo_train.training.trainer import fit


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Results must not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    generate(folder, 24, seed=5, size=96)
    return folder


@pytest.fixture(scope="session")
def trained(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of :func:`micro_config`, with its training state and curve: copy it before you change it."""
    return fit(micro_config(phantoms), tmp_path_factory.mktemp("fit") / "trained", **QUIET)


@pytest.fixture(autouse=True)
def _no_curve(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Drawing a curve takes longer than the few steps of a test; ``trained`` and test_log.py draw one."""
    if request.path.name != "test_log.py":
        monkeypatch.setattr(TrainingLog, "plot", lambda self: None)
