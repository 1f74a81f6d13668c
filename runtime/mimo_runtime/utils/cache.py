"""A bounded cache that computes each value once, also when several threads ask for it at the same time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from .fork import restart_in_child
from .log import LOGGER

Value = TypeVar("Value")


class LruCache(Generic[Value]):
    """The ``capacity`` most recently used values. Capacity 0 keeps nothing. Safe to use from many threads.

    Args:
        name: of what is kept, for the log.
    """

    def __init__(self, capacity: int, name: str = "values") -> None:
        self.capacity, self.name = capacity, name
        self._values: OrderedDict[Hashable, Future[Value]] = OrderedDict()
        self._lock = threading.Lock()
        restart_in_child(self)

    def restart(self) -> None:
        """Forget what was being computed: the threads that do so are not in this process."""
        self._lock = threading.Lock()
        for key in [key for key, future in self._values.items() if not future.done()]:
            del self._values[key]

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], Value]) -> tuple[Value, bool]:
        """The value of ``key`` and whether it was there already; otherwise ``make`` computes it.

        A thread that asks while another computes the same value waits for it. What ``make`` raises is raised to all who
        wait, and nothing is kept.
        """
        with self._lock:
            known = key in self._values
            future: Future[Value] = self._values[key] if known else Future()
            if known:
                self._values.move_to_end(key)
            else:
                if self.capacity > 0:
                    self._values[key] = future
                    while len(self._values) > self.capacity:
                        self._values.popitem(last=False)
                        LOGGER.debug("cache of %s is full: the oldest of %d is removed", self.name, self.capacity)
        if not known:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    if self._values.get(key) is future:
                        del self._values[key]
                future.set_exception(error)
        return future.result(), known

    def peek(self, key: Hashable) -> Value | None:
        """The value of ``key`` if it is there, complete; None otherwise, also while a thread computes it."""
        with self._lock:
            future = self._values.get(key)
            if future is None or not future.done() or future.exception() is not None:
                return None
            self._values.move_to_end(key)
            return future.result()

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
