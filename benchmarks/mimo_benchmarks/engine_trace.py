"""A trace of engine runs: when each ran, and which tokens the text decoder took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from mimo_runtime.engines.base import Decoding, Engine

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class EngineTrace:
    """The runs of the engines of one contender since the last :meth:`reset`. Times are seconds of ``time.perf_counter``."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        #: ``(graph, start, end)`` in order of ending. Appending is atomic, so engines may run in several threads.
        self.runs: list[tuple[str, float, float]] = []
        #: The tokens that the text decoder read of the answer, ``<bos>`` first; without drafted ones that were wrong.
        self.tokens: list[int] = []

    def wrap(self, graph: str, run: Run) -> Run:
        """``run`` with a trace; costs under a microsecond."""

        def traced(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            if graph == "text_decoder":
                self.tokens[int(inputs["position"][0, 0]) :] = inputs["token"][0].tolist()
            start = time.perf_counter()
            outputs = run(inputs)
            self.runs.append((graph, start, time.perf_counter()))
            return outputs

        return traced

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
        times: dict[str, list[float]] = {}
        for graph, start, end in self.runs:
            times.setdefault(graph, []).append(1000 * (end - start))
        return times


class TracedEngine(Engine):
    """An engine whose runs and steps are recorded in an :class:`EngineTrace`."""

    def __init__(self, engine: Engine, graph: str, trace: EngineTrace) -> None:
        self._engine, self._graph, self._trace = engine, graph, trace
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self.speculation = engine.speculation
        self._run = trace.wrap(graph, engine.run)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._run(inputs)

    def decoding(self, constant: Mapping[str, np.ndarray]) -> Decoding:
        decoding = self._engine.decoding(constant)
        decoding.step = self._trace.wrap(self._graph, decoding.step)
        decoding.keep = self._keeping(decoding.keep)
        return decoding

    def _keeping(self, keep: Callable[[int], None]) -> Callable[[int], None]:
        """``keep`` of an answer, which also takes wrong tokens out of the trace."""

        def traced(length: int) -> None:
            start = time.perf_counter()
            keep(length)
            self._trace.runs.append((self._graph, start, time.perf_counter()))
            del self._trace.tokens[length:]

        return traced

    def close(self) -> None:
        self._engine.close()


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals ``(start, end)``: engines that run side by side count once."""
    total, last_end = 0.0, float("-inf")
    for start, end in sorted(spans):
        if end > last_end:
            total += end - max(start, last_end)
            last_end = end
    return total
