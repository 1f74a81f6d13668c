"""The end of an answer before it is complete: by the caller's wish or by a deadline, for all threads of the answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

from ..errors import CancelledError, DeadlineError, PromptError
from .arguments import is_real
from .fork import Workers
from .messages import shown

Result = TypeVar("Result")

#: Seconds between two checks while a thread waits.
POLL_INTERVAL = 0.01
CANCELLED, DEADLINE = "cancelled", "deadline"
_REMEDY = "Use time.monotonic() plus the seconds that the answer may take"


class Cancelled(Exception):
    """Raised inside of an answer to leave its further work."""


class StopCheck:
    """Whether to stop, as one thread may find out. Call it.

    Args:
        is_stopped: checks; None never stops.
        workers: threads for work that the caller may leave; None runs it in the thread of the caller.
    """

    def __init__(self, is_stopped: Callable[[], bool] | None = None, workers: Workers | None = None) -> None:
        self._is_stopped, self._workers = is_stopped, workers

    def __repr__(self) -> str:
        return "StopCheck()" if self._is_stopped is None else "StopCheck(...)"

    def __call__(self) -> bool:
        return self._is_stopped is not None and self._is_stopped()

    @property
    def interval(self) -> float | None:
        """Seconds between two checks of a thread that waits; None if nothing can stop it."""
        return POLL_INTERVAL if self._is_stopped else None

    def check(self) -> None:
        """Go on.

        Raises:
            Cancelled: it is stopped.
        """
        if self():
            raise Cancelled

    def run(self, function: Callable[[], Result]) -> Result:
        """The result of ``function``, which runs in another thread if something can stop it.

        Raises:
            Cancelled: it is stopped. A function that runs at that moment ends in its thread, and its result is dropped.
        """
        self.check()
        future = self._workers.begin(function) if self._is_stopped and self._workers else None
        return function() if future is None else self.wait(future, leave=True)

    def wait(self, future: Future[Result], *, leave: bool = False) -> Result:
        """The result of a future, with checks while it is not there.

        Args:
            leave: do not wait for a function that runs when it is stopped.

        Raises:
            Cancelled: it is stopped, and the function had not begun, or ``leave``.
        """
        try:
            while True:
                try:
                    return future.result(self.interval)
                except FutureTimeout:
                    if future.done():
                        raise  # of the work itself
                if self() and (future.cancel() or leave):
                    raise Cancelled
        except FutureCancelled:
            raise Cancelled from None


#: For work that nothing stops.
NEVER = StopCheck()


class Cancellation:
    """Ends an answer. ``caller`` is for the thread that consumes it, ``worker`` for other threads.

    Args:
        should_stop: called in the thread that consumes the answer only; None never stops.
        deadline: a moment of ``time.monotonic()``; None never stops.
        workers: see :class:`StopCheck`.
    """

    def __init__(
        self, should_stop: Callable[[], bool] | None, deadline: float | None = None, workers: Workers | None = None
    ) -> None:
        self._should_stop, self._deadline = should_stop, deadline
        self._stopped = threading.Event()
        can_stop = should_stop is not None or deadline is not None
        self.caller = StopCheck(self._poll, workers) if can_stop else NEVER
        self.worker = StopCheck(self._is_stopped, workers) if can_stop else NEVER

    @property
    def reason(self) -> str | None:
        """The finish reason, "cancelled" or "deadline"; None while nothing stops the answer. The caller's wish comes first."""
        return CANCELLED if self._stopped.is_set() else DEADLINE if self._is_late() else None

    def error(self, work: str) -> CancelledError:
        """For work that has no partial result, e.g. "the image was opened"."""
        if self.reason == DEADLINE:
            return DeadlineError(f"the deadline passed before {work}", "Allow more time, or try again when fewer callers wait")
        return CancelledError(f"should_stop ended the call before {work}", "Call again to have the result")

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _is_stopped(self) -> bool:
        return self._stopped.is_set() or self._is_late()

    def _poll(self) -> bool:
        if self._should_stop is not None and not self._is_stopped() and self._should_stop():
            self._stopped.set()
        return self._is_stopped()


def check_stopping(should_stop: object, deadline: object) -> None:
    """Check the arguments of :class:`Cancellation`.

    Raises:
        PromptError: ``should_stop`` is no function, or ``deadline`` no number.
        DeadlineError: the deadline has passed.
    """
    if should_stop is not None and not callable(should_stop):
        raise PromptError(f"should_stop is a {type(should_stop).__name__}", "Pass a function without arguments")
    if deadline is None:
        return
    if not is_real(deadline):
        raise PromptError(f"deadline is {shown(deadline)}", _REMEDY)
    if (late := time.monotonic() - float(deadline)) >= 0:  # type: ignore[arg-type]
        raise DeadlineError(f"the deadline passed {1000 * late:.0f} ms before the call", _REMEDY)
