"""The OpenAPI document says what the service does."""

from __future__ import annotations

import base64

import fakes
import pytest

pytest.importorskip("starlette")
import served

from mimo_runtime.services.http.adapters import BUILT_IN
from mimo_runtime.services.settings import ApiKeys, ServerSettings

ADMIN = "a" * 32
KINDS = {
    "string": str, "boolean": bool, "null": type(None), "object": dict, "array": list, "integer": int, "number": (int, float),
}  # fmt: skip


@pytest.fixture(scope="module")
def client():
    with served.client(ServerSettings(admin_keys=ApiKeys((ADMIN,))), adapters=BUILT_IN) as ready:
        yield ready


@pytest.fixture(scope="module")
def document(client) -> dict:
    return client.get("/openapi.json").json()


def misfits(value: object, schema: dict, document: dict, path: str = "$") -> list[str]:
    """Where a value does not fit a schema; of the keywords that the document uses."""
    if "$ref" in schema:
        return misfits(value, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document, path)
    if "anyOf" in schema:
        tries = [misfits(value, one, document, path) for one in schema["anyOf"]]
        return [] if [] in tries else [f"{path} fits none: {tries}"]
    kinds = {
        "string": str,
        "boolean": bool,
        "null": type(None),
        "object": dict,
        "array": list,
        "integer": int,
        "number": (int, float),
    }
    kind = schema["type"]
    if not isinstance(value, kinds[kind]) or isinstance(value, bool) and kind != "boolean":
        return [f"{path} is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path} is none of {schema['enum']}"]
    if kind == "array":
        items = schema["prefixItems"] if "prefixItems" in schema else [schema["items"]] * len(value)
        wrong = [] if len(items) == len(value) else [f"{path} has {len(value)} entries"]
        return wrong + [m for k, (v, s) in enumerate(zip(value, items)) for m in misfits(v, s, document, f"{path}[{k}]")]
    if kind != "object":
        return []
    named, others = schema.get("properties", {}), schema.get("additionalProperties")
    wrong = [f"{path} lacks {name}" for name in schema.get("required", ()) if name not in value]
    for name, entry in value.items():
        if name in named or isinstance(others, dict):
            wrong += misfits(entry, named.get(name) or others, document, f"{path}.{name}")
        elif others is False:
            wrong.append(f"{path} has {name}")
    return wrong


def test_the_check_sees_what_is_wrong():
    schema = {
        "type": "object", "required": ["a"], "additionalProperties": False,
        "properties": {
            "a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "b": {"type": "array", "items": {"type": "number"}},
        },
    }  # fmt: skip
    assert misfits({"a": None, "b": [1, 2.5]}, schema, {}) == []
    for wrong in ({}, {"a": True}, {"a": 1, "c": 2}, {"a": 1, "b": ["x"]}, [], {"a": 1.5}):
        assert misfits(wrong, schema, {}), wrong


def test_every_route_is_described(client, document: dict):
    from starlette.routing import Route

    routes = {
        (method.lower(), route.path)
        for adapter in (*BUILT_IN,)
        for route in adapter.routes(client.service)
        for method in route.methods - {"HEAD"}
        if isinstance(route, Route)
    }
    described = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert routes <= described and ("post", "/v1/ask") in described and len(described) >= 12
    for method, path in described:
        reply = client.request(method, path.replace("{id}", "x"))
        assert reply.status_code not in (404, 405) or "There is nothing" not in reply.text, (method, path)
        assert reply.status_code != 405, (method, path)


def test_responses_fit_the_document(client, document: dict):
    image = client.post("/v1/images", content=served.png(), headers={"Content-Type": "image/png"})
    data = "data:image/png;base64," + base64.b64encode(served.png()).decode()
    message = {
        "role": "user",
        "content": [{"type": "text", "text": "polyp"}, {"type": "image_url", "image_url": {"url": data}}],
    }
    question = {"image": image.json()["id"], "text": "What do you see?", "boxes": [fakes.BOX], "contours": True}
    calls = [
        ("post", "/v1/images", image),
        ("get", "/v1/images/{id}", client.get(f"/v1/images/{image.json()['id']}")),
        ("post", "/v1/ask", client.post("/v1/ask", json=question)),
        ("post", "/v1/ask", client.post("/v1/ask", json={**question, "mask_format": "png", "boxes": []})),
        ("post", "/v1/ask", client.post("/v1/ask", json={**question, "text": "Who won the cup?", "boxes": [], "masks": True})),
        ("post", "/v1/chat/completions", client.post("/v1/chat/completions", json={"messages": [message]})),
        ("get", "/v1/models", client.get("/v1/models")),
        ("get", "/v1/model", client.get("/v1/model")),
        ("get", "/health", client.get("/health")),
        ("get", "/ready", client.get("/ready")),
        ("post", "/v1/bundle", client.post("/v1/bundle", headers={"X-Admin-Key": ADMIN})),
    ]
    for method, path, reply in calls:
        schema = document["paths"][path][method]["responses"][str(reply.status_code)]["content"]["application/json"]["schema"]
        assert misfits(reply.json(), schema, document) == [], (path, reply.text[:300])
    refusal = client.post("/v1/ask", json={"text": "polyp"})
    schema = document["paths"]["/v1/ask"]["post"]["responses"]["default"]["content"]["application/json"]["schema"]
    assert refusal.status_code == 422 and misfits(refusal.json(), schema, document) == []


def test_requests_of_the_tests_fit_the_document_and_fields_are_explained(document: dict):
    body = document["components"]["schemas"]["AskBody"]
    question = {"image": "x", "boxes": [[1, 2, 3, 4]], "mask": {"counts": [1], "size": [1, 1]}, "window": [40, 400.5]}
    assert misfits(question, body, document) == []
    assert misfits({**question, "boxes": [["1"]]}, body, document) and misfits({"window": [1]}, body, document)
    assert all(len(entry["description"]) > 5 for entry in body["properties"].values())
    mask = body["properties"]["mask"]["anyOf"]
    assert {"$ref": "#/components/schemas/RunLengthMask"} in mask and {"type": "string"} in mask
