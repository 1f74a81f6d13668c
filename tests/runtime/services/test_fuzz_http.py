"""Whatever comes, the answer is an answer or a refusal with a sentence, never a failure."""

from __future__ import annotations

import json

import fakes
import pytest

pytest.importorskip("starlette")
hypothesis = pytest.importorskip("hypothesis")
import served  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from mimo_runtime.services.http.adapters import BUILT_IN  # noqa: E402

FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
FIELDS = (
    "image", "text", "boxes", "points", "mask", "frame", "modality", "window", "masks", "text_answer", "refine", "any_domain",
    "max_tokens", "temperature", "top_k", "top_p", "seed", "deadline_ms", "mask_format", "contours", "objects", "other",
    "messages", "model", "stream", "n", "grounding", "counts", "size", "role", "content", "type", "url",
)  # fmt: skip
WORDS = st.text(max_size=20) | st.sampled_from(["polyp", "png", "user", "seg"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(FIELDS) | WORDS, inner, max_size=4),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6)


@pytest.fixture(scope="module")
def client():
    with served.client(adapters=BUILT_IN) as ready:
        ready.image = ready.post("/v1/images", content=served.png(), headers={"Content-Type": "image/png"}).json()["id"]
        yield ready


def is_answer_or_refusal(reply) -> bool:
    if reply.status_code in (200, 201):
        return True
    error = reply.json()["error"]
    return 400 <= reply.status_code < 500 and error["code"] == reply.status_code and error["message"].endswith(".")


@FEW
@given(body=BODIES)
def test_any_json_is_answered_or_refused(client, body: dict):
    content = json.dumps({"boxes": [fakes.BOX], "image": client.image, **body}).encode()
    for path in ("/v1/ask", "/v1/chat/completions"):
        reply = client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert is_answer_or_refusal(reply), reply.text


@FEW
@given(cut=st.integers(0, 2000), noise=st.binary(max_size=40), at=st.integers(0, 2000))
def test_any_damage_of_an_image_is_answered_or_refused(client, cut: int, noise: bytes, at: int):
    data = bytearray(served.png())
    data[at % len(data) : at % len(data) + len(noise)] = noise
    reply = client.post("/v1/images", content=bytes(data[: cut or None]), headers={"Content-Type": "application/octet-stream"})
    assert is_answer_or_refusal(reply), reply.text


@FEW
@given(body=st.binary(max_size=300), boundary=st.text(max_size=10))
def test_any_multipart_is_answered_or_refused(client, body: bytes, boundary: str):
    kind = b"multipart/form-data; boundary=" + boundary.encode("utf-8", "replace").replace(b"\n", b"").replace(b"\r", b"")
    for content in (body, b"--limit\r\n" + body, b'--limit\r\nContent-Disposition: form-data; name="request"\r\n\r\n' + body):
        for header in (kind, b"multipart/form-data; boundary=limit"):
            assert is_answer_or_refusal(client.post("/v1/ask", content=content, headers={b"Content-Type": header}))


@FEW
@given(parameters=st.dictionaries(st.sampled_from(["frame", "modality", "window", "x"]), st.text(max_size=12), max_size=3))
def test_any_address_is_answered_or_refused(client, parameters: dict):
    for path in (f"/v1/images/{client.image}", f"/v1/images/{client.image}/picture"):
        reply = client.get(path, params=parameters)
        assert reply.headers["content-type"] == "image/png" or is_answer_or_refusal(reply), reply.text
