"""The micro checkpoint and bundle of the session, and a small request."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_benchmarks.request import Request, make_request
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_train.checkpoint import load_checkpoint
from mimo_train.model import Mimo


@pytest.fixture(scope="session")
def checkpoint(micro_checkpoint: Path) -> Path:
    return micro_checkpoint


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> tuple[Mimo, Tokenizer]:
    return load_checkpoint(checkpoint)


@pytest.fixture(scope="session")
def bundle(micro_bundle: Path) -> Path:
    return micro_bundle


@pytest.fixture(scope="session")
def request_() -> Request:
    # One whose random answer is valid UTF-8: a stream may replace broken bytes piece by piece, a whole text all at once.
    return make_request(text="aorta", seed=1, max_tokens=6)
