"""Reads what a check needs of an ONNX file: nodes, attributes, sizes of initializers. No weights are copied.

A device has no ``onnx`` package. The file is a protobuf message: onnx.proto, protobuf.dev/programming-guides/encoding.
A field that an exporter of this project does not write is refused: subgraphs, functions, sparse tensors, external data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

#: Initializers of at most that many elements keep their values: shapes, axes, indices, scales.
KEPT_VALUES = 1024
#: Bits of an element and the numpy type, by ``TensorProto.DataType``. Strings, doubles and complex numbers are in no graph.
_TYPES: dict[int, tuple[int, str]] = {
    1: (32, "<f4"), 2: (8, "u1"), 3: (8, "i1"), 4: (16, "<u2"), 5: (16, "<i2"), 6: (32, "<i4"), 7: (64, "<i8"), 9: (8, "?"),
    10: (16, "<f2"), 16: (16, ""), 21: (4, ""), 22: (4, ""),
}  # fmt: skip
#: Fields by message: number -> wire type. What is not here is refused.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2}
_GRAPH = {1: 2, 2: 2, 5: 2, 10: 2, 11: 2, 12: 2, 13: 2, 16: 2}
_NODE = {1: 2, 2: 2, 3: 2, 4: 2, 5: 2, 6: 2, 7: 2, 9: 2}
_ATTRIBUTE = {1: 2, 2: 5, 3: 0, 4: 2, 5: 2, 7: None, 8: None, 9: 2, 13: 2, 20: 0}
_TENSOR = {1: None, 2: 0, 4: None, 5: None, 7: None, 8: 2, 9: 2, 12: 2, 14: 0}
_OPSET = {1: 2, 2: 0}
_VALUE_INFO = {1: 2, 2: 2, 3: 2, 4: 2}
_WHY = {
    "attribute": {6: "a subgraph", 11: "subgraphs", 10: "a list of tensors", 14: "a type", 15: "types", 21: "a reference"},
    "tensor": {13: "external data", 3: "a segment", 6: "strings", 10: "double precision", 11: "uint64 values"},
    "graph": {15: "sparse weights", 14: "quantization annotations"},
    "model": {20: "training information", 25: "functions", 26: "configurations"},
}


class OnnxError(Exception):
    """The file is damaged, or holds what no exported graph holds; the text continues "FILE holds ..." or says what is wrong."""


@dataclass(frozen=True)
class TensorInfo:
    """An initializer or a tensor attribute."""

    name: str
    shape: tuple[int, ...]
    #: Of its data.
    bytes: int
    #: None for large tensors and for types that numpy does not have.
    value: np.ndarray | None


@dataclass(frozen=True)
class NodeInfo:
    """One operator."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    #: Numbers, texts, lists of numbers, tensors.
    attributes: Mapping[str, object]


@dataclass(frozen=True)
class GraphInfo:
    """The graph of a file."""

    nodes: list[NodeInfo]
    initializers: dict[str, TensorInfo]
    inputs: list[str]
    outputs: list[str]
    opsets: dict[str, int] = field(default_factory=dict)


def read_model(data: bytes) -> GraphInfo:
    """Read the bytes of an ONNX file.

    Raises:
        OnnxError: it is not one, or holds what no exported graph holds.
    """
    graph: tuple[int, int] | None = None
    opsets: dict[str, int] = {}
    for number, start, end in _fields(data, 0, len(data), _MODEL, "model"):
        if number == 7:
            if graph is not None:
                raise OnnxError("holds two graphs")
            graph = start, end
        elif number == 8:
            domain, version = "", 0
            for inner, a, b in _fields(data, start, end, _OPSET, "operator set"):
                domain, version = (_text(data, a, b), version) if inner == 1 else (domain, a)
            opsets[domain] = version
    if graph is None:
        raise OnnxError("is not an ONNX graph")
    nodes, initializers = list[NodeInfo](), dict[str, TensorInfo]()
    names: dict[int, list[str]] = {11: [], 12: []}
    for number, start, end in _fields(data, *graph, _GRAPH, "graph"):
        if number == 1:
            nodes.append(_node(data, start, end))
        elif number == 5:
            tensor = _tensor(data, start, end)
            if tensor.name in initializers:
                raise OnnxError("holds two initializers of one name")
            initializers[tensor.name] = tensor
        elif number in names:
            names[number].append(_value_name(data, start, end))
    return GraphInfo(nodes, initializers, names[11], names[12], opsets)


def _value_name(data: bytes, start: int, end: int) -> str:
    name = ""
    for number, a, b in _fields(data, start, end, _VALUE_INFO, "value"):
        name = _text(data, a, b) if number == 1 else name
    return name


def _node(data: bytes, start: int, end: int) -> NodeInfo:
    inputs, outputs, op, domain, attributes = list[str](), list[str](), "", "", dict[str, object]()
    for number, a, b in _fields(data, start, end, _NODE, "node"):
        if number == 1:
            inputs.append(_text(data, a, b))
        elif number == 2:
            outputs.append(_text(data, a, b))
        elif number == 4:
            op = _text(data, a, b)
        elif number == 5:
            name, value = _attribute(data, a, b)
            attributes[name] = value
        elif number == 7:
            domain = _text(data, a, b)
    return NodeInfo(op, domain, tuple(inputs), tuple(outputs), attributes)


