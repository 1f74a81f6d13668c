"""Servers with a socket: in a thread of the test, or as the process that ``mimo-run serve`` starts."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import fakes
import served
from waiting import PATIENCE_S, wait_for

from mimo_runtime.pipeline import Mimo
from mimo_runtime.services.http.app import Application, create_app
from mimo_runtime.services.http.server import open_server
from mimo_runtime.services.http.service import Adapter
from mimo_runtime.services.settings import ServerSettings


class Address:
    """Requests to a port of this machine; over TLS with a context."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.port, self.context = port, context

    def _connection(self) -> http.client.HTTPConnection:
        if self.context is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        return http.client.HTTPSConnection("localhost", self.port, timeout=PATIENCE_S, context=self.context)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict]:
        connection = self._connection()
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, json.loads(content) if content[:1] == b"{" else {"text": content.decode()}

    def is_ready(self) -> bool:
        """Whether it answers that its model is in service; a server with short limits of time may refuse the question."""
        try:
            return self.request("GET", "/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def ask(self, image_id: str, **fields: object) -> tuple[int, dict]:
        body = json.dumps({"image": image_id, "text": "polyp", "boxes": [fakes.BOX], **fields}).encode()
        return self.request("POST", "/v1/ask", body, Content_Type="application/json")

    def upload(self, data: bytes | None = None) -> str:
        status, content = self.request("POST", "/v1/images", data or served.png(), Content_Type="image/png")
        assert status == 201, content
        return content["id"]

    def metric(self, name: str) -> float:
        lines = self.request("GET", "/metrics")[1]["text"].splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)


class Running(Address):
    """A server in a thread.

    Attributes:
        connections: that are open.
    """

    def __init__(self, port: int, app: Application, connections: Collection[object]) -> None:
        super().__init__(port)
        self.app, self.connections = app, connections


@contextlib.contextmanager
def running(
    settings: ServerSettings, make: Callable[[], Mimo] = fakes.fake_mimo, adapters: Sequence[Adapter] = ()
) -> Iterator[Running]:
    """A server over the fakes, whose model is ready; ``settings`` has port 0."""
    app = create_app(served.host_of(make), settings, adapters)
    server, listening = open_server(app, settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        address = Running(listening.getsockname()[1], app, server.server_state.connections)
        if settings.tls_cert is None:
            wait_for(address.is_ready)
        yield address
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


class Process(Address):
    """``mimo-run serve``; ``log`` is its standard error, whole after :meth:`stop`."""

    def __init__(
        self,
        bundle: Path,
        *options: str,
        cwd: Path,
        environment: dict[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        command = [sys.executable, "-m", "mimo_runtime", "serve", str(bundle), "--port", "0", *options]
        self.process = subprocess.Popen(
            command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert line.startswith("listening on http"), line + self.process.stderr.read()
        super().__init__(int(line.rpartition(":")[2]), context)
        self.lines: list[str] = []
        self._reading = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)
        self._reading.start()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_ready(self) -> Process:
        wait_for(lambda: self.process.poll() is not None or self.request("GET", "/ready")[0] == 200)
        assert self.process.poll() is None
        return self

    def peak_mb(self) -> float:
        """The most memory that the process had, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self._end()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self._end()

    def _end(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self._reading.join(PATIENCE_S)
        self.process.stdout.close()
        return code
