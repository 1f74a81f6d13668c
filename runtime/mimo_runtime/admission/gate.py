"""A gate for many callers: some run, some wait in the order of their arrival, the others are refused at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import BusyError, RequestError
from ..utils.arguments import is_whole
from ..utils.cancellation import NEVER, StopCheck
from ..utils.fork import restart_in_child
from ..utils.messages import short


class _Ticket:
    """One call; ``admitted`` is set when its turn comes."""

    def __init__(self, thread: int) -> None:
        self.thread, self.admitted = thread, threading.Event()


class Gate:
    """At most ``max_callers`` calls run at once. A thread that runs already passes again, and counts once more.

    Args:
        max_callers: calls that run at once.
        max_waiting: calls that wait; one more raises ``BusyError``.

    Raises:
        RequestError: a limit is no whole number, or ``max_callers`` is below 1, or ``max_waiting`` below 0.
    """

    def __init__(self, max_callers: int, max_waiting: int = 16) -> None:
        for name, value, least in (("max_callers", max_callers, 1), ("max_waiting", max_waiting, 0)):
            if not is_whole(value) or value < least:
                raise RequestError(f"{name} is {short(value)}", f"Use a whole number of at least {least}")
        self.max_callers, self.max_waiting = max_callers, max_waiting
        self.restart()
        restart_in_child(self)

    def restart(self) -> None:
        """Forget all calls: their threads are not in a forked child."""
        self._lock = threading.Lock()
        self._running: set[_Ticket] = set()
        self._waiting: deque[_Ticket] = deque()

    @property
    def running(self) -> int:
        """Calls that run."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return len(self._waiting)

    @contextmanager
    def turn(self, stop: StopCheck | None = None) -> Iterator[bool]:
        """Wait for a turn, and keep it within the context. False, without a turn, if ``stop`` ends the wait.

        Args:
            stop: checked every 10 ms while the call waits; None waits as long as it takes.

        Raises:
            BusyError: as many calls wait as may.
        """
        ticket, stop = _Ticket(threading.get_ident()), stop or NEVER
        try:
            self._enter(ticket)
            while not (admitted := ticket.admitted.wait(stop.interval)) and not stop():
                pass
            if not admitted:
                self._leave(ticket)
            yield admitted
        finally:
            self._leave(ticket)

    def _enter(self, ticket: _Ticket) -> None:
        with self._lock:
            is_free = len(self._running) < self.max_callers and not self._waiting
            if is_free or any(other.thread == ticket.thread for other in self._running):
                self._running.add(ticket)
                ticket.admitted.set()
            elif len(self._waiting) < self.max_waiting:
                self._waiting.append(ticket)
            else:
                raise BusyError(len(self._running), len(self._waiting))

    def _leave(self, ticket: _Ticket) -> None:
        """End a call that runs or waits, and admit those that waited longest."""
        with self._lock:
            self._running.discard(ticket)
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            while self._waiting and len(self._running) < self.max_callers:
                following = self._waiting.popleft()
                self._running.add(following)
                following.admitted.set()
