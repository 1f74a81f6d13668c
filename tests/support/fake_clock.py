"""A clock that stands still between two steps of a test."""

from __future__ import annotations

from collections.abc import Callable

_DEADLINE, _LATE = 150.0, 200.0


class FakeClock:
    """In place of the module ``time``, or of one of its clocks: what passes on it is up to the test, not to the machine.

    Attributes:
        now: seconds.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self._is_late: Callable[[], bool] = lambda: False

    def __call__(self) -> float:
        if self._is_late():
            self.now = max(self.now, _LATE)
        return self.now

    monotonic = perf_counter = __call__

    def deadline(self, is_late: Callable[[], bool]) -> float:
        """A deadline that passes for good when ``is_late`` is true for the first time."""
        self.now, self._is_late = 100.0, is_late
        return _DEADLINE
