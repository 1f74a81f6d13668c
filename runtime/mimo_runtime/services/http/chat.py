"""``/v1/chat/completions`` and ``/v1/models``: the protocol of OpenAI's clients, with a ``grounding`` for the masks.

The last message of the user is the question; the model keeps no conversation. An image comes in the request, as a ``data:``
address: addresses of other machines are not fetched.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

from ...errors import RequestError
from ...results.answer import Answer, TextPiece
from ...scan import Scan
from ..host import Served
from ..jobs import Job
from ..store import StoredImage
from .answers import ServedFinding, finding_json, to_bytes
from .asking import EVENTS, UNBUFFERED
from .bodies import AskBody, MaskFormat, RunLengthMask, decode_base64, in_thread
from .errors import HttpError, error_body
from .fields import read_json
from .openapi import Operation
from .service import Adapter, Service, report

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

_DATA = "data:"


@dataclass(frozen=True)
class ImageUrl:
    """An image inside of the request.

    Args:
        url: "data:image/png;base64,…"; also of other files that the service reads, e.g. "data:application/dicom;base64,…".
        detail: has no effect.
    """

    url: str
    detail: str | None = None


@dataclass(frozen=True)
class ContentPart:
    """A part of a message.

    Args:
        type: of the part.
        text: of a text.
        image_url: of an image.
    """

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


@dataclass(frozen=True)
class ChatMessage:
    """A message.

    Args:
        role: who wrote it. Only messages of the user are read.
        content: a text, or texts and one image.
        name: has no effect.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[ContentPart, ...] | None = None
    name: str | None = None


@dataclass(frozen=True)
class GroundingBody:
    """Where the question points, and how masks come back.

    Args:
        boxes: each [x0, y0, x1, y1] in pixels of the image.
        points: each [x, y] or [x, y, label], label 1 on the target, 0 not on it.
        mask: a rough mask of the target: run lengths, or a PNG in base64.
        mask_format: of the masks in the answer.
        contours: whether each finding has its contours, too.
        refine: whether small targets are refined.
        any_domain: answer about images unlike those of the training, too.
        frame: of a multi-frame file, or slice of a volume; from 0.
        modality: of an image that does not state it.
        window: centre and width for grey values.
        deadline_ms: milliseconds from the arrival of the request.
    """

    boxes: tuple[tuple[float, ...], ...] = ()
    points: tuple[tuple[float, ...], ...] = ()
    mask: RunLengthMask | str | None = None
    mask_format: MaskFormat = "rle"
    contours: bool = False
    refine: bool = True
    any_domain: bool = False
    frame: int = 0
    modality: str | None = None
    window: tuple[float, float] | None = None
    deadline_ms: float | None = None


@dataclass(frozen=True)
class ChatBody:
    """A chat completion.

    Args:
        messages: with one image in all.
        model: id of the model in service; "" is that one.
        stream: events while the answer is written; the last has the sentence and the grounding.
        max_tokens: longest sentence in tokens.
        max_completion_tokens: the newer name of max_tokens.
        temperature: 0, the default, takes the most probable sentence.
        top_p: sample among the most probable tokens of this sum.
        seed: of the sampling.
        n: one answer.
        user: has no effect, and is not logged.
        grounding: of this service.
    """

    messages: tuple[ChatMessage, ...]
    model: str = ""
    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    n: int = 1
    user: str | None = None
    grounding: GroundingBody = GroundingBody()

    def question(self) -> AskBody:
        """The question of the last message of the user.

        Raises:
            RequestError: there is none.
        """
        texts = [texts_of(message) for message in self.messages if message.role == "user"]
        text = next((text for text in reversed(texts) if text), "")
        if self.n != 1:
            raise RequestError("more than one answer is asked for", "Set n to 1")
        place = self.grounding
        return AskBody(
            text=text, boxes=place.boxes, points=place.points, mask=place.mask, frame=place.frame, modality=place.modality,
            window=place.window, refine=place.refine, any_domain=place.any_domain,
            max_tokens=self.max_completion_tokens or self.max_tokens, temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p, seed=self.seed or 0, deadline_ms=place.deadline_ms,
            mask_format=place.mask_format, contours=place.contours,
        )  # fmt: skip

    def image(self) -> bytes:
        """The file of the image.

        Raises:
            RequestError: there is none, more than one, or it lies elsewhere.
        """
        urls = [
            part.image_url.url
            for message in self.messages if message.role == "user" and not isinstance(message.content, str)
            for part in message.content or () if part.image_url is not None
        ]  # fmt: skip
        if len(urls) != 1:
            raise RequestError(f"the messages have {len(urls)} images", "Send one as image_url")
        return decode_data_url(urls[0])


class ChatMessageJson(TypedDict):
    """The answer: the sentence without markup, and where its structures are."""

    role: str
    content: str
    refusal: str | None
    grounding: list[ServedFinding]


class ChatChoiceJson(TypedDict):
    """The only choice."""

    index: int
    message: ChatMessageJson
    finish_reason: str


