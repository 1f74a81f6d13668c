"""``/v1/images``: files by the hash of their content, so that a second question uploads nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import RequestError
from ...results.described import described
from ..host import Served
from ..jobs import Job
from ..store import Reading, StoredImage
from .answers import StoredImageJson
from .bodies import check_fits, in_thread, media_type, read_parts
from .errors import HttpError
from .openapi import Operation
from .page.pictures import picture_of
from .service import Service

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

#: Types of a body that is the file itself, besides ``image/…``.
_FILES = ("application/octet-stream", "application/dicom", "application/gzip", "application/x-gzip")


_QUERY = (
    ("frame", "Of a multi-frame file, or slice of a volume; from 0."),
    ("modality", "Of an image that does not state it."),
    ("window", "Centre and width for grey values: 40,400."),
)
OPERATIONS = (
    Operation("POST", "/v1/images", "Store an image.", None, StoredImageJson, 201, ("image",), files=True, query=_QUERY),
    Operation("GET", "/v1/images/{id}", "Describe a stored image.", None, StoredImageJson, query=_QUERY),
    Operation("DELETE", "/v1/images/{id}", "Forget a stored image.", None, None, 204),
    Operation(
        "GET", "/v1/images/{id}/picture", "The 8-bit picture of a stored image.", None, None, query=_QUERY, media=("image/png",)
    ),
)


class ImageRoutes:
    """Stored images over the shared service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def routes(self) -> list[BaseRoute]:
        from starlette.routing import Route

        return [
            Route("/v1/images", self.upload, methods=["POST"]),
            Route("/v1/images/{id}", self.show, methods=["GET"]),
            Route("/v1/images/{id}", self.remove, methods=["DELETE"]),
            Route("/v1/images/{id}/picture", self.picture, methods=["GET"]),
        ]

    async def upload(self, request: Request) -> Response:
        """Read, encode and store an image: 201 with its id. What cannot be read is not stored."""
        reading = reading_of(request)
        kind = media_type(request)
        if kind == "multipart/form-data":
            parts = await read_parts(request)
            data = parts.get("image", b"")
        elif kind.startswith("image/") or kind in _FILES:
            data = await request.body()
        else:
            raise HttpError(415, "the body is no image", "Send the file as application/octet-stream, or as the part 'image'")
        if not data:
            raise RequestError("the request has no image", "Send the file as the body, or as the part 'image'")
        check_fits(self.service.store, len(data))
        return await self._described(request, await in_thread(len(data), StoredImage.of, data), reading, 201)

    async def show(self, request: Request) -> Response:
        """What is known of a stored image: 200, or 404."""
        return await self._described(request, self.service.store.get(request.path_params["id"]), reading_of(request), 200)

    async def remove(self, request: Request) -> Response:
        """Forget a stored image: 204, or 404."""
        from starlette.responses import Response

        if not self.service.store.remove(request.path_params["id"]):
            raise HttpError(404, "no image of this id is stored")
        return Response(status_code=204)

    async def picture(self, request: Request) -> Response:
        """The 8-bit picture of an image as a PNG, for programs that read no DICOM and no volumes: 200, or 404. The header
        ``X-Window`` has centre and width of grey values. Nothing is encoded."""
        from starlette.responses import Response

        image, reading = self.service.store.get(request.path_params["id"]), reading_of(request)

        def work(served: Served, job: Job) -> tuple[bytes, dict[str, str]]:
            return picture_of(served, image, reading)

        content, headers = await self.service.run(request, work)
        return Response(content, media_type="image/png", headers=headers)

    async def _described(self, request: Request, image: StoredImage, reading: Reading, status: int) -> Response:
        from starlette.responses import JSONResponse

        def work(served: Served, job: Job) -> StoredImageJson:
            scan = self.service.store.open(served, image, reading, job)
            self.service.store.keep(image)
            return {"id": image.id, **described(scan.image)}

        return JSONResponse(await self.service.run(request, work), status)


def reading_of(request: Request) -> Reading:
    """The parameters ``frame``, ``modality`` and ``window`` (``40,400``) of the address.

    Raises:
        RequestError: one that cannot be read, or of another name.
    """
    values = dict(request.query_params)
    try:
        frame, modality, window = int(values.pop("frame", "0")), values.pop("modality", None), values.pop("window", None)
        centre_and_width = None if window is None else tuple(float(part) for part in window.split(","))
    except ValueError:
        raise RequestError("frame or window is no number", "Send frame=0, window=40,400") from None
    if values:
        raise RequestError("the address has an unknown parameter", "Use frame, modality and window")
    if centre_and_width is None:
        return Reading(frame, modality)
    if len(centre_and_width) != 2:
        raise RequestError("window is not two numbers", "Send centre and width: window=40,400")
    return Reading(frame, modality, (centre_and_width[0], centre_and_width[1]))
