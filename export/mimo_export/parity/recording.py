"""The inputs that one graph gets while a chain answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from mimo_runtime.engines.base import Engine
from mimo_runtime.pipeline import Mimo

from .compare import ask
from .samples import Sample

Arrays = dict[str, np.ndarray]


class RecordingEngine(Engine):
    """An engine that keeps the inputs and the outputs of every call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self.calls: list[tuple[Arrays, Arrays]] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        outputs = self._engine.run(inputs)
        self.calls.append((_copies(inputs), _copies(outputs)))
        return outputs


def _copies(arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {name: np.array(value) for name, value in arrays.items()}


def record_calls(chain: Mimo, graph: str, samples: Iterable[Sample]) -> list[tuple[Arrays, Arrays]]:
    """Inputs and outputs of every call of one graph while a chain answers the samples."""
    recorder = RecordingEngine(chain.engines[graph])
    recording = Mimo(chain.config, {**chain.engines, graph: recorder}, chain.tokenizer)
    for sample in samples:
        ask(recording, sample)
    return recorder.calls
