"""OpenAI's protocol: messages with an image, the sentence with its grounding, chunks."""

from __future__ import annotations

import base64
import json

import fakes
import numpy as np
import pytest

pytest.importorskip("starlette")
import served

from mimo_runtime.clinical.coco import decode_mask
from mimo_runtime.services.http.adapters import BUILT_IN

DATA = "data:image/png;base64," + base64.b64encode(served.png()).decode()


@pytest.fixture(scope="module")
def client():
    with served.client(adapters=BUILT_IN) as ready:
        yield ready


def message(text: str = "Where is the polyp?", url: str = DATA) -> dict:
    return {"role": "user", "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]}


def complete(client, *messages: dict, **fields):
    return client.post("/v1/chat/completions", json={"messages": messages or [message()], **fields})


def test_the_sentence_comes_with_its_masks(client):
    system = {"role": "system", "content": "You are a radiologist."}
    reply = complete(client, system, message(), model="fake", grounding={"boxes": [fakes.BOX]}, user="Jane")
    assert reply.status_code == 200, reply.text
    content = reply.json()
    with fakes.fake_mimo() as mimo:
        answer = mimo.open(served.png()).ask("Where is the polyp?", [fakes.BOX])
    choice = content["choices"][0]
    assert (content["object"], content["model"], choice["finish_reason"]) == ("chat.completion", "fake", "stop")
    assert choice["message"]["content"] == answer.plain_text and "<p>" not in answer.plain_text
    grounding = choice["message"]["grounding"]
    assert [entry["phrase"] for entry in grounding] == [finding.phrase for finding in answer.findings] != []
    assert np.array_equal(decode_mask(grounding[0]["mask"]), answer.findings[0].mask)


def test_chunks_end_with_the_sentence_and_its_grounding(client):
    reply = complete(client, stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, end = reply.text.strip().split("\n\n")
    assert end == "data: [DONE]"
    deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events]
    whole = complete(client).json()["choices"][0]["message"]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == whole["content"]
    assert deltas[-2]["grounding"] == whole["grounding"] and any("draft" in delta for delta in deltas)
    assert json.loads(events[-1].removeprefix("data: "))["choices"][0]["finish_reason"] == "stop"


def test_the_last_question_of_the_user_counts(client):
    later = {"role": "user", "content": "Where is the absent polyp?"}
    reply = complete(client, message(), {"role": "assistant", "content": "There."}, later)
    assert "no absent polyp" in reply.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://169.254.169.254/latest/meta-data", "not fetched"),
        ("https://example.org/a.png", "not fetched"),
        ("file:///etc/passwd", "not fetched"),
        ("data:image/png,abc", "no base64"),
        ("data:image/png;base64,!!!", "no base64"),
        ("data:image/png;base64,AAAA", "not an image"),
    ],
)
def test_no_address_is_fetched(client, url: str, words: str):
    reply = complete(client, message(url=url))
    assert reply.status_code == 422 and words in reply.json()["error"]["message"]


def test_what_has_no_effect_or_no_answer_is_refused(client):
    assert complete(client, model="gpt-9").status_code == 404
    for fields in ({"n": 2}, {"tools": []}, {"messages": []}, {"messages": [{"role": "user", "content": "polyp"}]}):
        reply = complete(client, **fields)
        assert reply.status_code == 422 and reply.json()["error"]["message"].endswith("."), fields
    assert complete(client, message(), message()).status_code == 422
    assert client.post("/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415


def test_the_model_is_listed(client):
    reply = client.get("/v1/models").json()
    assert [entry["id"] for entry in reply["data"]] == ["fake"]
