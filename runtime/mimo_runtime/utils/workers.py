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
        threads: at most so many.
        name: of the threads.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads, self._name = threads, name
        self.restart()
        restart_in_child(self)

    def restart(self) -> None:
        """Start without threads."""
        self._pool = ThreadPoolExecutor(self._threads, self._name)

    def submit(self, function: Callable[[], Result]) -> Future[Result]:
        """Run ``function`` in a thread.

        Raises:
            EngineError: the pool is closed.
        """
        try:
            return self._pool.submit(function)
        except RuntimeError:  # the only way of an executor to say so
            raise EngineError("this Mimo is closed", "Load the bundle again") from None

    def close(self) -> None:
        """Wait for running work; nothing can be submitted afterwards."""
        self._pool.shutdown()
