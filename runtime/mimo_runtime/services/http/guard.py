"""What is checked before a request is read: its host, its origin, its size; and how long its parts may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..settings import ServerSettings
from .errors import HttpError, send_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Seconds and bytes in which the rest of a refused body is read and dropped. A connection that is closed with unread data is
#: reset, and the client would not see the refusal.
LINGER_S, LINGER_BYTES = 1.0, 32 << 20
_SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


def headers_of(scope: Scope) -> dict[str, str]:
    """Headers by their name in small letters. Names that occur twice are joined by commas."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


class Budget:
    """Bytes of the bodies that are held at one time."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0

    def take(self, nbytes: int) -> None:
        """Count more bytes.

        Raises:
            HttpError: 429, there is no room.
        """
        if self.used + nbytes > self.most:
            raise HttpError(429, "the service receives as much as it may", "Try again later", {"Retry-After": "1"})
        self.used += nbytes


class Guard:
    """Refuses requests of foreign pages and oversized bodies before anything is read.

    Args:
        app: behind the guard.
        settings: limits and names.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app, self.settings = app, settings
        self._budget = Budget(settings.max_bodies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = headers_of(scope)
        body = _Body(receive, self.settings, self._budget)
        response = _Response(send, body)
        try:
            check_host(headers, self.settings)
            check_origin(scope["method"], headers, self.settings)
            body.declare(headers)
        except HttpError as error:
            await send_error(response, error, more_body=body.is_expected)
            if body.is_expected:
                await body.drop()
                await response({"type": "http.response.body", "body": b"", "more_body": False})
            return
        try:
            await self.app(scope, body, response)
        finally:
            body.release()


class _Body:
    """The ``receive`` of an application that ends where a body is too large or too slow."""

    def __init__(self, receive: Receive, settings: ServerSettings, budget: Budget) -> None:
        self._receive, self._settings, self._budget = receive, settings, budget
        self._end = time.monotonic() + settings.body_s
        self._taken = self._size = self._declared = 0
        self.is_expected, self.is_complete = False, False

    def declare(self, headers: Mapping[str, str]) -> None:
        """Check what the headers state of the body.

        Raises:
            HttpError: too large, no number, or compressed.
        """
        length = headers.get("content-length")
        self.is_expected = "transfer-encoding" in headers or length not in (None, "0")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise HttpError(415, "the body is compressed", "Send it without Content-Encoding")
        if length is None:
            return
        if not length.isascii() or not length.isdigit() or len(length) > 20:
            raise HttpError(400, "Content-Length is no whole number", "Send the number of bytes once")
        if int(length) > self._settings.max_body:
            raise self._too_large()
        self._declared = int(length)

    async def __call__(self) -> Message:
        if self.is_complete:
            return await self._receive()  # waits for the client to leave
        self._take(self._declared - self._taken)  # only once the application reads: keys were checked before
        try:
            message = await asyncio.wait_for(self._receive(), max(0.001, self._end - time.monotonic()))
        except asyncio.TimeoutError:
            what = f"the body did not arrive within {self._settings.body_s:g} s"
            raise HttpError(408, what, "Send it faster, or send less", {"Connection": "close"}) from None
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self._settings.max_body:
                raise self._too_large()
            self._take(self._size - self._taken)
            self.is_complete = not message.get("more_body", False)
        else:
            self.is_complete = True
        return message

    def _take(self, nbytes: int) -> None:
        if nbytes > 0:
            self._budget.take(nbytes)
            self._taken += nbytes

    def _too_large(self) -> HttpError:
        what = f"the request is larger than {self._settings.max_body >> 20 or 1} MB"
        return HttpError(413, what, "Send a smaller image, or raise --max-body", {"Connection": "close"})

    async def drop(self) -> None:
        """Read and drop what arrives for a short time."""
        end, dropped = time.monotonic() + LINGER_S, 0
        while not self.is_complete and dropped < LINGER_BYTES and (left := end - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(self._receive(), left)
            except asyncio.TimeoutError:
                return
            dropped += len(message.get("body", b""))
            self.is_complete = message["type"] != "http.request" or not message.get("more_body", False)

    def release(self) -> None:
        """The request has ended."""
        self._budget.used -= self._taken
        self._taken = 0


class _Response:
    """The ``send`` of an application, with headers of its own. It ends the connection of a request that was not read whole."""

    def __init__(self, send: Send, body: _Body) -> None:
        self._send, self._body = send, body
        self._closes = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message["headers"]}
            more = [header for header in _SECURITY if header[0] not in names]
            self._closes = self._body.is_expected and not self._body.is_complete
            if self._closes and b"connection" not in names:
                more.append((b"connection", b"close"))
            message = {**message, "headers": [*message["headers"], *more]}
        elif self._closes and not message.get("more_body", False):
            self._closes = False
            await self._send({**message, "more_body": True})
            await self._body.drop()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)


def check_host(headers: Mapping[str, str], settings: ServerSettings) -> None:
    """Refuse a ``Host`` that is none of this service: after DNS rebinding, a browser sends the name of the foreign site.

    Raises:
        HttpError: 421.
    """
    hosts = settings.hosts
    if hosts is not None and _name_of(headers.get("host", "")) not in hosts:
        raise HttpError(421, "the Host header names another service", "Call 127.0.0.1, or start with --allow-host")


def check_origin(method: str, headers: Mapping[str, str], settings: ServerSettings) -> None:
    """Refuse requests that a page of another origin makes.

    Raises:
        HttpError: 403.
    """
    refusal = HttpError(403, "a page of another origin may not call this service", "Start it with --allow-origin")
    origin = headers.get("origin")
    if origin is not None:
        is_own = origin != "null" and urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
        if not is_own and origin not in settings.allow_origins:
            raise refusal
        return
    site = headers.get("sec-fetch-site", "none")
    is_visit = method == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if site not in ("none", "same-origin") and not is_visit:
        raise refusal


def _name_of(host: str) -> str:
    """``Host`` without its port."""
    end = host.rfind("]") if host.startswith("[") else host.find(":")
    if host.startswith("["):
        return host[: end + 1].lower()
    return (host if end < 0 else host[:end]).lower()


class KeyCheck:
    """Refuses requests without a key of the service.

    Args:
        app: behind the check.
        settings: has the keys.
        open_paths: answered without a key; one that ends in "/" stands for all that begin so.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, open_paths: tuple[str, ...]) -> None:
        self.app, self.settings, self.open_paths = app, settings, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_checked = scope["type"] == "http" and bool(self.settings.keys) and not self._is_open(scope["path"])
        if is_checked and not self.settings.keys.accept(key_of(headers_of(scope))):
            what, remedy = "the API key is missing or wrong", "Send it as Authorization: Bearer KEY"
            await send_error(send, HttpError(401, what, remedy, {"WWW-Authenticate": "Bearer"}))
            return
        await self.app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return any(path == name or name.endswith("/") and len(name) > 1 and path.startswith(name) for name in self.open_paths)


def key_of(headers: Mapping[str, str]) -> str:
    """The key that a request carries; "" without one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
