"""The routes of nnInteractive's protocol over the shared model and queue."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ...errors import RequestError
from ..host import Served
from ..http.bodies import in_thread, media_type
from ..http.errors import HttpError
from ..http.fields import read_json
from ..http.openapi import Operation
from ..http.service import Adapter, Service
from ..interaction.marks import Bounds, Kind, box_of, drawing_of
from ..interaction.prediction import predict, refine
from ..interaction.segmentation import Segmentation
from ..jobs import Job
from ..viewers import with_detail
from ..volumes import Volume
from .leases import Lease, LeaseLimits, Leases
from .messages import (
    LEASE,
    META,
    BoxBody,
    BufferBody,
    CapabilitiesJson,
    Changed,
    ClaimJson,
    DoneJson,
    DrawingMeta,
    EmptyBody,
    HealthyJson,
    InitialMeta,
    LeaseJson,
    PointBody,
    PredictBody,
    ReleasedJson,
    RemainingJson,
    ShapeJson,
    ZoomBody,
    spacing_of,
)
from .wire import TYPES, library, pack, unpack

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

Body = TypeVar("Body")
#: What an interaction does to a segmentation; the bounds of the voxels that changed.
Action = Callable[[Served, Job, Segmentation], Bounds | None]

#: Release of the client whose protocol this is.
PROTOCOL = "2.6.0"
ARRAY = "application/octet-stream"
#: Milliseconds of a prediction. Clients wait 60 s for the first byte; what is complete by then counts.
PREDICTION_MS = 50_000
_HEALTH = "/healthz"

OPERATIONS = (
    Operation("GET", _HEALTH, "nnInteractive: say that the process answers.", None, HealthyJson),
    Operation("GET", "/capabilities", "nnInteractive: say what a client may draw.", None, CapabilitiesJson),
    Operation("POST", "/claim", "nnInteractive: open a session.", None, ClaimJson),
    Operation("POST", "/release", "nnInteractive: close a session.", None, ReleasedJson),
    Operation("POST", "/heartbeat", "nnInteractive: keep a session.", EmptyBody, RemainingJson),
    Operation("GET", "/lease_status", "nnInteractive: say how long a session stays.", None, LeaseJson),
    Operation("POST", "/set_image", "nnInteractive: send the volume.", None, ShapeJson, files=True),
    Operation("POST", "/set_target_buffer", "nnInteractive: begin an object.", BufferBody, DoneJson),
    Operation("POST", "/set_do_autozoom", "nnInteractive: no effect.", ZoomBody, DoneJson),
    Operation("POST", "/reset_interactions", "nnInteractive: forget the object.", EmptyBody, DoneJson),
    Operation("POST", "/undo", "nnInteractive: take the last step back.", EmptyBody, None, media=(ARRAY,)),
    Operation("POST", "/predict", "nnInteractive: segment what was drawn.", PredictBody, None, media=(ARRAY,)),
    Operation("POST", "/add_bbox_interaction", "nnInteractive: a box in a slice.", BoxBody, None, media=(ARRAY,)),
    Operation("POST", "/add_point_interaction", "nnInteractive: a point.", PointBody, None, media=(ARRAY,)),
    Operation("POST", "/add_scribble_interaction", "nnInteractive: a scribble.", None, None, files=True, media=(ARRAY,)),
    Operation("POST", "/add_lasso_interaction", "nnInteractive: a lasso.", None, None, files=True, media=(ARRAY,)),
    Operation(
        "POST", "/add_initial_seg_interaction", "nnInteractive: a first mask.", None, None, files=True, media=(ARRAY,)
    ),
)  # fmt: skip


class InteractiveRoutes:
    """Sessions over the shared service.

    Args:
        service: shared.
        leases: of its clients.
    """

    def __init__(self, service: Service, leases: Leases) -> None:
        self.service, self.leases = service, leases

    def routes(self) -> list[BaseRoute]:
        from starlette.routing import Route

        handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/claim": self.claim, "/release": self.release, "/heartbeat": self.heartbeat, "/set_image": self.set_image,
            "/set_target_buffer": self.set_target_buffer, "/set_do_autozoom": self.set_do_autozoom,
            "/reset_interactions": self.reset, "/undo": self.undo, "/predict": self.predict,
            "/add_bbox_interaction": self.add_box, "/add_point_interaction": self.add_point,
            "/add_scribble_interaction": self.add_scribble, "/add_lasso_interaction": self.add_lasso,
            "/add_initial_seg_interaction": self.add_initial,
        }  # fmt: skip
        reading = {_HEALTH: self.health, "/capabilities": self.capabilities, "/lease_status": self.lease_status}
        return [
            *(Route(path, with_detail(handler, self.service.jobs), methods=["POST"]) for path, handler in handlers.items()),
            *(Route(path, with_detail(handler, self.service.jobs), methods=["GET"]) for path, handler in reading.items()),
        ]

    async def health(self, request: Request) -> Response:
        """200 while the process answers."""
        content: HealthyJson = {"ok": True}
        return _json(content)

    async def capabilities(self, request: Request) -> Response:
        """What a client may draw."""
        with self.service.host.use() as served:
            size = served.mimo.config.image_size
        content: CapabilitiesJson = {
            "supported_interactions": {"points": True, "bbox2d": True, "bbox3d": False, "scribble": True, "lasso": True},
            "channel_mapping": {
                "prev_seg": 0, "bbox2d": [1, 2], "bbox3d": [1, 2], "lasso": [1, 2], "points": [3, 4], "scribble": [5, 6],
            },
            "num_interaction_channels": 7,
            "supports_initial_label": True,
            "supports_zero_shot_label_refinement": True,
            "preferred_scribble_thickness": [2, 2, 2],
            "interaction_decay": None,
            "patch_size": [1, size, size],
            "do_autozoom": False,
            "inference_session_version": PROTOCOL,
            "license": "",
            "supports_undo": True,
        }  # fmt: skip
        return _json(content)

    async def claim(self, request: Request) -> Response:
        """A new lease: 200, or 503 without a free one."""
        library()
        with self.service.host.use():
            lease, limits = self.leases.claim(), self.leases.limits
        content: ClaimJson = {
            "lease_token": lease.token, "idle_timeout_seconds": limits.idle_s,
            "liveness_timeout_seconds": limits.liveness_s, "max_sessions": limits.most,
        }  # fmt: skip
        return _json(content)

    async def release(self, request: Request) -> Response:
        """End a lease."""
        self.leases.release(_token(request))
        content: ReleasedJson = {"released": True}
        return _json(content)

    async def heartbeat(self, request: Request) -> Response:
        """The heartbeat of a client."""
        await _body(request, EmptyBody)
        content: RemainingJson = {"remaining_seconds": self.leases.remaining_s(self._lease(request, is_active=False))}
        return _json(content)

    async def lease_status(self, request: Request) -> Response:
        """How long a lease stays."""
        lease = self.leases.peek(_token(request))
        content: LeaseJson = {
            "remaining_seconds": self.leases.remaining_s(lease), "idle_timeout_seconds": self.leases.limits.idle_s,
        }  # fmt: skip
        return _json(content)

    async def set_image(self, request: Request) -> Response:
        """Take the volume ``[C, A, B, C]``; an earlier one and its object are forgotten."""
        lease, data = self._lease(request), await _array(request)
        spacing = spacing_of(request.headers.get(META, ""))

        def work(served: Served, job: Job) -> Volume:
            return volume_of(unpack(data, self._free()), spacing)

        async with self.leases.loading, lease.turn:
            lease.segmentation = None
            volume = await self.service.run(request, work)
            if volume.values.nbytes + math.prod(volume.shape) > self._free():
                raise HttpError(413, "the image does not fit into the memory of the sessions", "Crop it, or raise --store")
            lease.segmentation = Segmentation(volume)
        channels = 1 if volume.values.ndim == 3 else 3
        content: ShapeJson = {"original_image_shape": [channels, *volume.shape]}
        return _json(content)

    async def set_target_buffer(self, request: Request) -> Response:
        """Begin an object; masks come in the type of the buffer."""
        lease, body = self._lease(request), await _body(request, BufferBody)
        if body.dtype not in TYPES or np.dtype(body.dtype).kind not in "biu":
            raise RequestError("the type of the buffer is no type of whole numbers", "Use uint8")
        if body.shape != lease.object.volume.shape:
            raise RequestError("the buffer has another shape than the image", "Use the shape of the image without channels")
        async with lease.turn:
            lease.dtype = np.dtype(body.dtype)
            lease.object.clear()
        content: DoneJson = {}
        return _json(content)

    async def set_do_autozoom(self, request: Request) -> Response:
        """Nothing: small targets are refined by themselves."""
        self._lease(request)
        await _body(request, ZoomBody)
        content: DoneJson = {}
        return _json(content)

    async def reset(self, request: Request) -> Response:
        """Forget the object."""
        lease = self._lease(request)
        await _body(request, EmptyBody)
        async with lease.turn:
            if lease.segmentation is not None:
                lease.segmentation.clear()
        content: DoneJson = {}
        return _json(content)

    async def undo(self, request: Request) -> Response:
        """Take the last step back."""
        lease = self._lease(request)
        await _body(request, EmptyBody)
        async with lease.turn:
            segmentation = lease.object

            def work() -> tuple[bool, Bounds | None, bytes]:
                has_step, bounds = segmentation.undo()
                return has_step, bounds, _voxels(lease, bounds)

            has_step, bounds, content = await in_thread(segmentation.mask.nbytes, work)
        return _changed(has_step, bounds, content)

    async def predict(self, request: Request) -> Response:
        """Segment what was drawn without a prediction."""
        lease = self._lease(request)
        await _body(request, PredictBody)
        if not lease.object.pending:
            return _changed(False, None, b"")
        return await self._run(request, lease, _nothing, True)

    async def add_box(self, request: Request) -> Response:
        """A box in a slice."""
        lease, body = self._lease(request), await _body(request, BoxBody)
        drawing = box_of(body.bbox_coords, lease.object.volume, body.include_interaction)

        def draw(served: Served, job: Job, segmentation: Segmentation) -> None:
            segmentation.draw(drawing)

        return await self._run(request, lease, draw, body.run_prediction)

    async def add_point(self, request: Request) -> Response:
        """A point."""
        lease, body = self._lease(request), await _body(request, PointBody)

        def draw(served: Served, job: Job, segmentation: Segmentation) -> None:
            segmentation.point(body.coordinates, body.include_interaction)

        return await self._run(request, lease, draw, body.run_prediction)

    async def add_scribble(self, request: Request) -> Response:
        """A scribble."""
        return await self._add_drawing(request, "scribble")

    async def add_lasso(self, request: Request) -> Response:
        """A lasso."""
        return await self._add_drawing(request, "lasso")

    async def _add_drawing(self, request: Request, kind: Kind) -> Response:
        lease, data = self._lease(request), await _array(request)
        meta = read_json(request.headers.get(META, "{}"), DrawingMeta)
        bounds = meta.interaction_bbox
        if bounds is not None and (len(bounds) != 3 or any(not 0 <= a < b < 1 << 31 for a, b in bounds)):
            raise RequestError("interaction_bbox is not three pairs", "Send start and end along each axis, end after start")

        def draw(served: Served, job: Job, segmentation: Segmentation) -> None:
            voxels = unpack(data, 8 * math.prod(segmentation.volume.shape))
            segmentation.draw(drawing_of(kind, voxels, bounds, segmentation.volume, meta.include_interaction))

        return await self._run(request, lease, draw, meta.run_prediction)

    async def add_initial(self, request: Request) -> Response:
        """A segmentation to begin with. Without a prediction, the client has it already."""
        lease, data = self._lease(request), await _array(request)
        meta = read_json(request.headers.get(META, "{}"), InitialMeta)

        def begin(served: Served, job: Job, segmentation: Segmentation) -> Bounds | None:
            segmentation.start_from(unpack(data, 8 * math.prod(segmentation.volume.shape)))
            return refine(served.mimo, segmentation, job) if meta.run_prediction else None

        return await self._run(request, lease, begin, False, meta.run_prediction)

    async def _run(
        self, request: Request, lease: Lease, action: Action, predicts: bool, has_predicted: bool = False
    ) -> Response:
        """Change the object in a turn of the queue, and reply with the voxels that changed."""

        def work(served: Served, job: Job) -> tuple[Bounds | None, bytes]:
            segmentation = lease.object
            with segmentation.step():
                bounds = action(served, job, segmentation)
                if predicts:
                    bounds = predict(served.mimo, segmentation, job)
                return bounds, _voxels(lease, bounds)

        async with lease.turn:
            bounds, content = await self.service.run(request, work, PREDICTION_MS)
            self.leases.touch(lease)
        return _changed(predicts or has_predicted, bounds, content)

    def _lease(self, request: Request, *, is_active: bool = True) -> Lease:
        return self.leases.get(_token(request), is_active=is_active)

    def _free(self) -> int:
        """Bytes that one more image may have."""
        return max(0, self.service.settings.store_bytes - self.leases.nbytes)


def volume_of(array: np.ndarray, spacing_mm: tuple[float, float, float] | None) -> Volume:
    """The volume of an array ``[C, A, B, C]``.

    Raises:
        RequestError: neither one channel nor 8-bit RGB.
        ImageError: values that are no numbers.
    """
    if array.ndim == 4 and len(array) == 1:
        return Volume(array[0], spacing_mm)
    if array.ndim == 4 and len(array) == 3 and array.dtype == np.uint8:
        return Volume(np.ascontiguousarray(np.moveaxis(array, 0, -1)), spacing_mm)
    raise RequestError(f"the image has the shape {list(array.shape)}", "Send one channel, or three of 8 bit: [C, X, Y, Z]")


def adapter(limits: LeaseLimits = LeaseLimits()) -> Adapter:  # noqa: B008 - frozen
    """The protocol as a part of the service."""
    return Adapter(
        routes=lambda service: InteractiveRoutes(service, Leases(limits)).routes(),
        open_paths=(_HEALTH,),
        operations=OPERATIONS,
    )


def _nothing(served: Served, job: Job, segmentation: Segmentation) -> None:
    """Draw nothing."""


def _token(request: Request) -> str:
    return str(request.headers.get(LEASE, ""))


def _json(content: object) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(content)


def _voxels(lease: Lease, bounds: Bounds | None) -> bytes:
    return b"" if bounds is None else pack(lease.object.voxels(bounds).astype(lease.dtype))


def _changed(ran: bool, bounds: Bounds | None, content: bytes) -> Response:
    from starlette.responses import Response

    meta: Changed = {"ran_prediction": ran, "bbox": None if bounds is None else [list(pair) for pair in bounds]}
    return Response(content, media_type=ARRAY, headers={META: json.dumps(meta, separators=(",", ":"))})


async def _body(request: Request, kind: type[Body]) -> Body:
    """The JSON of a request. An empty body has no fields."""
    if media_type(request) != "application/json":
        raise HttpError(415, "the body is no JSON", "Send application/json")
    return read_json(await request.body() or b"{}", kind)


async def _array(request: Request) -> bytes:
    """The body of a request that carries an array."""
    if media_type(request) != ARRAY:
        raise HttpError(415, "the body is no array", "Send application/octet-stream")
    return bytes(await request.body())
