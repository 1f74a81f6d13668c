"""Fixtures of the calibration's tests: a few phantoms, and the graphs of the micro bundle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx_bundle import write_bundle
from quick_calibration import make_quick
from small_sets import write_phantoms

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.schema import TOKENIZER
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer


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
    """The graphs and the model of a bundle."""

    models: dict[str, onnx.ModelProto]
    config: MimoConfig
    tokenizer: Tokenizer


def open_chain(bundle: Path) -> Chain:
    opened = Bundle.open(bundle)
    models = {name: onnx.load_from_string(opened.bytes(entry.file)) for name, entry in opened.manifest.graphs.items()}
    return Chain(models, opened.config, Tokenizer.from_bytes(opened.bytes(TOKENIZER), TOKENIZER))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of hand-made graphs, written in a second; see ``onnx_bundle``."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "fake", golden=0)


@pytest.fixture(scope="session")
def chain(bundle: Path) -> Chain:
    """Hand-made graphs, for tests that quantize nothing."""
    return open_chain(bundle)


@pytest.fixture(scope="session")
def micro_chain(micro_bundle: Path) -> Chain:
    """The exported graphs of a small model, for slow tests."""
    return open_chain(micro_bundle)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)
