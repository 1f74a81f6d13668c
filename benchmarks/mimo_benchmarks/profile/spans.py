"""Intervals of time with a cause, and which cause each moment of an answer belongs to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Span:
    """An interval in seconds of ``time.perf_counter``."""

    cause: str
    start: float
    end: float


class SpanRecorder:
    """Spans of the calls of functions, in any thread: appending to a list is atomic."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def add(self, cause: str, start: float) -> None:
        """A span from ``start`` to now."""
        self.spans.append(Span(cause, start, time.perf_counter()))

    def timed(self, cause: str, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """``function`` with a span for each of its calls."""

        @wraps(function)
        def recorded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.add(cause, start)

        return recorded


def attribute(start: float, end: float, spans: Iterable[Span], order: Sequence[str], rest: str) -> dict[str, float]:
    """Seconds from ``start`` to ``end`` by cause. They sum up to ``end - start``.

    Args:
        spans: may overlap, also with others of the same cause.
        order: the causes; a moment in spans of several belongs to the first of them.
        rest: the cause of moments in no span.
    """
    edges: list[tuple[float, int, str]] = []
    for span in spans:
        first, last = max(start, span.start), min(end, span.end)
        if last > first:
            edges += [(first, 1, span.cause), (last, -1, span.cause)]
    seconds = dict.fromkeys((*order, rest), 0.0)
    open_spans: Counter[str] = Counter()
    now = start
    for moment, step, cause in sorted(edges):
        seconds[next((name for name in order if open_spans[name]), rest)] += moment - now
        open_spans[cause] += step
        now = moment
    seconds[rest] += end - now
    return seconds