class ChatJson(TypedDict):
    """A chat completion."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoiceJson]
    warnings: list[str]


class ListedModelJson(TypedDict):
    """A model."""

    id: str
    object: str
    owned_by: str


class ModelsJson(TypedDict):
    """The model in service, in a list."""

    object: str
    data: list[ListedModelJson]


class ChatRoutes:
    """OpenAI's protocol over the shared service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def routes(self) -> list[BaseRoute]:
        from starlette.routing import Route

        return [
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
        ]

    async def models(self, request: Request) -> Response:
        """The model in service."""
        from starlette.responses import JSONResponse

        with self.service.host.use() as served:
            content: ModelsJson = {
                "object": "list", "data": [{"id": _model_id(served), "object": "model", "owned_by": "mimo-edge"}],
            }  # fmt: skip
        return JSONResponse(content)

    async def complete(self, request: Request) -> Response:
        """The answer to the last message, whole or as events."""
        from starlette.responses import Response, StreamingResponse

        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HttpError(415, "the body is no JSON", "Send application/json")
        data = await request.body()
        body = await in_thread(len(data), read_json, data, ChatBody)
        question, image = body.question(), await in_thread(len(data), lambda: StoredImage.of(body.image()))
        if body.stream:
            job = self.service.job_of(request, question.deadline_ms)
            first, events = await self.service.begin(request, job, self._events(body, question, image, job))
            return StreamingResponse(_whole(first, events), media_type=EVENTS, headers=UNBUFFERED)

        def work(served: Served, job: Job) -> bytes:
            scan, pieces = self._ask(served, job, body, question, image)
            *_, answer = pieces
            assert isinstance(answer, Answer)
            return to_bytes(_completion(served, job, answer, question))

        return Response(await self.service.run(request, work, question.deadline_ms), media_type="application/json")

    def _ask(
        self, served: Served, job: Job, body: ChatBody, question: AskBody, image: StoredImage
    ) -> tuple[Scan, Iterator[TextPiece | Answer]]:
        if body.model not in ("", _model_id(served)):
            raise HttpError(404, "this model is not in service", "Name the model of /v1/models, or leave it out")
        scan = self.service.store.open(served, image, question.reading, job)
        self.service.store.keep(image)
        return scan, self.service.counted(scan.stream_request(question.request(job)))

    async def _events(self, body: ChatBody, question: AskBody, image: StoredImage, job: Job) -> AsyncIterator[bytes]:
        """Chunks: the role, the draft as ``draft``, and last the final sentence as ``content`` with its grounding."""

        def work(served: Served, job: Job) -> Iterator[bytes]:
            _, pieces = self._ask(served, job, body, question, image)
            yield _chunk(served, job, {"role": "assistant", "content": ""})
            for piece in pieces:
                if isinstance(piece, TextPiece):
                    yield _chunk(served, job, {"draft": piece})
                else:
                    choice = _completion(served, job, piece, question)["choices"][0]
                    delta = {name: value for name, value in choice["message"].items() if name != "role"}
                    yield _chunk(served, job, delta)
                    yield _chunk(served, job, {}, choice["finish_reason"])

        async for piece in self.service.stream(job, work):
            yield piece


async def _whole(first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    try:
        async for piece in events:
            yield piece
        yield b"data: [DONE]\n\n"
    except Exception as error:
        report(error)
        yield b"data: " + to_bytes(error_body(error)) + b"\n\n"


def texts_of(message: ChatMessage) -> str:
    """The text of a message."""
    if message.content is None or isinstance(message.content, str):
        return (message.content or "").strip()
    return " ".join(part.text for part in message.content if part.type == "text" and part.text).strip()


def decode_data_url(url: str) -> bytes:
    """The file in a ``data:`` address.

    Raises:
        RequestError: another address, or no base64.
    """
    head, comma, text = url.partition(",")
    if not head.lower().startswith(_DATA):
        raise RequestError("the image is at another address, which is not fetched", "Send it as data:image/png;base64,…")
    if not comma or not head.lower().endswith(";base64"):
        raise RequestError("the image is no base64", "Send it as data:image/png;base64,…")
    return decode_base64(text, "the image")


def _model_id(served: Served) -> str:
    return served.mimo.info.get("id", "")


def _completion(served: Served, job: Job, answer: Answer, question: AskBody) -> ChatJson:
    message: ChatMessageJson = {
        "role": "assistant",
        "content": answer.plain_text,
        "refusal": answer.refusal.reason if answer.refusal else None,
        "grounding": [finding_json(finding, question.mask_format, question.contours) for finding in answer.findings],
    }
    reason = "stop" if answer.finish_reason in ("stop", None) else "length"
    return {
        "id": f"chatcmpl-{job.id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": _model_id(served),
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "warnings": list(answer.warnings),
    }


def _chunk(served: Served, job: Job, delta: object, reason: str | None = None) -> bytes:
    content = {
        "id": f"chatcmpl-{job.id}", "object": "chat.completion.chunk", "created": int(time.time()), "model": _model_id(served),
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
    }  # fmt: skip
    return b"data: " + to_bytes(content) + b"\n\n"


CHAT = Adapter(
    routes=lambda service: ChatRoutes(service).routes(),
    operations=(
        Operation("POST", "/v1/chat/completions", "Answer as OpenAI's clients expect it.", ChatBody, ChatJson),
        Operation("GET", "/v1/models", "List the model in service.", None, ModelsJson),
    ),
)
