"""The record of an engine's calls."""

from __future__ import annotations

import numpy as np

from mimo_runtime.engines.recording import RecordingEngine


def test_the_recording_keeps_what_an_engine_was_called_with():
    class Doubling:
        name, inputs, outputs = "doubling", {}, {}

        def run(self, inputs):
            return {"y": inputs["x"] * 2}

    engine, x = RecordingEngine(Doubling()), np.ones(2)
    engine.run({"x": x})
    x[:] = 9
    assert engine.calls[0][0]["x"].tolist() == [1, 1] and engine.calls[0][1]["y"].tolist() == [2, 2]
