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
