"""The OpenAPI document: written from the types by which requests are read and responses made."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Union

from .fields import hints_of, is_required

#: JSON of a schema or of a document.
Json = dict[str, object]
_SCALARS = {str: "string", bool: "boolean", int: "integer", float: "number", types.NoneType: "null"}


@dataclass(frozen=True)
class Operation:
    """What a client may call.

    Args:
        method: of HTTP.
        path: with placeholders.
        summary: one sentence.
        body: dataclass of the JSON of the request; None without one.
        reply: type of the JSON of the response; None for one without JSON.
        status: of success.
        parts: files of a multipart request, beside ``body`` as the part "request".
        files: whether the body may be a file itself.
        query: parameters of the address, with their meaning.
        media: of the response, if not JSON alone.
    """

    method: str
    path: str
    summary: str
    body: type | None
    reply: type | None
    status: int = 200
    parts: tuple[str, ...] = ()
    files: bool = False
    query: tuple[tuple[str, str], ...] = ()
    media: tuple[str, ...] = ()


class ErrorFacts(typing.TypedDict):
    """What went wrong: a sentence, a word, and the status."""

    message: str
    type: str
    code: int


class ErrorJson(typing.TypedDict):
    """The body of every refusal."""

    error: ErrorFacts


def document(operations: Sequence[Operation], version: str, has_keys: bool) -> Json:
    """The OpenAPI 3.1 document."""
    schemas: Json = {}
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    content: Json = {
        "openapi": "3.1.0",
        "info": {"title": "mimo-edge", "version": version, "description": "Questions about medical images, with masks."},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }
    return content | ({"security": [{"key": []}]} if has_keys else {})


def _operation(operation: Operation, schemas: Json) -> Json:
    replies: Json = {
        str(operation.status): {"description": "Done.", "content": _reply_content(operation, schemas)},
        "default": {
            "description": "Refused, with a sentence.",
            "content": {"application/json": {"schema": schema_of(ErrorJson, schemas)}},
        },
    }
    content: Json = {"summary": operation.summary, "responses": replies}
    names = re.findall(r"{(\w+)}", operation.path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    parameters += [
        {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in operation.query
    ]
    body = _body_content(operation, schemas)
    return content | ({"parameters": parameters} if parameters else {}) | ({"requestBody": {"content": body}} if body else {})


def _reply_content(operation: Operation, schemas: Json) -> Json:
    content: Json = {media: {"schema": {"type": "string"}} for media in operation.media}
    if operation.reply is not None:
        content["application/json"] = {"schema": schema_of(operation.reply, schemas)}
    return content


def _body_content(operation: Operation, schemas: Json) -> Json:
    content: Json = {}
    properties: Json = {name: {"type": "string", "contentMediaType": "application/octet-stream"} for name in operation.parts}
    if operation.body is not None:
        content["application/json"] = {"schema": schema_of(operation.body, schemas)}
        properties["request"] = schema_of(operation.body, schemas)
    if operation.parts:
        content["multipart/form-data"] = {"schema": {"type": "object", "properties": properties}}
    if operation.files:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return content


def schema_of(hint: object, schemas: Json) -> Json:
    """The JSON schema of a type. Dataclasses and typed dictionaries are added to ``schemas``, and referred to.

    Raises:
        TypeError: the type has no JSON.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(kind, schemas) for kind in arguments]}
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is list or origin is tuple and arguments[1:] == (Ellipsis,):
        return {"type": "array", "items": schema_of(arguments[0], schemas)}
    if origin is tuple:
        items = [schema_of(kind, schemas) for kind in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": schema_of(arguments[1], schemas)}
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or typing.is_typeddict(hint)):
        return _reference(hint, schemas)
    raise TypeError(f"{hint} has no JSON schema")


def _reference(kind: type, schemas: Json) -> Json:
    reference: Json = {"$ref": f"#/components/schemas/{kind.__name__}"}
    if kind.__name__ in schemas:
        return reference
    content = schemas[kind.__name__] = dict[str, object]()
    texts = described_fields(kind)
    properties: dict[str, Json] = {}
    for name, hint in hints_of(kind).items():
        schema = schema_of(hint, schemas)
        properties[name] = schema | ({"description": texts[name]} if name in texts else {})
    if dataclasses.is_dataclass(kind):
        required = [field.name for field in dataclasses.fields(kind) if is_required(field)]
    else:
        required = sorted(getattr(kind, "__required_keys__", ()))
    summary = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    content |= {
        "type": "object", "description": summary, "properties": properties, "required": required, "additionalProperties": False,
    }  # fmt: skip
    return reference


def described_fields(kind: type) -> dict[str, str]:
    """The descriptions of the section ``Args:`` of a docstring, by name."""
    _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")
    entries = re.split(r"\n(?=\S)", inspect.cleandoc(section.partition("\n\n")[0]))
    named = (entry.partition(":") for entry in entries if ":" in entry)
    return {name: " ".join(text.split()) for name, _, text in named}
