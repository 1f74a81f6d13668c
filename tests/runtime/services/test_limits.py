"""What hostile or slow clients meet at a socket: sizes, times, connections."""

from __future__ import annotations

import json
import socket
import time

import fakes
import pytest

pytest.importorskip("uvicorn")
import served
from served_process import running

from mimo_runtime.services.http.service import Adapter
from mimo_runtime.services.settings import MB, ServerSettings

SETTINGS = ServerSettings(
    port=0, max_body=2 * MB, max_bodies=3 * MB, header_s=0.4, body_s=0.6, send_s=0.4, keep_alive_s=1, max_connections=8
)
HEAD = "POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def server():
    with running(SETTINGS, adapters=(Adapter(large_routes),)) as address:
        yield address


def large_routes(service):
    """A response of 256 MB in pieces."""
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def large(request):
        return StreamingResponse(bytes(MB) for _ in range(256))

    return [Route("/large", large)]


def reply_of(client: socket.socket) -> tuple[int, dict]:
    """Status and JSON of a response; (0, {}) for a connection that is closed without one."""
    received = b""
    while part := client.recv(65536):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return (int(head.split()[1]), json.loads(body)) if head else (0, {})


def send_until_closed(client: socket.socket, block: bytes, most: int) -> int:
    """How many bytes could be sent."""
    sent = 0
    try:
        while sent < most:
            client.sendall(block)
            sent += len(block)
    except OSError:
        pass
    return sent


def test_a_body_of_a_gigabyte_is_refused_by_its_stated_size(server):
    client = server.connect()
    client.sendall(f"{HEAD}Content-Length: {1 << 30}\r\n\r\n".encode())
    begin = time.monotonic()
    status, content = reply_of(client)
    assert status == 413 and "larger than 2 MB" in content["error"]["message"]
    assert time.monotonic() - begin < 5


def test_a_body_of_unknown_size_is_refused_where_it_grows_too_large(server):
    client = server.connect()
    client.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
    block = b"10000\r\n" + bytes(65536) + b"\r\n"
    client.settimeout(5)
    assert send_until_closed(client, block, 1 << 30) < 256 * MB
    with server.connect() as other:
        other.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + 40 * block)
        status, content = reply_of(other)
        assert status == 413 and "larger than 2 MB" in content["error"]["message"]


def test_bodies_together_have_a_limit(server):
    first, second = server.connect(), server.connect()
    first.sendall(f"{HEAD}Content-Length: {2 * MB}\r\n\r\n".encode() + bytes(MB))
    time.sleep(0.1)
    second.sendall(f"{HEAD}Content-Length: {2 * MB}\r\n\r\n".encode())
    status, content = reply_of(second)
    assert status == 429 and content["error"]["type"] == "busy"
    assert reply_of(first)[0] == 408
    assert server.request("POST", "/v1/images", bytes(MB), Content_Type="image/png")[0] == 422


@pytest.mark.parametrize("begin", [b"", b"POST /v1/ask HTT", HEAD.encode() + b"X-Slow: "])
def test_a_head_that_does_not_end_is_closed(server, begin: bytes):
    """Also where a byte comes now and then."""
    client, start = server.connect(), time.monotonic()
    client.sendall(begin)
    client.settimeout(0.1)
    received = b""
    while time.monotonic() - start < 10:
        try:
            part = client.recv(4096)
            received += part
            if not part:
                break
        except TimeoutError:
            client.sendall(b"a" if begin else b"")
    assert 0.3 < time.monotonic() - start < 3
    assert received.startswith(b"HTTP/1.1 408") and b"did not arrive" in received


def test_a_second_head_on_a_connection_has_the_same_time(server):
    client = server.connect()
    client.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    received = b""
    while not received.endswith(b"}"):
        received += client.recv(4096)
    assert received.startswith(b"HTTP/1.1 200")
    client.sendall(b"GET /hea")
    assert reply_of(client)[0] == 408


def test_a_body_that_does_not_end_is_closed(server):
    for framing, part in (("Content-Length: 1000", b"x"), ("Transfer-Encoding: chunked", b"1\r\nx\r\n")):
        client, start = server.connect(), time.monotonic()
        client.sendall(f"{HEAD}{framing}\r\n\r\n".encode())
        client.settimeout(0.1)
        received = b""
        while time.monotonic() - start < 10:
            try:
                piece = client.recv(4096)
                received += piece
                if not piece:
                    break
            except TimeoutError:
                client.sendall(part)
        assert received.startswith(b"HTTP/1.1 408") and b"body did not arrive" in received
        assert time.monotonic() - start < 4


def test_a_client_that_does_not_read_is_dropped(server):
    client = server.connect()
    client.sendall(b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    time.sleep(1.5)
    received = 0
    try:
        while part := client.recv(1 << 20):
            received += len(part)
    except OSError:
        pass
    assert 0 < received < 200 * MB


def test_connections_have_a_limit(server):
    server.wait_for(lambda: server.request("GET", "/health")[0] == 200)
    held = [server.connect() for _ in range(SETTINGS.max_connections)]
    last = server.connect()
    last.settimeout(5)
    try:
        last.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert last.recv(100) == b""
    except OSError:
        pass  # reset
    for client in held:
        client.close()
    server.wait_for(lambda: _answers(server))


def _answers(server) -> bool:
    try:
        return server.request("GET", "/health")[0] == 200
    except OSError:
        return False


@pytest.mark.parametrize(
    "request_text",
    [
        "NONSENSE\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        "POST /v1/ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        "GET /" + 700_000 * "a" + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(server, request_text: str):
    client = server.connect()
    client.sendall(request_text.encode())
    received = b""
    try:
        while part := client.recv(4096):
            received += part
    except OSError:
        pass
    assert received.split()[1] in (b"400", b"421"), received[:200]
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["message"].endswith(".")


def test_the_service_answers_after_all_that(server):
    image = server.upload(served.png(fakes.picture(value=31)))
    assert server.ask(image)[0] == 200
    server.wait_for(lambda: server.metric("mimo_jobs_running") == 0)
