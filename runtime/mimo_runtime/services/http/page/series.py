"""``POST /v1/series``: the frames of stored files, in the order of their positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from ....errors import ImageError, RequestError
from ....series.headers import FrameHeader
from ....series.image_series import ReadHeaders, in_order
from ....series.ordering import Layout
from ....utils.messages import few
from ...host import Served
from ...jobs import Job
from ...store import ImageStore, StoredImage
from ..bodies import check_fits, in_thread, media_type
from ..errors import HttpError
from ..fields import read_json
from ..openapi import Operation
from ..service import Service

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

#: Most files of one series.
MOST_FILES = 5000


@dataclass(frozen=True)
class SeriesBody:
    """Stored files that belong together.

    Args:
        images: their ids.
        series: which one, from 1, where the files are of several series.
    """

    images: tuple[str, ...]
    series: int = 1


class FrameJson(TypedDict):
    """A frame: ``image`` and ``frame`` name it in /v1/ask; ``position_mm`` is its place along the normal."""

    image: str
    frame: int
    width: int
    height: int
    spacing_mm: list[float] | None
    position_mm: float | None


class StackJson(TypedDict):
    """Frames ``start`` to ``stop - 1`` of one time, echo or direction; ``problem`` says why they are no regular volume."""

    start: int
    stop: int
    label: str
    distance_mm: float | None
    problem: str


class SeriesFacts(TypedDict):
    """A series among those of the files."""

    modality: str | None
    frames: int


class SeriesJson(TypedDict):
    """A series in order, and which others the files hold."""

    frames: list[FrameJson]
    stacks: list[StackJson]
    modality: str | None
    number: int
    series: list[SeriesFacts]
    notes: list[str]


class StoredFileJson(TypedDict):
    """A file that is stored under its SHA-256."""

    id: str


OPERATIONS = (
    Operation("POST", "/v1/files", "Store a file of a series; its headers are read, nothing is encoded.", None,
              StoredFileJson, 201, files=True),
    Operation("POST", "/v1/series", "Order the frames of stored files by their positions.", SeriesBody, SeriesJson),
)  # fmt: skip


class SeriesRoutes:
    """Files of a series over the shared service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def routes(self) -> list[BaseRoute]:
        from starlette.routing import Route

        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/series", self.order, methods=["POST"]),
        ]

    async def upload(self, request: Request) -> Response:
        """Store a file: 201 with its id. What is no image is not stored."""
        from starlette.responses import JSONResponse

        if media_type(request) not in ("application/octet-stream", "application/dicom"):
            raise HttpError(415, "the body is no file", "Send the file as application/octet-stream")
        data = await request.body()
        if not data:
            raise RequestError("the request has no file", "Send the file as the body")
        check_fits(self.service.store, len(data))
        image = await in_thread(len(data), StoredImage.of, data)

        def work(served: Served, job: Job) -> StoredFileJson:
            self.service.store.keep_headers(image)
            self.service.store.keep(image)
            return {"id": image.id}

        return JSONResponse(await self.service.run(request, work), 201)

    async def order(self, request: Request) -> Response:
        """The frames in order."""
        from starlette.responses import JSONResponse

        if media_type(request) != "application/json":
            raise HttpError(415, "the body is no JSON", "Send application/json")
        body = read_json(await request.body(), SeriesBody)
        if not 1 <= len(body.images) <= MOST_FILES:
            raise RequestError(f"the series has {len(body.images)} files", f"Send 1 to {MOST_FILES}")

        def work(served: Served, job: Job) -> SeriesJson:
            return series_json(self.service.store, tuple(dict.fromkeys(body.images)), body.series)

        return JSONResponse(await self.service.run(request, work))


def series_json(store: ImageStore, images: Sequence[str], number: int) -> SeriesJson:
    """The series of that number, from 1. Only headers are needed: the files may be forgotten since.

    Args:
        images: ids of files.

    Raises:
        MissingImageError: one was never stored, or forgotten altogether.
        ImageError: none of the files is an image.
        RequestError: there is no such series.
    """
    headers, refused = list[FrameHeader](), list[str]()
    for image in images:
        try:
            headers.extend(store.headers(image))
        except ImageError as error:
            refused.append(error.what)
    if not headers:
        raise ImageError("the list of files holds no image", "Send images")
    notes = (f"{len(refused)} of the files are no images: {few(refused, 2)}",) if refused else ()
    groups = list(ReadHeaders(tuple(headers), notes, 0).by_series().values())
    if not 1 <= number <= len(groups):
        raise RequestError(f"the files have no series {number}", f"Use 1 to {len(groups)}")
    frames, layout = in_order(groups[number - 1])
    places = _places(layout)
    return {
        "frames": [_frame_json(frame, place) for frame, place in zip(frames, places)],
        "stacks": [
            {
                "start": stack.start, "stop": stack.stop, "label": stack.label, "distance_mm": stack.distance_mm,
                "problem": stack.problem,
            }
            for stack in layout.stacks
        ],
        "modality": frames[0].modality,
        "number": number,
        "series": [{"modality": group[0].modality, "frames": len(group)} for group in groups],
        "notes": list(notes),
    }  # fmt: skip


def _places(layout: Layout) -> list[float | None]:
    """The place of every frame along its normal, in mm."""
    places: list[float | None] = []
    for stack in layout.stacks:
        places += [float(place) for place in stack.places_mm] or [None] * (stack.stop - stack.start)
    return places


def _frame_json(frame: FrameHeader, place: float | None) -> FrameJson:
    spacing = frame.geometry.spacing_mm
    return {
        "image": frame.file.name,
        "frame": frame.index,
        "width": frame.size[1],
        "height": frame.size[0],
        "spacing_mm": None if spacing is None else [float(value) for value in spacing],
        "position_mm": place,
    }
