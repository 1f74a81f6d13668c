"""Requests that are refused before work begins: foreign pages, missing keys, other types, malformed bodies, archives."""

from __future__ import annotations

import gzip
import hmac
import json
import logging

import fakes
import numpy as np
import pytest

pytest.importorskip("starlette")
import served
from hostile_files import bombs

from mimo_runtime.services.http.adapters import BUILT_IN
from mimo_runtime.services.settings import ApiKeys, ServerSettings

KEY, OTHER, ADMIN = "k" * 32, "o" * 40, "a" * 32
VIEWER = "https://viewer.example"


@pytest.fixture(scope="module")
def client():
    with served.client(adapters=BUILT_IN) as ready:
        yield ready


@pytest.fixture(scope="module")
def locked():
    settings = ServerSettings(keys=ApiKeys((KEY, OTHER)), admin_keys=ApiKeys((ADMIN,)), allow_origins=(VIEWER,))
    with served.client(settings, adapters=BUILT_IN) as ready:
        yield ready


def refused(reply, status: int) -> str:
    """The sentence of a refusal of this status."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["code"] == status and error["message"].endswith(".")
    assert "Traceback" not in reply.text and '.py"' not in reply.text
    return error["message"]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::2]", "0.0.0.0"]
)
def test_a_name_that_was_bound_to_this_machine_is_refused(client, host: str):
    assert "Host" in refused(client.get("/v1/model", headers={"Host": host}), 421)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8080", "localhost:1", "LOCALHOST", "[::1]:8080"])
def test_names_of_this_machine_are_answered(client, host: str):
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "http://127.0.0.1:9"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
def test_a_page_of_another_origin_is_refused(client, headers: dict[str, str]):
    assert "origin" in refused(client.get("/v1/model", headers=headers), 403)
    assert "origin" in refused(client.post("/v1/ask", headers=headers, json={}), 403)
    assert "origin" in refused(client.options("/v1/ask", headers=headers), 403)


def test_own_pages_and_links_to_them_are_answered(client):
    own = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    for headers in (own, link):
        reply = client.get("/health", headers=headers)
        assert reply.status_code == 200 and reply.headers["x-frame-options"] == "DENY"
        assert reply.headers["x-content-type-options"] == "nosniff" and reply.headers["cache-control"] == "no-store"


def test_an_allowed_origin_may_read_answers(locked):
    headers = {"Origin": VIEWER, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = locked.options("/v1/ask", headers=headers)
    assert preflight.status_code == 200 and preflight.headers["access-control-allow-origin"] == VIEWER
    reply = locked.get("/v1/model", headers={"Origin": VIEWER, "Authorization": f"Bearer {KEY}"})
    assert reply.status_code == 200 and reply.headers["access-control-allow-origin"] == VIEWER
    assert "access-control-allow-origin" not in locked.get("/health").headers
    refused(locked.get("/v1/model", headers={"Origin": "https://viewer.example.evil"}), 403)


def test_a_key_is_needed_for_all_but_the_probes(locked):
    for path in ("/v1/model", "/metrics", "/openapi.json", "/v1/models", "/nothing", "/health/", "/readyness"):
        reply = locked.get(path)
        assert "key" in refused(reply, 401) and reply.headers["www-authenticate"] == "Bearer"
    for path in ("/health", "/ready"):
        assert locked.get(path).status_code == 200
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer  {OTHER}"}, {"X-API-Key": KEY}):
        assert locked.get("/v1/model", headers=headers).status_code == 200
    for headers in ({"Authorization": f"Basic {KEY}"}, {"X-API-Key": KEY[:-1]}, {"Authorization": b"Bearer \xff\xfe"}):
        refused(locked.get("/v1/model", headers=headers), 401)


def test_keys_are_compared_in_constant_time_and_all_of_them(locked, monkeypatch: pytest.MonkeyPatch):
    compared, compare = [], hmac.compare_digest

    def spy(first: bytes, second: bytes) -> bool:
        compared.append((len(first), len(second)))
        return compare(first, second)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    for key in (KEY, OTHER, "x", "y" * 1000):
        compared.clear()
        locked.get("/v1/model", headers={"X-API-Key": key})
        assert compared == [(32, 32)] * 2  # hashes: the length of a key takes no other time


def test_only_an_administrator_replaces_the_model(client, locked):
    assert "administrator" in refused(client.post("/v1/bundle"), 403)
    headers = {"Authorization": f"Bearer {KEY}"}
    assert "administrator" in refused(locked.post("/v1/bundle", headers=headers), 401)
    admin = {**headers, "X-Admin-Key": ADMIN}
    before = locked.get("/v1/model", headers=headers).json()["generation"]
    assert locked.post("/v1/bundle", headers=admin).json()["generation"] == before + 1
    for name in ("../../etc", "/etc", "other"):
        assert "folder of bundles" in refused(locked.post("/v1/bundle", json={"name": name}, headers=admin), 422)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/zip", "text/html", "x"])
def test_another_type_is_refused(client, kind: str):
    for path in ("/v1/ask", "/v1/images", "/v1/chat/completions"):
        refused(client.post(path, content=served.png(), headers={"Content-Type": kind}), 415)


def test_a_compressed_body_is_refused(client):
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert "compressed" in refused(client.post("/v1/ask", content=gzip.compress(b"{}"), headers=headers), 415)


PART = 'Content-Disposition: form-data; name="{}"{}\r\n\r\n'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no parts at all",
        b"--limit",
        b"--limit\r\n",
        b"--limit\r\n\r\nno header\r\n--limit--\r\n",
        b"--limit\r\nContent-Disposition: form-data\r\n\r\nno name\r\n--limit--\r\n",
        b"--limit\r\n" + PART.format("other", "").encode() + b"x\r\n--limit--\r\n",
        2 * (b"--limit\r\n" + PART.format("request", "").encode() + b"{}\r\n") + b"--limit--\r\n",
        40 * (b"--limit\r\n" + PART.format("image", '; filename="a"').encode() + b"x\r\n") + b"--limit--\r\n",
        b"--limit\r\n" + 20_000 * b"X-Header: y\r\n" + b"\r\n--limit--\r\n",
        b"--limit\r\n" + PART.format("request", "").encode() + b"\xff\xfe\r\n--other--\r\n",
        b"--limit\r\n" + PART.format("image", '; filename="a"').encode() + b"cut off",
    ],
)
def test_a_malformed_multipart_body_is_refused(client, body: bytes):
    for kind in ("multipart/form-data; boundary=limit", "multipart/form-data", "multipart/form-data; boundary="):
        for path in ("/v1/ask", "/v1/images"):
            reply = client.post(path, content=body, headers={"Content-Type": kind})
            assert reply.status_code in (400, 422), (kind, reply.text)
            refused(reply, reply.status_code)


@pytest.mark.parametrize("name", list(bombs()))
def test_archives_and_bombs_are_no_images(client, name: str):
    data = bombs()[name]
    for reply in (
        client.post("/v1/images", content=data, headers={"Content-Type": "application/octet-stream"}),
        client.post("/v1/ask", files={"image": ("../../x.dcm", data), "request": (None, json.dumps({"text": "polyp"}))}),
    ):
        refused(reply, 422)
    assert len(client.service.store.files) == 0


def test_a_deflated_dicom_bomb_is_refused(client):
    pydicom = pytest.importorskip("pydicom")
    from dicom_cases import as_bytes, dataset

    data = dataset(np.zeros((9000, 9000), np.uint16))  # 81 million pixels
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    content = as_bytes(data)
    assert len(content) < 1 << 20
    message = refused(client.post("/v1/images", content=content, headers={"Content-Type": "application/dicom"}), 422)
    assert "SECRET" not in message


@pytest.mark.parametrize("path", ["/v1/images/..%2f..%2fetc%2fpasswd", "/v1/images/%2e%2e/%2e%2e/etc/passwd", "/../etc/passwd"])
def test_a_path_leads_to_no_file(client, path: str):
    refused(client.get(path), 404)


def test_a_failure_shows_nothing_of_itself(caplog: pytest.LogCaptureFixture):
    """An exception that nobody foresaw is a sentence for the client, and a type with places for the log."""

    def broken():
        mimo = fakes.fake_mimo()
        mimo.engines["fusion"].failure = RuntimeError("SECRET^NAME in /data/SECRET.dcm")
        return mimo

    caplog.set_level(logging.DEBUG)
    with served.client(make=broken) as client:
        image = client.post("/v1/images", content=served.png(), headers={"Content-Type": "image/png"}).json()["id"]
        question = {"image": image, "text": "polyp"}
        assert refused(client.post("/v1/ask", json=question), 500) == "The service failed. See its log."
        events = client.post("/v1/ask", json=question, headers={"Accept": "text/event-stream"}).text
        assert "event: error" in events and "The service failed" in events and "SECRET" not in events
    from mimo_runtime.services.logs import JsonFormatter

    lines = [JsonFormatter().format(record) for record in caplog.records if record.name.startswith("mimo_runtime")]
    assert "SECRET" not in "".join(lines) and any('"RuntimeError"' in line and "graphs.py" in line for line in lines)
