"""Milliseconds by stage."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


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

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[stage] += (time.perf_counter() - start) * 1000

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