def _attribute(data: bytes, start: int, end: int) -> tuple[str, object]:
    name, value, ints, floats, strings = "", None, list[int](), list[float](), 0
    tensor: TensorInfo | None = None
    kind = 0
    scalar: object = None
    for number, a, b in _fields(data, start, end, _ATTRIBUTE, "attribute"):
        if number == 1:
            name = _text(data, a, b)
        elif number == 2:
            scalar = float(np.frombuffer(data, "<f4", 1, a)[0])
        elif number == 3:
            scalar = _signed(a)
        elif number == 4:
            value = data[a : min(b, a + 100)].decode("utf-8", "replace")
        elif number == 5:
            if tensor is not None:
                raise OnnxError("holds an attribute with two tensors")
            tensor = _tensor(data, a, b)
        elif number == 7:
            floats += np.frombuffer(data, "<f4", (b - a) // 4, a).tolist()
        elif number == 8:
            ints += [_signed(v) for v in _varints(data, a, b)] if b >= 0 else [_signed(a)]
        elif number == 9:
            strings += 1
        elif number == 20:
            kind = a
    values = {1: scalar, 2: scalar, 3: value, 4: tensor, 6: floats, 7: ints, 8: strings}
    if kind not in values:
        raise OnnxError("holds an attribute of a kind that no exported graph has")
    return name, values[kind]


def _tensor(data: bytes, start: int, end: int) -> TensorInfo:
    name, kind, dims, raw = "", 0, list[int](), None
    parts: dict[int, list[tuple[int, int]]] = {4: [], 5: [], 7: []}
    for number, a, b in _fields(data, start, end, _TENSOR, "tensor"):
        if number == 1:
            dims += [_signed(v) for v in _varints(data, a, b)] if b >= 0 else [_signed(a)]
        elif number == 2:
            kind = a
        elif number == 8:
            name = _text(data, a, b)
        elif number == 9:
            raw = a, b
        elif number in parts:
            parts[number].append((a, b))
        elif number == 14 and a != 0:
            raise OnnxError("holds a tensor with external data")
    if kind not in _TYPES:
        raise OnnxError(f"holds a tensor of data type {min(kind, 999)}")
    bits, dtype = _TYPES[kind]
    count = math.prod(dims)
    if len(dims) > 16 or any(size < 0 for size in dims):
        raise OnnxError("holds a tensor with impossible dimensions")
    values = None if raw is not None else _typed_values(data, kind, parts, end - start)
    wanted = (count * bits + 7) // 8
    held = raw[1] - raw[0] if raw is not None else wanted if values is not None and len(values) == count else -1
    if held != wanted:
        raise OnnxError("holds a tensor whose data do not have the size of its dimensions")
    if count > KEPT_VALUES or not dtype:
        return TensorInfo(name, tuple(dims), wanted, None)
    array = np.frombuffer(data, dtype, count, raw[0]) if raw is not None else np.array(values, dtype)
    return TensorInfo(name, tuple(dims), wanted, array.reshape(dims))


def _typed_values(data: bytes, kind: int, parts: Mapping[int, list[tuple[int, int]]], size: int) -> list[int] | list[float]:
    """The values of a tensor that are not in ``raw_data``."""
    if kind == 1:
        if any(b < 0 for _, b in parts[4]):
            raise OnnxError("holds a tensor with unpacked numbers")
        return [v for a, b in parts[4] for v in np.frombuffer(data, "<f4", (b - a) // 4, a).tolist()]
    if kind not in (2, 3, 4, 5, 6, 7, 9):
        return []
    if size > 1 << 20:
        raise OnnxError("holds a large tensor without raw data")
    return [_signed(v) for a, b in parts[7 if kind == 7 else 5] for v in (_varints(data, a, b) if b >= 0 else [a])]


# -- the wire format --------------------------------------------------------------------------------------------------


def _fields(
    data: bytes, start: int, end: int, allowed: Mapping[int, int | None], message: str
) -> Iterator[tuple[int, int, int]]:  # fmt: skip
    """``(field number, begin, end)`` of each field with bytes; ``(number, value, -1)`` of each with an integer."""
    at = start
    while at < end:
        key = data[at]
        if key < 0x80:  # as most are
            at += 1
        else:
            key, at = _varint(data, at, end)
        number, kind = key >> 3, key & 7
        if number not in allowed or allowed[number] not in (kind, None):
            what = _WHY.get(message, {}).get(number, f"field {min(number, 10**6)} of its {message} in a form")
            raise OnnxError(f"holds {what}{'' if number in _WHY.get(message, {}) else ' that no exported graph has'}")
        if kind == _BYTES:
            length = data[at] if at < end else 0x80
            if length < 0x80:
                at += 1
            else:
                length, at = _varint(data, at, end)
            if length > end - at:
                raise OnnxError("is damaged: a field ends behind the file")
            yield number, at, at + length
            at += length
        elif kind == _VARINT:
            value, at = _varint(data, at, end)
            yield number, value, -1
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
            if size > end - at:
                raise OnnxError("is damaged: a field ends behind the file")
            yield number, at, at + size
            at += size
        else:
            raise OnnxError("is damaged: it has a group")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """An integer in 7 bits a byte, and the place behind it."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise OnnxError("is damaged: a number does not end")


def _varints(data: bytes, at: int, end: int) -> Iterator[int]:
    while at < end:
        value, at = _varint(data, at, end)
        yield value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _text(data: bytes, start: int, end: int) -> str:
    try:
        return data[start:end].decode("utf-8")
    except UnicodeDecodeError:
        raise OnnxError("is damaged: a name is not UTF-8") from None
