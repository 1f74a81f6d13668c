"""A micro checkpoint with random weights and the bundle built from it, made once per session: exporting takes a while."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import onnx
import pytest
import torch

from mimo_export import build as build_module
from mimo_export.build import build
from mimo_runtime.config import MimoConfig
from mimo_runtime.contracts import GraphContract
from mimo_runtime.evaluation import grammar
from mimo_runtime.tokenizer import Tokenizer
from mimo_train.checkpoint import save_checkpoint
from mimo_train.model import Mimo

ENTITIES = ("liver", "spleen", "aorta", "heart", "cyst")


def write_checkpoint(folder: Path, preset: str = "micro", seed: int = 0, **changes: object) -> Path:
    """A checkpoint of random weights, whose tokenizer knows the words of phantoms."""
    config = MimoConfig.from_preset(preset, entities=ENTITIES, **changes)
    texts = grammar.corpus(ENTITIES, ["ct", "mri", "xray", "ultrasound"], ["abdomen", "brain", "chest", "breast"])
    tokenizer = Tokenizer.train(texts, config.vocab_size, config.mask_decoder.queries)
    config = dataclasses.replace(config, vocab_size=tokenizer.size)
    torch.manual_seed(seed)
    save_checkpoint(folder, config, Mimo(config).state_dict(), tokenizer, "# random weights")
    return folder


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


def perturb(model: onnx.ModelProto, factor: float) -> None:
    """Scale the largest weight."""
    weight = max((w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT), key=lambda w: len(w.raw_data))
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * factor, weight.name))
