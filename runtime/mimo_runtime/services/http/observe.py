"""The outermost layer: an id for every request, one line of log, its metrics, and no traceback for the client."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...errors import MimoError
from ..logs import log_failure, log_request
from ..metrics import Metrics
from .errors import HttpError, send_error
from .guard import headers_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Observer:
    """Gives each request an id, counts it, and answers for what no other layer did.

    Args:
        app: behind it.
        metrics: counts.
        routes: path of each endpoint, for labels.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Mapping[object, str]) -> None:
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no websocket
            await send({"type": "websocket.close", "code": 1003})
            return
        start, number = time.monotonic(), str(uuid.uuid4())
        scope["mimo.request"] = headers_of(scope).get("x-request-id", number)[:100]
        response = _Counted(send, scope["mimo.request"])
        try:
            await self.app(scope, receive, response)
        except Exception as error:
            log_failure(number, error)
            if not response.status:
                await send_error(response, error if isinstance(error, MimoError) else HttpError(500, "the service failed"))
            elif not response.is_complete:
                raise
        finally:
            seconds = time.monotonic() - start
            route = self.routes.get(scope.get("endpoint"), "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.metrics.count_request(method, route, response.status or 499, seconds)
            log_request(number, method, route, response.status or 499, 1000 * seconds, response.nbytes)


class _Counted:
    """A ``send`` that remembers the status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._id = send, request_id
        self.status, self.nbytes, self.is_complete = 0, 0, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._id.isascii() and self._id.isprintable():
                message = {**message, "headers": [*message["headers"], (b"x-request-id", self._id.encode("ascii"))]}
        elif message["type"] == "http.response.body":
            self.nbytes += len(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
        await self._send(message)
