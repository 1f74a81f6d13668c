"""Latency of several engines of one graph, measured in turn, so that other load on the machine affects all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mimo_runtime.engines.base import Engine
from mimo_runtime.model.graph_spec import CACHE_PREFIX, CAUSAL_BIAS

Run = Callable[[Mapping[str, np.ndarray]], object]

#: Steps of a timed answer: about as many as answers have words.
STEPS = 24


def graph_times(
    engines: Mapping[str, Engine], calls: Sequence[Mapping[str, np.ndarray]], *, seconds: float = 4.0
) -> dict[str, float]:
    """Median milliseconds per run of one graph on several engines, by name; of a graph with a cache, per step of an answer.

    Args:
        calls: inputs of runs in the pipeline. Their KV cache is not used: an answer begins with an empty one.
        seconds: about how long to measure.
    """
    cached = any(name.startswith(CACHE_PREFIX) for engine in engines.values() for name in engine.inputs)
    if not cached:
        return interleaved({name: engine.run for name, engine in engines.items()}, calls, seconds=seconds)
    times = interleaved({name: answer_of(engine) for name, engine in engines.items()}, calls, seconds=seconds)
    return {name: ms / STEPS for name, ms in times.items()}


def answer_of(engine: Engine) -> Run:
    """A run of :data:`STEPS` decoding steps, always with the same token."""

    def answer(inputs: Mapping[str, np.ndarray]) -> None:
        changing = {"token": inputs["token"][:, :1], "position": np.zeros_like(inputs["position"][:, :1])}
        own = {name: value for name, value in inputs.items() if name in engine.inputs and name not in changing}
        bias = own.pop(CAUSAL_BIAS, None)
        decoding = engine.decoding({name: value for name, value in own.items() if not name.startswith(CACHE_PREFIX)})
        for step in range(STEPS):
            if bias is not None:  # every token before this one is visible
                changing[CAUSAL_BIAS] = np.zeros((len(bias), 1, step + 1), bias.dtype)
            decoding.step(changing)
            changing["position"] += 1
        decoding.close()

    return answer


def interleaved(
    runs: Mapping[str, Run], inputs: Sequence[Mapping[str, np.ndarray]], *, seconds: float = 4.0, least: int = 12
) -> dict[str, float]:
    """Median milliseconds per run, by name.

    Args:
        runs: by name.
        inputs: of the runs, in turn.
        seconds: about how long to measure.
        least: every contender runs at least so often.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for arrays in inputs[:2]:
            run(arrays)
    start, turn = time.perf_counter(), 0
    while turn < least or (time.perf_counter() - start < seconds and turn < 400):
        arrays = inputs[turn % len(inputs)]
        # The order alternates, so that no contender always runs behind the same other one.
        names = list(runs) if turn % 2 else list(runs)[::-1]
        for name in names:
            begin = time.perf_counter()
            runs[name](arrays)
            taken[name].append((time.perf_counter() - begin) * 1000)
        turn += 1
    return {name: float(np.median(values)) for name, values in taken.items()}
