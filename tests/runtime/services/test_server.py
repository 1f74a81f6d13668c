"""A real server on a free port of this machine: what only sockets, signals and processes show."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fakes
import pytest

pytest.importorskip("uvicorn")
import served

BOUNDARY = "limit"


class Server:
    """``mimo-run serve`` with a bundle; ``log`` is its standard error after the end."""

    def __init__(self, bundle: Path, *options: str, cwd: Path) -> None:
        command = [sys.executable, "-m", "mimo_runtime", "serve", str(bundle), "--port", "0", *options]
        self.process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("listening on http"), line + self.process.stderr.read()
        self.address = line.split()[-1]
        self.port = int(self.address.rpartition(":")[2])
        self.log = ""

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, json.loads(content) if content[:1] == b"{" else {"text": content.decode()}

    def wait_ready(self) -> Server:
        end = time.monotonic() + 60
        while self.request("GET", "/ready")[0] != 200:
            assert time.monotonic() < end and self.process.poll() is None
            time.sleep(0.05)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        _, self.log = self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture
def start(bundle_folder: Path, tmp_path: Path):
    servers = []

    def begin(*options: str) -> Server:
        servers.append(Server(bundle_folder, *options, cwd=tmp_path))
        return servers[-1].wait_ready()

    yield begin
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def test_a_bundle_is_served_and_ends_on_sigterm(start):
    server = start("--log-level", "debug")
    assert server.request("GET", "/health") == (200, {"status": "ok"})
    assert server.request("GET", "/ready") == (200, {"status": "ready", "samples": 2})
    status, image = server.request("POST", "/v1/images", served.png(), Content_Type="image/png")
    assert status == 201
    body = json.dumps({"image": image["id"], "text": "polyp", "boxes": [fakes.BOX]}).encode()
    status, answer = server.request("POST", "/v1/ask", body, Content_Type="application/json")
    assert status == 200 and answer["findings"][0]["phrase"] == "polyp"
    _, metrics = server.request("GET", "/metrics")
    assert 'mimo_http_requests_total{method="POST",route="/v1/ask",status="200"} 1.0' in metrics["text"]
    os.kill(server.process.pid, signal.SIGHUP)
    end = time.monotonic() + 30
    while "mimo_model_generation 2.0" not in server.request("GET", "/metrics")[1]["text"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.splitlines()]
    asked = [line for line in lines if line.get("route") == "/v1/ask"]
    assert [(line["event"], line["status"], line["method"]) for line in asked] == [("request", 200, "POST")]
    assert "polyp" not in server.log and image["id"] not in server.log
