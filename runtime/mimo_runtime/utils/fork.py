"""What a forked child has to make anew: threads are not copied by a fork, and a lock may be held by one of them."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from ..errors import EngineError

Result = TypeVar("Result")


class Restartable(Protocol):
    """What :func:`restart_in_child` takes."""

    def restart(self) -> None:
        """Make threads and locks anew."""


_OBJECTS: weakref.WeakSet[Restartable] = weakref.WeakSet()


def restart_in_child(instance: Restartable) -> None:
    """Call ``instance.restart()`` in every process that is forked from now on, as long as the instance lives."""
    _OBJECTS.add(instance)


def _restart() -> None:
    for instance in list(_OBJECTS):
        instance.restart()


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


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_restart)
