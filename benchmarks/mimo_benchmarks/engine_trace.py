"""Watching engines at work: when each ran, and which tokens the text decoder was given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from mimo_runtime.engines.base import Decoding, Engine

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class Watch:
    """What the engines of one contender did since the last :meth:`reset`. Times are seconds of ``time.perf_counter``."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        #: ``(graph, start, end)`` in order of ending. Appending is atomic, so engines may run in several threads.
        self.runs: list[tuple[str, float, float]] = []
        #: The tokens that the text decoder took, ``<bos>`` first.
        self.tokens: list[int] = []

    def wrap(self, graph: str, run: Run) -> Run:
        """``run``, watched; costs under a microsecond."""

        def watched(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            if graph == "text_decoder":
                self.tokens.append(int(inputs["token"][0, 0]))
            start = time.perf_counter()
            outputs = run(inputs)
            self.runs.append((graph, start, time.perf_counter()))
            return outputs

        return watched

    @property
    def engine_ms(self) -> float:
        """Milliseconds in which at least one engine ran."""
        return 1000 * covered((start, end) for _, start, end in self.runs)

    @property
    def decode_ms(self) -> float:
        """Milliseconds from the first token going in to the last logits coming out; 0 if no text was written."""
        spans = [(start, end) for graph, start, end in self.runs if graph == "text_decoder"]
        return 1000 * (max(end for _, end in spans) - min(start for start, _ in spans)) if spans else 0.0

    @property
    def graphs_ms(self) -> dict[str, list[float]]:
        """Milliseconds of every run by graph."""
        found: dict[str, list[float]] = {}
        for graph, start, end in self.runs:
            found.setdefault(graph, []).append(1000 * (end - start))
        return found


class WatchedEngine(Engine):
    """An engine whose runs and steps a :class:`Watch` sees."""

    def __init__(self, engine: Engine, graph: str, watch: Watch) -> None:
        self._engine, self._graph, self._watch = engine, graph, watch
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self._run = watch.wrap(graph, engine.run)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._run(inputs)

    def decoding(self, constant: Mapping[str, np.ndarray]) -> Decoding:
        decoding = self._engine.decoding(constant)
        decoding.step = self._watch.wrap(self._graph, decoding.step)
        return decoding

    def close(self) -> None:
        self._engine.close()


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals ``(start, end)``: engines that run side by side count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total
