"""uvicorn's protocol with time limits: it has none for the head of a request, and none for a client that does not read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from ..settings import ServerSettings
from .errors import HttpError, error_body
from .guard import LINGER_S

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol


class Timer:
    """Calls a function after some seconds, unless it is stopped before."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop, seconds: float, action: Callable[[], object]) -> None:
        """Begin anew."""
        self.stop()
        self._handle = loop.call_later(seconds, action)

    def stop(self) -> None:
        """Do not call it."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    @property
    def runs(self) -> bool:
        """Whether the call is to come."""
        return self._handle is not None


def send_refusal(transport: asyncio.Transport, error: HttpError) -> None:
    """Send a whole response, for requests that never reach the application. A connection that is closed with unread data is
    reset, so the caller reads on for a moment."""
    body = json.dumps(error_body(error)).encode()
    head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nContent-Type: application/json\r\n"
    transport.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    if transport.can_write_eof():
        transport.write_eof()


def timed_protocol(settings: ServerSettings) -> type[H11Protocol]:
    """A protocol that closes connections which are too slow (``header_s``, ``send_s``), or too many (``max_connections``)."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class TimedProtocol(H11Protocol):
        is_refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.head, self.sending = Timer(), Timer()
            if len(self.connections) > settings.max_connections:
                transport.abort()
            else:
                self.head.start(self.loop, settings.header_s, self._give_up)

        def data_received(self, data: bytes) -> None:
            if self.is_refused:
                return
            super().data_received(data)
            if self.is_refused:
                return
            if self.conn.their_state is not h11.IDLE or not self.conn.trailing_data[0]:
                self.head.stop()
            elif not self.head.runs:  # a part of a head
                self.head.start(self.loop, settings.header_s, self._give_up)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.sending.start(self.loop, settings.send_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self.sending.stop()

        def shutdown(self) -> None:
            """An idle client need not agree that the connection ends, as TLS would have it."""
            super().shutdown()
            if self.transport.is_closing():
                self.loop.call_later(LINGER_S, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self.head.stop()
            self.sending.stop()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            self._refuse(HttpError(400, "the request is no HTTP/1.1 that can be read", "Send it with an HTTP library"))

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self._refuse(HttpError(408, f"the head of the request did not arrive within {settings.header_s:g} s"))

        def _refuse(self, error: HttpError) -> None:
            self.is_refused = True
            self.head.start(self.loop, LINGER_S, self.transport.close)  # what still comes until then is dropped
            send_refusal(self.transport, error)

    return TimedProtocol
