"""What the routes of an application share, and how work of a request runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from ...errors import MimoError, RequestError
from ...results.answer import Answer, TextPiece
from ..host import ModelHost, Served
from ..jobs import Job, Jobs
from ..logs import log_failure
from ..metrics import Metrics
from ..settings import ServerSettings
from ..store import ImageStore
from .openapi import Operation

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

Result = TypeVar("Result")
Piece = TypeVar("Piece")


@dataclass(eq=False)
class Service:
    """What routes share.

    Args:
        host: the model.
        settings: limits.
        store: images and their encodings.
        jobs: who computes now.
        metrics: what is counted.
        scratch: a private folder for temporary files; None is the system's.
    """

    host: ModelHost
    settings: ServerSettings
    store: ImageStore
    jobs: Jobs
    metrics: Metrics
    scratch: Path | None = None

    async def run(self, request: Request, work: Callable[[Served, Job], Result], deadline_ms: float | None = None) -> Result:
        """Run ``work`` in a thread when its turn comes, with the model, until the client leaves, cancels or time runs out.

        Read the body of the request before: this waits for the client's end of the connection.

        Args:
            work: takes the model in service and the job whose ``is_stopped`` and ``deadline`` end it.
            deadline_ms: milliseconds from now; see :func:`deadline_of`.

        Raises:
            BusyError, NotReadyError, ClosingError, DeadlineError, CancelledError: it did not run.
        """
        job = self.job_of(request, deadline_ms)
        leaving = asyncio.create_task(_stop_when_gone(request, job))
        try:
            return await self.jobs.run(job, lambda: self._with_model(work, job))
        finally:
            leaving.cancel()

    def job_of(self, request: Request, deadline_ms: float | None) -> Job:
        """A job with the id of the request and the earlier of its deadlines.

        Raises:
            RequestError: the id or a deadline is invalid.
        """
        times = [ms for ms in (deadline_ms, deadline_of(request)) if ms is not None]
        return self.jobs.new(request.scope["mimo.request"], min(times) / 1000 if times else None)

    async def stream(self, job: Job, work: Callable[[Served, Job], Iterator[Piece]]) -> AsyncIterator[Piece]:
        """The pieces of ``work``, which runs in a thread; leaving the iteration ends the job.

        Raises:
            As :meth:`run`, by the first step.
        """
        pipe: _Pipe[Piece] = _Pipe(asyncio.get_running_loop())

        def feed(served: Served, job: Job) -> None:
            for piece in work(served, job):
                pipe.put(piece)

        running = asyncio.create_task(self.jobs.run(job, lambda: self._with_model(feed, job)))
        running.add_done_callback(pipe.end)
        try:
            async for piece in pipe:
                yield piece
            await running
        finally:
            job.stop()
            with contextlib.suppress(BaseException):
                await running

    async def begin(self, request: Request, job: Job, events: AsyncIterator[Piece]) -> tuple[Piece, AsyncIterator[Piece]]:
        """The first of some events and the others: an error before the first is a status, not an event.

        Args:
            job: that makes the events; it ends if the client leaves before the first one.
        """
        leaving = asyncio.create_task(_stop_when_gone(request, job))
        try:
            return await events.__anext__(), events
        finally:
            leaving.cancel()

    def counted(self, pieces: Iterator[TextPiece | Answer]) -> Iterator[TextPiece | Answer]:
        """The pieces of ``Scan.stream_request``, whose answer is counted."""
        for piece in pieces:
            if isinstance(piece, Answer):
                self.metrics.count_answer(piece)
            yield piece

    def _with_model(self, work: Callable[[Served, Job], Result], job: Job) -> Result:
        with self.host.use() as served:
            self.store.serve(served.generation)
            return work(served, job)


class _Pipe(Generic[Piece]):
    """From a thread to a coroutine."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[tuple[Piece] | None] = asyncio.Queue()

    def put(self, piece: Piece) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (piece,))

    def end(self, work: asyncio.Task[None]) -> None:
        self._queue.put_nowait(None)
        if not work.cancelled():
            work.exception()  # seen, also where nobody waits for it any more

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while (item := await self._queue.get()) is not None:
            yield item[0]


def report(error: Exception) -> None:
    """Log an exception that ends a stream of events, if it is no refusal."""
    if not isinstance(error, MimoError):
        log_failure("", error)


async def _stop_when_gone(request: Request, job: Job) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.stop()


def deadline_of(request: Request) -> float | None:
    """Milliseconds of the header ``X-Deadline-Ms``; None without it.

    Raises:
        RequestError: it is no number.
    """
    text = request.headers.get("x-deadline-ms")
    try:
        return None if text is None else float(text[:20])
    except ValueError:
        raise RequestError("X-Deadline-Ms is no number", "Send milliseconds, e.g. 2000") from None


@dataclass(frozen=True)
class Adapter:
    """A protocol of the service: routes over the shared model, images and queue.

    Args:
        routes: makes them.
        open_paths: paths that are answered without an API key; one that ends in "/" stands for all that begin so.
        operations: what /openapi.json says of the routes.
        close: called at the end of the service.
    """

    routes: Callable[[Service], Sequence[BaseRoute]]
    open_paths: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()
    close: Callable[[], None] | None = None
