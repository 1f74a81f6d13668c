"""Errors as responses: a status and a sentence, without a traceback and without data of a request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...errors import (
    BusyError,
    CancelledError,
    DeadlineError,
    EngineError,
    MemoryLimitError,
    MimoError,
    RequestError,
    VerificationError,
)
from ..host import NotReadyError
from ..jobs import ClosingError
from ..store import MissingImageError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Send

#: Status and word of each kind of error; the first that fits counts.
_STATUS: tuple[tuple[type[MimoError], int, str], ...] = (
    (MissingImageError, 404, "not_found"),
    (BusyError, 429, "busy"),
    (NotReadyError, 503, "not_ready"),
    (ClosingError, 503, "closing"),
    (DeadlineError, 504, "deadline"),
    (CancelledError, 409, "cancelled"),
    (MemoryLimitError, 503, "memory"),
    (RequestError, 422, "invalid_request"),
    (EngineError, 500, "engine"),
    (VerificationError, 500, "verification"),
)
_INTERNAL = "The service failed. See its log."
_WORDS = {
    400: "malformed", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method", 408: "timeout", 411: "length",
    413: "too_large", 415: "media_type", 421: "misdirected", 429: "busy", 431: "too_large",
}  # fmt: skip


class HttpError(MimoError):
    """A refusal with a status of its own. Exit code 1.

    Args:
        status: of HTTP.
        headers: more headers of the response.
    """

    def __init__(self, status: int, what: str, remedy: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(what, remedy)
        self.status, self.headers = status, dict(headers or {})


def status_of(error: BaseException) -> int:
    """The status of an error; 500 for what is no ``MimoError``."""
    if isinstance(error, HttpError):
        return error.status
    return next((status for kind, status, _ in _STATUS if isinstance(error, kind)), 500)


def error_body(error: BaseException) -> dict[str, dict[str, object]]:
    """The error for JSON: ``{"error": {"message": …, "type": …, "code": …}}``, as clients of OpenAI read it."""
    status = status_of(error)
    message = str(error) if isinstance(error, MimoError) else _INTERNAL
    if isinstance(error, HttpError):
        word = _WORDS.get(status, "error")
    else:
        word = next((word for kind, _, word in _STATUS if isinstance(error, kind)), "internal")
    return {"error": {"message": message, "type": word, "code": status}}


def error_headers(error: BaseException, retry_after: int = 1) -> dict[str, str]:
    """Headers of the response to an error."""
    if isinstance(error, HttpError):
        return error.headers
    return {"Retry-After": str(retry_after)} if status_of(error) in (429, 503) else {}


def error_response(error: BaseException, retry_after: int = 1) -> Response:
    """The response to an error."""
    from starlette.responses import JSONResponse

    return JSONResponse(error_body(error), status_of(error), error_headers(error, retry_after))


async def send_error(send: Send, error: MimoError, *, more_body: bool = False) -> None:
    """The response to an error, without a request; with ``more_body``, the caller sends the end."""
    body = json.dumps(error_body(error)).encode()
    headers = {
        "content-type": "application/json", "content-length": str(len(body)), **error_headers(error),
    }  # fmt: skip
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status_of(error), "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": more_body})


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such path, another method."""
    from starlette.exceptions import HTTPException

    assert isinstance(error, HTTPException)
    sentences = {404: "There is nothing at this path. See /openapi.json.", 405: "This path has no such method."}
    message = sentences.get(error.status_code, "The request is malformed.")
    return error_response(HttpError(error.status_code, message, headers=error.headers))
