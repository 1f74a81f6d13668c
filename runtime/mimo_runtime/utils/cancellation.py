"""The caller's wish to stop, for all threads of an answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

Result = TypeVar("Result")

#: Seconds between two calls of ``should_stop`` while the caller's thread waits.
POLL_INTERVAL = 0.01


class Cancelled(Exception):
    """Raised inside of an answer to leave its further work."""


class Cancellation:
    """Calls ``should_stop`` in the thread that consumes the answer, and shows the result to worker threads.

    Args:
        should_stop: None never stops.
    """

    def __init__(self, should_stop: Callable[[], bool] | None) -> None:
        self._should_stop = should_stop
        self._stopped = threading.Event()

    def is_stopped(self) -> bool:
        """Whether ``should_stop`` has returned True; for worker threads."""
        return self._stopped.is_set()

    def poll(self) -> bool:
        """Call ``should_stop``, unless it has returned True already."""
        if self._should_stop is not None and not self.is_stopped() and self._should_stop():
            self._stopped.set()
        return self.is_stopped()

    def wait(self, future: Future[Result]) -> Result:
        """The result of a future; ``should_stop`` is called until it is there."""
        while self._should_stop is not None and not self.is_stopped():
            try:
                return future.result(POLL_INTERVAL)
            except FutureTimeout:
                if future.done():
                    raise  # of the work itself
                self.poll()
        return future.result()
