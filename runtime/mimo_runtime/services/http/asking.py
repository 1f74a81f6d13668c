"""``POST /v1/ask`` and ``DELETE /v1/requests/{id}``: a question about an image, whole or as events while it is answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...request import AskRequest
from ...results.answer import Answer, TextPiece
from ...scan import Scan
from ..host import Served
from ..jobs import Job
from ..store import StoredImage
from .answers import Answered, ServedAnswer, answer_json, to_bytes
from .bodies import AskBody, AskParts, in_thread, read_ask
from .errors import HttpError, error_body
from .openapi import Operation
from .service import Service, report

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

EVENTS = "text/event-stream"
#: Proxies would hold events back.
UNBUFFERED = {"X-Accel-Buffering": "no"}


OPERATIONS = (
    Operation(
        "POST", "/v1/ask", "Ask about an image.", AskBody, ServedAnswer, parts=("image", "mask"), media=(EVENTS,)
    ),
    Operation("DELETE", "/v1/requests/{id}", "End a request that waits or runs.", None, None, 204),
)  # fmt: skip


class AskRoutes:
    """Questions over the shared service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def routes(self) -> list[BaseRoute]:
        from starlette.routing import Route

        return [
            Route("/v1/ask", self.ask, methods=["POST"]),
            Route("/v1/requests/{id}", self.cancel, methods=["DELETE"]),
        ]

    async def ask(self, request: Request) -> Response:
        """The answer as JSON, or as events for ``Accept: text/event-stream``."""
        from starlette.responses import Response, StreamingResponse

        parts = await read_ask(request)
        image = await self._image(parts)
        check_objects(parts.body)
        if EVENTS in request.headers.get("accept", ""):
            job = self.service.job_of(request, parts.body.deadline_ms)
            first, events = await self.service.begin(request, job, self._events(parts, image, job))
            return StreamingResponse(_chained(first, events), media_type=EVENTS, headers=UNBUFFERED)

        def work(served: Served, job: Job) -> bytes:
            answered = self.answer(served, job, parts, image)
            return to_bytes(answer_json(answered, parts.body, job.id, self.service.scratch))

        content = await self.service.run(request, work, parts.body.deadline_ms)
        return Response(content, media_type="application/json")

    def answer(self, served: Served, job: Job, parts: AskParts, image: StoredImage) -> Answered:
        """The answer of the model, in the turn of a job."""
        scan, request = self._open(served, job, parts, image)
        *_, answer = self.service.counted(scan.stream_request(request))
        assert isinstance(answer, Answer)
        return Answered(served, image.id, scan, request, answer)

    def _open(self, served: Served, job: Job, parts: AskParts, image: StoredImage) -> tuple[Scan, AskRequest]:
        """The encoded image and the question. An image that can be read is stored."""
        request = parts.body.request(job, parts.mask)
        scan = self.service.store.open(served, image, parts.body.reading, job)
        self.service.store.keep(image)
        return scan, request

    async def _image(self, parts: AskParts) -> StoredImage:
        """The image that the request carries or names."""
        if parts.image is not None:
            if parts.body.image is not None:
                raise RequestError("the request has an image and the id of another", "Send one of them")
            return await in_thread(len(parts.image), StoredImage.of, parts.image)
        if parts.body.image is None:
            raise RequestError("the request has no image", "Send its id as 'image', or the file as the part 'image'")
        return self.service.store.get(parts.body.image)

    async def _events(self, parts: AskParts, image: StoredImage, job: Job) -> AsyncIterator[bytes]:
        """Events: ``request`` with the id, ``draft`` for every piece of the text, and last ``answer`` or ``error``."""

        def work(served: Served, job: Job) -> Iterator[bytes]:
            scan, request = self._open(served, job, parts, image)
            pieces = self.service.counted(scan.stream_request(request))
            yield event("request", {"request": job.id})
            for piece in pieces:
                if isinstance(piece, TextPiece):
                    yield event("draft", {"text": piece})
                else:
                    answered = Answered(served, image.id, scan, request, piece)
                    yield event("answer", answer_json(answered, parts.body, job.id, self.service.scratch))

        async for piece in self.service.stream(job, work):
            yield piece

    async def cancel(self, request: Request) -> Response:
        """End a request that waits or runs: 204, or 404 where there is none of this id."""
        from starlette.responses import Response

        if not self.service.jobs.cancel(request.path_params["id"]):
            raise HttpError(404, "no request of this id runs")
        return Response(status_code=204)


def check_objects(body: AskBody) -> None:
    """Refuse unknown formats before the work. Raises RequestError."""
    if body.objects:
        from ...clinical.writer import formats_of

        formats_of(",".join(body.objects))
    if not body.masks and (body.contours or body.objects):
        raise RequestError("contours and objects need masks", "Set masks to true, or leave them out")


def event(name: str, content: object) -> bytes:
    """A server-sent event with JSON."""
    return b"event: " + name.encode() + b"\ndata: " + to_bytes(content) + b"\n\n"


async def _chained(first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    try:
        async for piece in events:
            yield piece
    except Exception as error:
        report(error)
        yield event("error", error_body(error))
