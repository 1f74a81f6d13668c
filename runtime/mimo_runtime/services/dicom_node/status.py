"""Health, readiness and metrics of a node over HTTP, on loopback only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ...errors import RequestError

#: Seconds in which a client sends its request.
_PATIENCE_S = 5.0
#: What a path answers: status, type and content.
Page = Callable[[], tuple[int, str, bytes]]


class StatusServer:
    """A server in a thread of its own.

    Args:
        port: 0 takes a free one.
        pages: by path.

    Raises:
        RequestError: the port is taken.
    """

    def __init__(self, port: int, pages: dict[str, Page]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = _PATIENCE_S
            server_version, sys_version = "mimo", ""

            def do_GET(self) -> None:
                page = pages.get(self.path)
                status, kind, content = page() if page else (404, "application/json", b'{"error": "no such page"}')
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Requests are not logged."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise RequestError(f"the status port cannot be opened: {error.strerror}", "Choose another --status-port") from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="mimo-status", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The one that is open."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Answer nothing more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
