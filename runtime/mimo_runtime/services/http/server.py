"""uvicorn with the settings of a service: sockets, TLS, time limits of connections, signals."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...utils.log import LOGGER
from ..settings import ServerSettings
from .app import Application
from .errors import HttpError, error_body

if TYPE_CHECKING:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol


def serve(app: Application, settings: ServerSettings, announce: Callable[[str], None]) -> None:
    """Answer until SIGTERM or SIGINT; then finish what runs within ``grace_s``. SIGHUP loads the bundle again.

    Args:
        announce: takes the address once the socket is open.

    Raises:
        RequestError: the address is taken, or is none of this machine; or TLS files cannot be read.
    """
    listening = _listen(settings)
    config = _config(app, settings)
    address, port = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    announce(f"{'https' if settings.tls_cert else 'http'}://{shown}:{port}")
    server = _server(config, app)
    # uvicorn ends on the first signal, and raises it once more for the handlers that were there before.
    earlier = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listening])
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _listen(settings: ServerSettings) -> socket.socket:
    try:
        name, kind = settings.host.strip("[]"), socket.SOCK_STREAM
        resolved = socket.getaddrinfo(name, settings.port, type=kind, flags=socket.AI_PASSIVE)
        family, _, protocol, _, address = resolved[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        reason = error.strerror or "no such address"
        raise RequestError(
            f"the service cannot listen on {settings.host} port {settings.port}: {reason}", "Name another"
        ) from None
    return listening


def _config(app: Application, settings: ServerSettings) -> uvicorn.Config:
    import uvicorn

    config = uvicorn.Config(
        app, http=timed_protocol(settings), ws="none", lifespan="on", loop="asyncio", log_config=None, access_log=False,
        server_header=False, date_header=True, proxy_headers=False, backlog=128,
        timeout_keep_alive=max(1, round(settings.keep_alive_s)), timeout_graceful_shutdown=max(1, round(settings.grace_s)),
        ssl_certfile=settings.tls_cert, ssl_keyfile=settings.tls_key,
    )  # fmt: skip
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise RequestError(
            f"the TLS files cannot be used: {type(error).__name__}", "Name a certificate and its key in PEM"
        ) from None
    return config


def _server(config: uvicorn.Config, app: Application) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """Refuses new work as soon as it ends, and reloads on SIGHUP."""

        def handle_exit(self, sig: int, frame: object) -> None:
            app.service.jobs.refuse_new()
            self.should_exit = True

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if hasattr(signal, "SIGHUP"):
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, app)

    return Server(config)


def _reload(app: Application) -> None:
    """Load the bundle again, in a thread; a failure keeps the model that serves."""
    running = asyncio.get_running_loop().run_in_executor(None, app.service.host.swap)
    running.add_done_callback(_report_reload)


def _report_reload(running: asyncio.Future[int]) -> None:
    error = running.exception()
    if error is not None:
        LOGGER.error("the bundle was not loaded again: %s", type(error).__name__)


def timed_protocol(settings: ServerSettings) -> type[H11Protocol]:
    """uvicorn's protocol, which has no time limit for the headers of a request, with one."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class TimedProtocol(H11Protocol):
        """Closes connections that send no whole request head within ``header_s``, and those above ``max_connections``."""

        waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections:
                transport.abort()
            else:
                self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._has_head():
                self._end_wait()
            elif self.waiting is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end_wait()
            super().connection_lost(exc)

        def _has_head(self) -> bool:
            """Whether no request head is half read."""
            import h11

            return self.conn.their_state is not h11.IDLE or not self.conn.trailing_data[0]

        def _wait(self) -> None:
            self.waiting = self.loop.call_later(settings.header_s, self._give_up)

        def _end_wait(self) -> None:
            if self.waiting is not None:
                self.waiting.cancel()
                self.waiting = None

        def _give_up(self) -> None:
            self.waiting = None
            if not self.transport.is_closing():
                self._refuse()

        def _refuse(self) -> None:
            error = HttpError(408, f"the head of the request did not arrive within {settings.header_s:g} s")
            body = json.dumps(error_body(error)).encode()
            head = "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
            self.transport.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            self.transport.close()

    return TimedProtocol
