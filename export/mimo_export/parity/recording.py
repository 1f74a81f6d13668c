"""The calls of one graph while a chain answers."""

from __future__ import annotations

from collections.abc import Iterable

from mimo_runtime.engines.recording import Arrays, RecordingEngine
from mimo_runtime.pipeline import Mimo

from .compare import ask
from .samples import Sample


def record_calls(chain: Mimo, graph: str, samples: Iterable[Sample]) -> list[tuple[Arrays, Arrays]]:
    """Inputs and outputs of every call of one graph while a chain answers the samples."""
    recorder = RecordingEngine(chain.engines[graph])
    recording = Mimo(chain.config, {**chain.engines, graph: recorder}, chain.tokenizer)
    for sample in samples:
        ask(recording, sample)
    return recorder.calls
