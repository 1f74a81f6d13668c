"""A micro model with random weights, as a checkpoint and as a bundle, made once per test session."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from mimo_benchmarks.request import Request, make_request
from mimo_runtime.config import MimoConfig
from mimo_runtime.evaluation.grammar import corpus
from mimo_runtime.tokenizer import Tokenizer
from mimo_train.checkpoint import save_checkpoint
from mimo_train.model import Mimo


@pytest.fixture(scope="session")
def model() -> tuple[Mimo, Tokenizer]:
    torch.manual_seed(3)
    config = MimoConfig.from_preset("micro", entities=("liver", "spleen"))
    tokenizer = Tokenizer.train(corpus(config.entities, ("ct",), ("abdomen",)), config.vocab_size, config.mask_decoder.queries)
    return Mimo(dataclasses.replace(config, vocab_size=tokenizer.size)).eval(), tokenizer


@pytest.fixture(scope="session")
def checkpoint(model: tuple[Mimo, Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks") / "random-micro"
    save_checkpoint(folder, model[0].config, model[0].state_dict(), model[1], "random")
    return folder


@pytest.fixture(scope="session")
def bundle(checkpoint: Path) -> Path:
    """Takes about half a minute of CPU."""
    from mimo_export.build import build

    return build(checkpoint, checkpoint.with_name("bundle"), parity_samples=2).path


@pytest.fixture(scope="session")
def request_() -> Request:
    return make_request(text="the liver", seed=1, max_tokens=6)
