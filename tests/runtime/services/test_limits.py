"""What hostile or slow clients meet at a socket: sizes, times, connections."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time

import fakes
import pytest

pytest.importorskip("uvicorn")
import served
from served_process import Address, running
from waiting import PATIENCE_S, wait_for

from mimo_runtime.services.http.service import Adapter
from mimo_runtime.services.settings import MB, ServerSettings

SIZES = {"port": 0, "max_body": 2 * MB, "max_bodies": 3 * MB, "max_connections": 8}
HEAD = "POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def server():
    """Its limits of time are longer than a test."""
    with running(ServerSettings(**SIZES, header_s=300, body_s=300, send_s=300, keep_alive_s=300)) as address:
        yield address


@pytest.fixture(scope="module")
def hasty():
    """A server for tests of its limits of time: on a busy machine it may also refuse a client that is not slow."""
    settings = ServerSettings(**SIZES, header_s=0.4, body_s=0.6, send_s=0.4, keep_alive_s=1)
    with running(settings, adapters=(Adapter(large_routes),)) as address:
        yield address


def large_routes(service):
    """A response of 256 MB in pieces."""
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def large(request):
        return StreamingResponse(bytes(MB) for _ in range(256))

    return [Route("/large", large)]


def all_of(client: socket.socket) -> bytes:
    """What comes until the connection is closed or reset."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            received += part
    return received


def reply_of(client: socket.socket) -> tuple[int, dict]:
    """Status and JSON of a response; (0, {}) for a connection that is closed without one."""
    head, _, body = all_of(client).partition(b"\r\n\r\n")
    return (int(head.split()[1]), json.loads(body)) if head else (0, {})


def all_while_sending(client: socket.socket, piece: bytes) -> bytes:
    """What comes until the connection is closed, while a piece is sent now and then."""
    client.settimeout(0.1)
    received, end = b"", time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            part = client.recv(4096)
        except TimeoutError:
            with contextlib.suppress(ConnectionError):  # closed meanwhile: what came is still there
                client.sendall(piece)
            continue
        except ConnectionError:
            return received
        if not part:
            return received
        received += part
    pytest.fail("the connection stays open")


def send_until_closed(client: socket.socket, block: bytes, most: int) -> int:
    """How many bytes could be sent."""
    sent = 0
    with contextlib.suppress(OSError):
        while sent < most:
            client.sendall(block)
            sent += len(block)
    return sent


def test_a_body_of_a_gigabyte_is_refused_by_its_stated_size(server):
    client = server.connect()
    client.sendall(f"{HEAD}Content-Length: {1 << 30}\r\n\r\n".encode())
    status, content = reply_of(client)  # no byte of the body was sent
    assert status == 413 and "larger than 2 MB" in content["error"]["message"]


def test_a_body_of_unknown_size_is_refused_where_it_grows_too_large(server):
    client = server.connect()
    client.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
    block = b"10000\r\n" + bytes(65536) + b"\r\n"
    client.settimeout(5)
    assert send_until_closed(client, block, 1 << 30) < 256 * MB
    with server.connect() as other:
        with contextlib.suppress(ConnectionError):
            other.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + 40 * block)
        status, content = reply_of(other)
        assert status == 413 and "larger than 2 MB" in content["error"]["message"]


def test_bodies_together_have_a_limit(server):
    first, second = server.connect(), server.connect()
    first.sendall(f"{HEAD}Content-Length: {2 * MB}\r\nExpect: 100-continue\r\n\r\n".encode())
    assert first.recv(4096).startswith(b"HTTP/1.1 100")  # its body is expected, and counts
    second.sendall(f"{HEAD}Content-Length: {2 * MB}\r\n\r\n".encode())
    status, content = reply_of(second)
    assert status == 429 and content["error"]["type"] == "busy"
    first.close()
    wait_for(lambda: server.request("POST", "/v1/images", bytes(2 * MB), Content_Type="image/png")[0] == 422)


@pytest.mark.parametrize("begin", [b"", b"POST /v1/ask HTT", HEAD.encode() + b"X-Slow: "])
def test_a_head_that_does_not_end_is_closed(hasty, begin: bytes):
    """Also where a byte comes now and then."""
    start = time.monotonic()
    client = hasty.connect()
    client.sendall(begin)
    received = all_while_sending(client, b"a" if begin else b"")
    assert time.monotonic() - start > 0.3
    assert received.startswith(b"HTTP/1.1 408") and b"did not arrive" in received


def test_a_second_head_on_a_connection_has_the_same_time(hasty):
    def first_answered() -> socket.socket | None:
        client, received = hasty.connect(), b""
        with contextlib.suppress(ConnectionError):
            client.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            while not received.endswith(b"}") and (part := client.recv(4096)):
                received += part
        return client if received.startswith(b"HTTP/1.1 200") else None

    client = wait_for(first_answered)
    client.sendall(b"GET /hea")
    assert reply_of(client)[0] == 408


def test_a_body_that_does_not_end_is_closed(hasty):
    for framing, part in (("Content-Length: 1000", b"x"), ("Transfer-Encoding: chunked", b"1\r\nx\r\n")):
        client = hasty.connect()
        client.sendall(f"{HEAD}{framing}\r\n\r\n".encode())
        received = all_while_sending(client, part)
        assert received.startswith(b"HTTP/1.1 408") and b"body did not arrive" in received


def test_a_client_that_does_not_read_is_dropped(hasty):
    client = hasty.connect()
    client.sendall(b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    received = len(client.recv(1))  # the response has begun
    wait_for(lambda: not hasty.connections)
    received += len(all_of(client))  # what was on its way
    assert 0 < received < 200 * MB


def test_connections_have_a_limit(server):
    wait_for(lambda: server.request("GET", "/health")[0] == 200)
    held = [server.connect() for _ in range(SIZES["max_connections"])]
    last = server.connect()
    with contextlib.suppress(ConnectionError):
        last.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert all_of(last) == b""
    for client in held:
        client.close()
    wait_for(lambda: _answers(server))


def _answers(server: Address) -> bool:
    try:
        return server.request("GET", "/health")[0] == 200
    except (OSError, http.client.HTTPException):
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
    with contextlib.suppress(ConnectionError):
        client.sendall(request_text.encode())
    received = all_of(client)
    assert received.split()[1] in (b"400", b"421"), received[:200]
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["message"].endswith(".")


def test_the_service_answers_after_all_that(server, hasty):
    image = server.upload(served.png(fakes.picture(value=31)))
    assert server.ask(image)[0] == 200
    wait_for(lambda: server.metric("mimo_jobs_running") == 0)
    wait_for(lambda: _answers(hasty))
