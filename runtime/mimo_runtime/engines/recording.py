"""The inputs and outputs of the calls of an engine, for tools that compare and time graphs on real data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .base import Engine

Arrays = dict[str, np.ndarray]


class RecordingEngine(Engine):
    """Runs another engine, which it does not close.

    Attributes:
        calls: copies of the inputs and outputs of every call, in order.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self.calls: list[tuple[Arrays, Arrays]] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        before = _copies(inputs)
        outputs = self._engine.run(inputs)
        self.calls.append((before, _copies(outputs)))
        return outputs


def _copies(arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {name: np.array(value) for name, value in arrays.items()}
