"""Errors as clients of FastAPI services read them: the sentence as ``detail``, beside the error of this service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ..errors import MimoError
from .http.errors import error_body, error_headers, status_of
from .jobs import Jobs

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    Handler = Callable[[Request], Awaitable[Response]]


def with_detail(handler: Handler, jobs: Jobs) -> Handler:
    """An endpoint that answers refusals of ``handler`` with a ``detail``."""
    from starlette.responses import JSONResponse

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except MimoError as error:
            content = {**error_body(error), "detail": str(error)}
            return JSONResponse(content, status_of(error), error_headers(error, jobs.retry_after))

    return endpoint
