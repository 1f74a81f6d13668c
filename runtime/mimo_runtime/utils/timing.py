"""Milliseconds by stage."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class Stage:
    """Adds the milliseconds between its begin and its end to those of a stage.

    A context made of a generator takes longer, and every token of a text has one.
    """

    __slots__ = ("_ms", "_stage", "_start")

    def __init__(self, ms: dict[str, float], stage: str) -> None:
        self._ms, self._stage = ms, stage

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._ms[self._stage] += (time.perf_counter() - self._start) * 1000


class StageTimer:
    """Adds up the milliseconds of each stage. Two threads may time different stages at once.

    Args:
        stages: in the order of the report.
    """

    def __init__(self, stages: Iterable[str]) -> None:
        self.ms = dict.fromkeys(stages, 0.0)
        self._start = time.perf_counter()

    def resume(self) -> StageTimer:
        """Count the total on from the sum of the stages so far, without the time between them."""
        self._start = time.perf_counter() - sum(self.ms.values()) / 1000
        return self

    def report(self) -> dict[str, float]:
        """The stages, and the ``total``."""
        return {**self.ms, "total": (time.perf_counter() - self._start) * 1000}

    def __call__(self, stage: str) -> Stage:
        """A context whose duration counts for the stage."""
        return Stage(self.ms, stage)

    def each(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """The same items, with the time to produce each of them counted, and not what happens between them."""
        iterator = iter(items)
        end = object()
        while True:
            with self(stage):
                item = next(iterator, end)
            if item is end:
                return
            yield item  # type: ignore[misc]
