"""Cached outputs are not computed again, and are the same."""

from __future__ import annotations

import numpy as np
import pytest

from mimo_calibration.search.caching_engine import CachingEngine
from mimo_runtime.engines.base import Engine
from mimo_runtime.model.graph_spec import Tensor


class Doubles(Engine):
    name = "fake"
    inputs = {"x": Tensor("x", "float32", ("batch", 4))}
    outputs = {"y": Tensor("y", "float32", ("batch", 4))}

    def __init__(self) -> None:
        self.calls, self.closed = 0, False

    def run(self, inputs):
        self.calls += 1
        return {"y": 2 * inputs["x"]}

    def close(self) -> None:
        self.closed = True


def image(value: float) -> dict[str, np.ndarray]:
    return {"x": np.full((1, 4), value, np.float32)}


def test_the_same_inputs_run_once():
    inner = Doubles()
    engine = CachingEngine(inner)
    for _ in range(3):
        for value in (1.0, 2.0):
            np.testing.assert_array_equal(engine.run(image(value))["y"], np.full((1, 4), 2 * value))
    assert inner.calls == 2
    engine.run({"x": np.full((1, 4), 1.0, np.float64)})  # other bytes, though the same numbers
    engine.run({"x": np.full((2, 2), 1.0, np.float32)})  # the same bytes in another shape
    assert inner.calls == 4
    engine.close()
    assert inner.closed


def test_nobody_can_change_what_is_remembered():
    engine = CachingEngine(Doubles())
    for _ in range(2):
        with pytest.raises(ValueError, match="read-only"):
            engine.run(image(1.0))["y"][:] = 0
    engine.run(image(1.0)).clear()
    assert set(engine.run(image(1.0))) == {"y"}


def test_what_does_not_fit_is_computed_again_and_displaces_nothing():
    inner = Doubles()
    engine = CachingEngine(inner, capacity=2 * 16)  # two images
    for _ in range(2):
        for value in (1.0, 2.0, 3.0):
            engine.run(image(value))
    assert inner.calls == 4  # 1, 2, 3, and 3 again
