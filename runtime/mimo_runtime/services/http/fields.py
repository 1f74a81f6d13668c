"""JSON of requests as dataclasses: the annotations are the check, and the OpenAPI document is written from them, too."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable
from typing import Literal, TypeVar, Union, cast

from ...errors import RequestError
from ...model.json_fields import abbreviate, is_too_deep, unique_keys

Kind = TypeVar("Kind")


def read_json(data: bytes | str, kind: type[Kind]) -> Kind:
    """JSON as a dataclass.

    Raises:
        RequestError: no JSON, an unknown or missing field, or a value of another type. The message names the field and shows no
            value.
    """
    try:
        value = json.loads(data, object_pairs_hook=unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise RequestError("the request is no valid JSON", "Send one JSON object, each key once") from None
    if is_too_deep(value):
        raise RequestError("the JSON of the request nests too deep", "See /openapi.json")
    return cast(Kind, _read(kind, value, ""))


def _refuse_constant(name: str) -> object:
    raise ValueError(name)


def _read(hint: object, value: object, path: str) -> object:
    """The value as the type says."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, path)
    if origin is Literal:
        if value not in arguments or type(value) is not str:
            raise _wrong(path, "one of " + ", ".join(map(str, arguments)))
        return value
    if origin in (tuple, list):
        return _read_list(arguments, value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _read_fields(hint, value, path)
    if hint is float:
        return _number(value, path)
    for kind, words in ((str, "text"), (bool, "true or false"), (int, "a whole number"), (types.NoneType, "null")):
        if hint is kind:
            if type(value) is not kind:
                raise _wrong(path, words)
            return value
    raise TypeError(f"{hint} has no JSON")


def _read_union(kinds: tuple[object, ...], value: object, path: str) -> object:
    """By the first type that fits. The error is that of the type that fits best."""
    if value is None and types.NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not types.NoneType]
    matches = [kind for kind in others if dataclasses.is_dataclass(kind) == isinstance(value, dict)] or others
    if isinstance(value, list):
        matches = [kind for kind in others if typing.get_origin(kind) in (tuple, list)] or matches
    error: RequestError | None = None
    for kind in matches:
        try:
            return _read(kind, value, path)
        except RequestError as refusal:
            error = error or refusal
    assert error is not None
    raise error


def _read_list(kinds: tuple[object, ...], value: object, path: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise _wrong(path, "a list")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise _wrong(path, f"a list of {len(kinds)} values")
    if kinds and kinds[0] is int and all(type(entry) is int for entry in value):  # long lists of run lengths
        return tuple(value)
    return tuple(_read(kind, entry, f"{path}[{index}]") for index, (kind, entry) in enumerate(zip(kinds, value)))


def _read_fields(kind: type, value: object, path: str) -> object:
    if not isinstance(value, dict):
        raise _wrong(path, "an object")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    prefix = f"{path}." if path else ""
    if unknown := sorted(value.keys() - fields.keys()):
        raise RequestError(f"the request has no field '{prefix}{abbreviate(unknown[0], 40)}'", f"Fields: {', '.join(fields)}")
    required = [name for name, field in fields.items() if is_required(field)]
    if missing := [name for name in required if name not in value]:
        raise RequestError(f"the field '{prefix}{missing[0]}' is missing", "See /openapi.json")
    hints = hints_of(kind)
    build = cast(Callable[..., object], kind)
    return build(**{name: _read(hints[name], entry, prefix + name) for name, entry in value.items()})


@functools.lru_cache(maxsize=256)
def hints_of(kind: type) -> dict[str, object]:
    """The annotations of a dataclass or typed dictionary, as types."""
    return dict(typing.get_type_hints(kind))


def is_required(field: dataclasses.Field[object]) -> bool:
    """Whether a dataclass needs the field."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _number(value: object, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(path, "a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _wrong(path, "a finite number")
    return number


def _wrong(path: str, wanted: str) -> RequestError:
    return RequestError(f"the field '{path}' is not {wanted}" if path else f"the request is not {wanted}", "See /openapi.json")
