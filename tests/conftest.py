"""What every test shares. Fixtures of one package live in that package's folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Small models on few cores: more threads only wait for each other, and one thread gives the same sums every time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Nothing may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def micro_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest checkpoint with every part of the model, with random weights."""
    torch = pytest.importorskip("torch")
    from mimo_runtime.config import MimoConfig
    from mimo_runtime.evaluation.grammar import corpus
    from mimo_runtime.tokenizer import Tokenizer
    from mimo_train.checkpoint import save_checkpoint
    from mimo_train.model import Mimo

    torch.manual_seed(0)
    config = MimoConfig.from_preset("micro", entities=("liver", "spleen", "aorta"))
    texts = corpus(config.entities, ("ct", "mri"), ("abdomen", "brain"))
    tokenizer = Tokenizer.train(texts, config.vocab_size, config.mask_decoder.queries)
    folder = tmp_path_factory.mktemp("checkpoint") / "micro"
    save_checkpoint(folder, config, Mimo(config).state_dict(), tokenizer, "# For tests: random weights\n")
    return folder


@pytest.fixture(scope="session")
def micro_bundle(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that the exporter built from :func:`micro_checkpoint`. Costs half a minute, once a session: do not change it."""
    pytest.importorskip("onnx")
    from mimo_export.build import build

    return build(micro_checkpoint, tmp_path_factory.mktemp("bundle") / "micro", parity_samples=2).path
