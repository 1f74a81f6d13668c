"""A small phantom set and a micro checkpoint, made once per test session."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mimo_train.data.phantom import generate


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Results must not depend on how many cores the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    generate(folder, 24, seed=5, size=96)
    return folder
