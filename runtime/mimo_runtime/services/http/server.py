"""uvicorn with the settings of a service: sockets, TLS, time limits of connections, signals."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...utils.log import LOGGER
from ..logs import reload_reason, set_up_logs
from ..settings import ApiKeys, ServerSettings
from ..systemd import Notifier, notify_until_cancelled
from .app import Application
from .protocol import timed_protocol

if TYPE_CHECKING:
    import uvicorn


#: Seconds for answers that were ended to be sent.
_DELIVERY_S = 3


def serve(app: Application, settings: ServerSettings, announce: Callable[[str], None], log_level: str = "info") -> None:
    """Answer until SIGTERM or SIGINT; then finish what runs within ``grace_s``. SIGHUP loads the bundle, the API keys
    and the TLS files again.

    Args:
        announce: takes the address once the socket is open.
        log_level: see ``set_up_logs``, which is called for the whole process.

    Raises:
        RequestError: the address is taken, or is none of this machine; or TLS files cannot be read.
    """
    server, listening = open_server(app, settings)
    set_up_logs(log_level)
    address, port = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address

    def end(*_: object) -> None:
        server.should_exit = True

    # uvicorn ends on the first signal, and raises it once more for the handlers that were there before. A signal that comes
    # before uvicorn takes them ends the service, too.
    earlier = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        announce(f"{'https' if settings.tls_cert else 'http'}://{shown}:{port}")
        server.run(sockets=[listening])
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def open_server(app: Application, settings: ServerSettings) -> tuple[uvicorn.Server, socket.socket]:
    """A server and its open socket, for ``server.run(sockets=[socket])``; ``server.should_exit = True`` ends it.

    Raises:
        RequestError: as :func:`serve`.
    """
    config = _config(app, settings)
    return _server(config, app, settings.grace_s), _listen(settings)


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
        timeout_keep_alive=max(1, round(settings.keep_alive_s)),
        timeout_graceful_shutdown=round(settings.grace_s) + _DELIVERY_S,
        ssl_certfile=settings.tls_cert, ssl_keyfile=settings.tls_key,
    )  # fmt: skip
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise _tls_error(error) from None
    return config


def _server(config: uvicorn.Config, app: Application, grace_s: float) -> uvicorn.Server:
    import uvicorn

    notifier = Notifier()

    class Server(uvicorn.Server):
        """Refuses new work as soon as it ends, reloads on SIGHUP, and reports to systemd."""

        reporting: asyncio.Task[None] | None = None

        def handle_exit(self, sig: int, frame: object) -> None:
            app.service.jobs.refuse_new()
            self.should_exit = True

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """What runs has its time; then it ends with what is complete, and that is still sent."""
            app.service.jobs.refuse_new()
            notifier.send("STOPPING=1")
            if self.reporting is not None:
                self.reporting.cancel()
            ending = asyncio.get_running_loop().call_later(grace_s, app.service.jobs.stop_all)
            await super().shutdown(sockets)
            ending.cancel()

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            # With should_exit, uvicorn would leave without its shutdown: it ends in its first round instead.
            has_ended, self.should_exit = self.should_exit, False
            await super().startup(sockets)
            if has_ended:
                asyncio.get_running_loop().call_soon(self.handle_exit, signal.SIGTERM, None)
            if notifier:
                self.reporting = asyncio.create_task(notify_until_cancelled(notifier, lambda: app.service.host.generation > 0))
            if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, app, config)

    return Server(config)


def _reload(app: Application, config: uvicorn.Config) -> None:
    """Load bundle, API keys and TLS files again, in a thread; a failure of one keeps all that serve."""
    running = asyncio.get_running_loop().run_in_executor(None, _load_again, app, config)
    running.add_done_callback(_report_reload)


def _load_again(app: Application, config: uvicorn.Config) -> None:
    """Read all files before anything is replaced."""
    settings = app.service.settings
    renewed = [(keys, ApiKeys.read(keys.file)) for keys in (settings.keys, settings.admin_keys) if keys.file is not None]
    if config.ssl is not None:
        _load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), config)
    app.service.host.swap()
    for keys, again in renewed:
        keys.use(again)
    if config.ssl is not None:
        _load_certificate(config.ssl, config)  # for connections from now on
    LOGGER.info("bundle, API keys and TLS files were loaded again")


def _load_certificate(context: ssl.SSLContext, config: uvicorn.Config) -> None:
    assert config.ssl_certfile is not None
    try:
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password="")
    except OSError as error:  # ssl.SSLError is one
        raise _tls_error(error) from None


def _tls_error(error: OSError) -> RequestError:
    return RequestError(f"the TLS files cannot be used: {type(error).__name__}", "Name a certificate and its key in PEM")


def _report_reload(running: asyncio.Future[None]) -> None:
    error = running.exception()
    if error is not None:
        LOGGER.error("nothing was loaded again: %s", reload_reason(error))
