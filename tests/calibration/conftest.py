"""Fixtures of the calibration's tests: a few phantoms, and the graphs of the micro bundle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from small_sets import write_phantoms


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See ``write_phantoms``; read only."""
    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms")


@pytest.fixture
def own_data(data: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(data, tmp_path / "own"))


class Chain(NamedTuple):
    """What a calibration starts from."""

    models: dict[str, onnx.ModelProto]
    config: Any
    tokenizer: Any


@pytest.fixture(scope="session")
def chain(micro_bundle: Path) -> Chain:
    from mimo_runtime.bundle.archive import Bundle
    from mimo_runtime.bundle.schema import TOKENIZER
    from mimo_runtime.model.tokenizer import Tokenizer

    opened = Bundle.open(micro_bundle)
    models = {name: onnx.load_from_string(opened.bytes(entry.file)) for name, entry in opened.manifest.graphs.items()}
    return Chain(models, opened.config, Tokenizer.from_bytes(opened.bytes(TOKENIZER), TOKENIZER))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    from quick_calibration import make_quick

    make_quick(monkeypatch)
