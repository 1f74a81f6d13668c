"""Worker threads that also work in a forked child."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ..errors import EngineError
from .fork import restart_in_child

Result = TypeVar("Result")


class Workers:
    """A pool of threads. A fork copies a pool without its threads, and a child would wait for ever: it gets a new pool.

    Args:
        threads: at most so many; with one, nothing runs beside the caller.
        name: of the threads.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads, self._name = threads, name
        self.restart()
        restart_in_child(self)

    def restart(self) -> None:
        """Start without threads."""
        self._pool = ThreadPoolExecutor(self._threads, self._name)

    def begin(self, function: Callable[[], Result]) -> Future[Result] | None:
        """Run ``function`` in a thread; None for a single thread: on one core it would only delay the caller.

        Raises:
            EngineError: the pool is closed.
        """
        if self._threads < 2:
            return None
        try:
            return self._pool.submit(function)
        except RuntimeError:  # the only way of an executor to say so
            raise EngineError("this Mimo is closed", "Load the bundle again") from None

    def close(self) -> None:
        """Wait for running work; nothing can be submitted afterwards."""
        self._pool.shutdown()
