"""Fixtures of the runtime's tests. ``fakes`` and ``onnx_bundle`` are in ``tests/support/models``."""

from __future__ import annotations

import fakes
import numpy as np
import pytest
from fake_clock import FakeClock


@pytest.fixture
def mimo():
    """A pipeline over numpy fakes; see ``fakes.fake_mimo``."""
    with fakes.fake_mimo() as pipeline:
        yield pipeline


@pytest.fixture
def clock(monkeypatch):
    """The clock of deadlines, which pass when the test says so; see ``FakeClock.deadline``."""
    from mimo_runtime.utils import cancellation

    fake = FakeClock()
    monkeypatch.setattr(cancellation, "time", fake)
    return fake


@pytest.fixture
def pixels():
    """uint8 [60, 100, 3]: black, with a bright rectangle x 30..70, y 20..40."""
    return fakes.picture()


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory):
    """A whole bundle of six tiny ONNX graphs, for reading only; copy it to change it."""
    pytest.importorskip("onnx")
    import onnx_bundle

    return onnx_bundle.write_bundle(tmp_path_factory.mktemp("bundle") / "fake")


@pytest.fixture
def image_file(tmp_path, pixels):
    from PIL import Image

    path = tmp_path / "scan.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def rng():
    return np.random.default_rng(0)
