"""Health, readiness, metrics, the model, and its replacement while the service runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from .answers import ModelJson, model_json
from .errors import HttpError
from .fields import read_json
from .guard import headers_of, key_of
from .openapi import Operation
from .service import Service

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

#: Answered without an API key: probes of a container have none.
OPEN_PATHS = ("/health", "/ready")


class HealthJson(TypedDict):
    """The process answers."""

    status: str


class ReadyJson(TypedDict):
    """A model is in service: it ran once, and answered so many golden samples as its exporter did."""

    status: str
    samples: int


class ModelFacts(ModelJson):
    """The model in service: what it knows, and where it runs."""

    device: str
    image_size: int
    entities: list[str]
    modalities: list[str]


@dataclass(frozen=True)
class SwapBody:
    """Another bundle to serve.

    Args:
        name: of a file or folder in the folder of bundles; "" loads the current path again.
    """

    name: str = ""


OPERATIONS = (
    Operation("GET", "/health", "Say that the process answers.", None, HealthJson),
    Operation("GET", "/ready", "Say whether a model is in service.", None, ReadyJson),
    Operation("GET", "/metrics", "Counters and times for Prometheus.", None, None, media=("text/plain",)),
    Operation("GET", "/v1/model", "Describe the model in service.", None, ModelFacts),
    Operation("POST", "/v1/bundle", "Verify another bundle, then serve it. Needs X-Admin-Key.", SwapBody, ModelJson),
)


class OperationRoutes:
    """What operators of the service use."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def routes(self) -> list[BaseRoute]:
        from starlette.routing import Route

        return [
            Route("/health", self.health, methods=["GET"]),
            Route("/ready", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/v1/model", self.model, methods=["GET"]),
            Route("/v1/bundle", self.swap, methods=["POST"]),
        ]

    async def health(self, request: Request) -> Response:
        """200 while the process answers."""
        from starlette.responses import JSONResponse

        content: HealthJson = {"status": "ok"}
        return JSONResponse(content)

    async def ready(self, request: Request) -> Response:
        """200 with a model in service, 503 before."""
        from starlette.responses import JSONResponse

        with self.service.host.use() as served:
            content: ReadyJson = {"status": "ready", "samples": served.samples}
        return JSONResponse(content)

    async def metrics(self, request: Request) -> Response:
        """Counters and times for Prometheus."""
        from starlette.responses import Response

        return Response(self.service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def model(self, request: Request) -> Response:
        """The model in service."""
        from starlette.responses import JSONResponse

        with self.service.host.use() as served:
            config = served.mimo.config
            content: ModelFacts = {
                **model_json(served),
                "device": served.mimo.info.get("device", ""),
                "image_size": config.image_size,
                "entities": list(config.entities),
                "modalities": list(config.modalities),
            }
        return JSONResponse(content)

    async def swap(self, request: Request) -> Response:
        """Verify another bundle, and then serve it: 200 with the new model. Needs an administrator's key."""
        from starlette.responses import JSONResponse

        keys = self.service.settings.admin_keys
        if not keys:
            raise HttpError(403, "this service has no administrator's key", "Start it with --admin-key-file, or send SIGHUP")
        if not keys.accept(admin_key_of(request)):
            raise HttpError(401, "the administrator's key is missing or wrong", "Send it as X-Admin-Key")
        data = await request.body()
        body = read_json(data, SwapBody) if data else SwapBody()
        host = self.service.host
        await asyncio.get_running_loop().run_in_executor(None, host.swap, host.named(body.name))
        self.service.store.serve(host.generation)
        with host.use() as served:
            return JSONResponse(model_json(served))


def admin_key_of(request: Request) -> str:
    """``X-Admin-Key``, else the key of the request."""
    headers = headers_of(request.scope)
    return headers.get("x-admin-key") or key_of(headers)
