"""Questions over HTTP: the answers of the pipeline, with masks inside, whole or as events."""

from __future__ import annotations

import base64
import io
import json
import uuid

import fakes
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
import served

from mimo_runtime.clinical.coco import decode_mask, encode_mask
from mimo_runtime.services import jobs as jobs_module

BOX = list(fakes.BOX)
QUESTION = {"text": "Where is the polyp?", "boxes": [BOX]}


@pytest.fixture(scope="module")
def client():
    with served.client() as ready:
        yield ready


@pytest.fixture(scope="module")
def image_id(client) -> str:
    reply = client.post("/v1/images", content=served.png(), headers={"Content-Type": "image/png"})
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]


def ask(client, **fields):
    return client.post("/v1/ask", json={**QUESTION, **fields})


def test_an_answer_is_that_of_the_pipeline(client, image_id: str):
    reply = ask(client, image=image_id)
    assert reply.status_code == 200, reply.text
    with fakes.fake_mimo() as mimo:
        answer = mimo.open(served.png()).ask(QUESTION["text"], QUESTION["boxes"])
    content = reply.json()
    expected = answer.to_dict()
    assert content["text"] == answer.text and content["generated"] == answer.generated
    for finding, served_finding, wanted in zip(answer.findings, content["findings"], expected["findings"], strict=True):
        assert np.array_equal(decode_mask(served_finding["mask"]), finding.mask)
        assert {**served_finding, "mask": None} == wanted
    assert content["image"]["id"] == image_id and (content["image"]["width"], content["image"]["height"]) == (100, 60)
    assert content["model"]["generation"] == 1 and content["request"] == reply.headers["x-request-id"]


def test_an_image_that_comes_with_the_question_is_stored(client):
    pixels = fakes.picture(value=77)
    files = {"image": ("../../etc/passwd", served.png(pixels)), "request": (None, json.dumps(QUESTION))}
    reply = client.post("/v1/ask", files=files)
    assert reply.status_code == 200, reply.text
    again = ask(client, image=reply.json()["image"]["id"])
    assert again.status_code == 200 and again.json()["findings"] == reply.json()["findings"]


@pytest.mark.parametrize("how", ["rle", "png"])
def test_a_mask_is_read_as_it_is_written(client, image_id: str, how: str):
    mask = np.zeros((60, 100), bool)
    mask[10:30, 20:70] = True
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    sent = encode_mask(mask) if how == "rle" else base64.b64encode(buffer.getvalue()).decode()
    reply = client.post("/v1/ask", json={"image": image_id, "text": "polyp", "mask": sent, "mask_format": how})
    assert reply.status_code == 200, reply.text
    received = reply.json()["findings"][0]["mask"]
    drawn = decode_mask(received) if how == "rle" else np.asarray(Image.open(io.BytesIO(base64.b64decode(received)))) > 0
    with fakes.fake_mimo() as mimo:
        assert np.array_equal(drawn, mimo.open(served.png()).ask("polyp", mask=mask).findings[0].mask)


def test_events_bring_the_draft_and_the_answer(client, image_id: str):
    reply = client.post("/v1/ask", json={**QUESTION, "image": image_id}, headers={"Accept": "text/event-stream"})
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\n", 1) for block in reply.text.strip().split("\n\n")]
    named = [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in events]
    assert [name for name, _ in named] == ["request", *["draft"] * (len(named) - 2), "answer"]
    answer = named[-1][1]
    assert "".join(content["text"] for name, content in named if name == "draft") == answer["generated"] != ""
    assert answer["findings"] == ask(client, image=image_id).json()["findings"]


def test_an_error_before_the_first_event_is_a_status(client):
    reply = client.post("/v1/ask", json={**QUESTION, "image": "0" * 64}, headers={"Accept": "text/event-stream"})
    assert reply.status_code == 404 and reply.json()["error"]["type"] == "not_found"


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"image": "0" * 64}, 404, "no image of this id"),
        ({"image": "../../etc/passwd"}, 404, "no image of this id"),
        ({}, 422, "no image"),
        ({"boxes": [[1, 2, 3]]}, 422, "box 1"),
        ({"boxes": [[1, 2, 3, "SECRET"]]}, 422, "'boxes[0][3]' is not a number"),
        ({"boxes": [[0, 0, 9e9, 9e9]]}, 422, "box"),
        ({"nonsense": 1}, 422, "no field 'nonsense'"),
        ({"mask": {"counts": [1, 2], "size": [60, 100]}}, 422, "do not fill"),
        ({"mask": {"counts": [10**30], "size": [10**9, 10**9]}}, 422, "do not fill"),
        ({"mask": "no base64!"}, 422, "base64"),
        ({"mask_format": "jpeg"}, 422, "one of rle, png, none"),
        ({"masks": False, "text_answer": False}, 422, "neither"),
        ({"deadline_ms": -1}, 422, "deadline"),
        ({"objects": ["seg", "exe"]}, 422, "unknown format 'exe'"),
        ({"objects": ["seg"]}, 422, "DICOM"),
        ({"frame": 3}, 422, "frame"),
        ({"modality": "telepathy"}, 422, "telepathy"),
    ],
)
def test_a_wrong_question_is_refused_with_a_sentence(client, image_id: str, fields, status: int, words: str):
    named = {} if fields == {} else {"image": image_id}
    reply = ask(client, **{**named, **fields})
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert words in error["message"] and error["message"].endswith(".") and error["code"] == status
    assert "SECRET" not in reply.text and "Traceback" not in reply.text


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"text": NaN}', b'{"text": "a", "text": "b"}', b"[" * 100_000])
def test_malformed_json_is_refused(client, content: bytes):
    reply = client.post("/v1/ask", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code == 422 and reply.json()["error"]["message"].endswith(".")


def test_a_deadline_that_passes_is_said(clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs_module, "time", clock)
    mimo = fakes.fake_mimo()
    with served.client(make=lambda: mimo) as ready:
        stored = ready.post("/v1/images", content=served.png(), headers={"Content-Type": "image/png"}).json()["id"]
        with fakes.held(mimo, "mask_decoder") as begun:
            clock.deadline(begun.is_set)
            late = ask(ready, image=stored, deadline_ms=120)
        assert late.status_code == 200 and late.json()["finish_reason"] == "deadline"


def test_a_deadline_that_passes_before_an_image_is_open_is_said():
    with served.client(make=lambda: fakes.fake_mimo(delay=0.05)) as ready:
        late = ready.post("/v1/images", content=served.png(), headers={"Content-Type": "image/png", "X-Deadline-Ms": "1"})
        assert late.status_code == 504 and late.json()["error"]["type"] == "deadline"


def test_the_id_of_a_request_is_a_uuid(client, image_id: str):
    number = str(uuid.uuid4())
    reply = client.post("/v1/ask", json={**QUESTION, "image": image_id}, headers={"X-Request-ID": number})
    assert reply.json()["request"] == number == reply.headers["x-request-id"]
    refused = client.post("/v1/ask", json={**QUESTION, "image": image_id}, headers={"X-Request-ID": "Jane^Doe"})
    assert refused.status_code == 422 and client.delete(f"/v1/requests/{number}").status_code == 404
