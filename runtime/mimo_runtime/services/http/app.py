"""The application: routes over one model, one store of images and one queue, behind the checks."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MimoError
from ..host import ModelHost
from ..jobs import Jobs
from ..metrics import Metrics
from ..settings import ServerSettings
from ..store import ImageStore
from .asking import OPERATIONS as ASK
from .asking import AskRoutes
from .errors import error_response, on_http_exception
from .guard import Guard, KeyCheck
from .images import OPERATIONS as IMAGES
from .images import ImageRoutes
from .observe import Observer
from .openapi import Json, document
from .operation import OPEN_PATHS, OperationRoutes
from .operation import OPERATIONS as OPERATION
from .service import Adapter, Service

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

#: Seconds between two sweeps of the store.
_SWEEP_S = 30.0


class Application:
    """An ASGI application.

    Attributes:
        service: what its routes share.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def create_app(host: ModelHost, settings: ServerSettings, adapters: Sequence[Adapter] = ()) -> Application:
    """An application that loads the model of ``host`` when it starts, and closes it when it ends.

    Args:
        host: is not started; ``/ready`` answers 503 until its model has passed its self-test.
        settings: limits. The address, TLS and the times of connections are for the server.
        adapters: more protocols.

    Raises:
        ModuleNotFoundError: the extra ``server`` is not installed.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware.cors import CORSMiddleware

    jobs = Jobs(settings.callers, settings.max_waiting, settings.longest_s)
    store, metrics = ImageStore(settings.store_bytes, settings.store_ttl_s), Metrics()
    metrics.add_state(host, jobs, store)
    service = Service(host, settings, store, jobs, metrics)
    routes = [*AskRoutes(service).routes(), *ImageRoutes(service).routes(), *OperationRoutes(service).routes()]
    operations = [*ASK, *IMAGES, *OPERATION]
    for adapter in adapters:
        routes += adapter.routes(service)
        operations += adapter.operations
    routes.append(_openapi_route(document(operations, version("mimo-edge"), bool(settings.keys))))

    async def on_error(request: Request, error: Exception) -> Response:
        return error_response(error, jobs.retry_after)

    inner = Starlette(
        routes=routes, lifespan=lambda _: _lifespan(service, adapters),
        exception_handlers={MimoError: on_error, HTTPException: on_http_exception, Exception: on_error},
    )  # fmt: skip
    app: ASGIApp = KeyCheck(inner, settings, (*OPEN_PATHS, *(path for adapter in adapters for path in adapter.open_paths)))
    if settings.allow_origins:
        app = CORSMiddleware(
            app, allow_origins=settings.allow_origins, allow_methods=["GET", "POST", "PUT", "DELETE"], allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After"], max_age=600,
        )  # fmt: skip
    return Application(Observer(Guard(app, settings), metrics, _paths(inner)), service)


def _openapi_route(content: Json) -> BaseRoute:
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def openapi(request: Request) -> Response:
        return JSONResponse(content)

    return Route("/openapi.json", openapi, methods=["GET"])


def _paths(app: Starlette) -> dict[object, str]:
    """The path of each endpoint, with its placeholders."""
    named = ((getattr(route, "endpoint", None), getattr(route, "path", None)) for route in app.routes)
    return {endpoint: path for endpoint, path in named if endpoint is not None and path is not None}


@contextlib.asynccontextmanager
async def _lifespan(service: Service, adapters: Sequence[Adapter]) -> AsyncIterator[None]:
    """Load the model in a thread while health is answered; end running work at the end."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="mimo-serve-") as scratch:
        service.scratch = Path(scratch)
        loading = loop.run_in_executor(None, service.host.start)
        sweeping = asyncio.create_task(_every(_SWEEP_S, service.store.expire))
        try:
            yield
        finally:
            sweeping.cancel()
            await loop.run_in_executor(None, service.jobs.close)
            for adapter in adapters:
                if adapter.close is not None:
                    adapter.close()
            await loading
            service.host.close()


async def _every(seconds: float, action: Callable[[], object]) -> None:
    while True:
        await asyncio.sleep(seconds)
        action()
