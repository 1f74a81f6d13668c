"""Requests that compute: a bounded queue over the runtime's gate, each with an end of its own."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from ..admission.gate import Gate
from ..errors import BusyError, MimoError, RequestError
from ..utils.cancellation import Cancellation

Result = TypeVar("Result")


class ClosingError(MimoError):
    """The service ends and takes no more work. Exit code 1."""


@dataclass(eq=False)
class Job:
    """A request that may compute.

    Args:
        id: by which a client ends it; a UUID.
        deadline: a moment of ``time.monotonic()``.
    """

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    deadline: float | None = None
    _stopped: threading.Event = field(default_factory=threading.Event, repr=False)

    def stop(self) -> None:
        """End it at the next check."""
        self._stopped.set()

    def is_stopped(self) -> bool:
        """Whether the client ended it; the ``should_stop`` of ``AskRequest`` and ``Mimo.open``."""
        return self._stopped.is_set()


class Jobs:
    """Runs work of requests in threads, ``max_callers`` at once; ``max_waiting`` more wait in the order of their arrival.

    Args:
        max_callers: requests that compute at once.
        max_waiting: requests that wait; one more is refused.
        longest_s: seconds that any request may take, the wait included.
    """

    def __init__(self, max_callers: int, max_waiting: int, longest_s: float) -> None:
        self.gate, self.longest_s = Gate(max_callers, max_waiting), longest_s
        self._most = max_callers + max_waiting
        self._pool = ThreadPoolExecutor(self._most, "mimo-jobs")
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._is_closing = False
        self._seconds = 1.0  # of recent jobs, for retry_after

    def __len__(self) -> int:
        return len(self._jobs)

    def new(self, job_id: str | None = None, seconds: float | None = None) -> Job:
        """A job that ends after ``seconds``, at the latest after ``longest_s``.

        Raises:
            RequestError: the id is no UUID, or the seconds are no time.
        """
        if seconds is not None and not 0 < seconds < 1e9:
            raise RequestError("the deadline is no time above 0", "Use milliseconds from the arrival of the request, e.g. 2000")
        deadline = time.monotonic() + min(self.longest_s, seconds or self.longest_s)
        if job_id is None:
            return Job(deadline=deadline)
        try:
            return Job(str(uuid.UUID(job_id)), deadline)
        except ValueError:
            raise RequestError("the id of the request is no UUID", "Make one with a library, or leave it out") from None

    @property
    def retry_after(self) -> int:
        """Seconds until a place in the queue is probably free, at least 1."""
        return max(1, round(self._seconds * (1 + self.gate.waiting) / self.gate.max_callers))

    async def run(self, job: Job, work: Callable[[], Result]) -> Result:
        """As :meth:`begin`, for a coroutine: the result. A coroutine that is cancelled ends the job."""
        future = self.begin(job, work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:  # nobody waits for the result
            job.stop()
            raise

    def begin(self, job: Job, work: Callable[[], Result]) -> Future[Result]:
        """Wait for a turn in a thread, and run ``work`` there. Threads may call it.

        Raises:
            BusyError: as many requests wait as may. Raised at once.
            ClosingError: the service ends.
            RequestError: a request with this id runs.
            DeadlineError, CancelledError: the wait ended before the turn came. Raised by the future.
        """
        with self._lock:
            if self._is_closing:
                raise ClosingError("the service is ending", "Ask another instance, or try again later")
            if len(self._jobs) >= self._most:
                raise BusyError(self.gate.running, self.gate.waiting)
            if job.id in self._jobs:
                raise RequestError("a request with this id runs", "Use a new id for every request")
            self._jobs[job.id] = job
            future = self._pool.submit(self._in_turn, job, work)
        future.add_done_callback(lambda _: self._jobs.pop(job.id))
        return future

    def _in_turn(self, job: Job, work: Callable[[], Result]) -> Result:
        cancellation = Cancellation(job.is_stopped, job.deadline)
        with self.gate.turn(cancellation.caller) as admitted:
            if not admitted or cancellation.caller():
                raise cancellation.error("the request had its turn")
            start = time.monotonic()
            try:
                return work()
            finally:
                self._seconds += 0.1 * (time.monotonic() - start - self._seconds)

    def cancel(self, job_id: str) -> bool:
        """End a request that waits or runs; False if there is none of this id."""
        job = self._jobs.get(job_id)
        if job is not None:
            job.stop()
        return job is not None

    def refuse_new(self) -> None:
        """Refuse all work from now on; what runs goes on."""
        self._is_closing = True  # without the lock: a signal handler may call it in a thread that holds it

    def stop_all(self) -> None:
        """End all requests at their next check; each gives what is complete."""
        for job in list(self._jobs.values()):
            job.stop()

    def close(self) -> None:
        """End all requests, and wait for their threads."""
        with self._lock:
            self._is_closing = True
        self.stop_all()
        self._pool.shutdown()
