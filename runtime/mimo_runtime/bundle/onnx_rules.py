"""The operators of exported graphs, and the shape of what each computes: github.com/onnx/onnx/blob/main/docs/Operators.md.

Small integer tensors are computed as well, because shapes, axes and indices are made of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .onnx_wire import KEPT_VALUES, NodeInfo, OnnxError, TensorInfo

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Known:
    """What is known of a tensor."""

    shape: Shape
    #: None if it depends on the input, or is large.
    value: np.ndarray | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)


#: Of a node and its inputs (None where one is left out) the outputs.
Rule = Callable[[NodeInfo, "Inputs"], Sequence[Known]]


@dataclass(frozen=True)
class Inputs:
    """The inputs of a node, by position."""

    tensors: tuple[Known | None, ...]

    def __getitem__(self, position: int) -> Known:
        tensor = self.optional(position)
        if tensor is None:
            raise OnnxError(f"input {position} is missing")
        return tensor

    def optional(self, position: int) -> Known | None:
        return self.tensors[position] if position < len(self.tensors) else None

    def values(self, position: int) -> list[int]:
        """The integers of an input that must be known."""
        value = self[position].value
        if value is None or value.dtype.kind not in "iu":
            raise OnnxError(f"input {position} is not a constant")
        return [int(v) for v in value.reshape(-1)]


# -- helpers ----------------------------------------------------------------------------------------------------------


def _int(node: NodeInfo, name: str, default: int) -> int:
    value = node.attributes.get(name, default)
    if not isinstance(value, int):
        raise OnnxError(f"attribute {name} is not an integer")
    return value


def _ints(node: NodeInfo, name: str, default: Sequence[int] = ()) -> list[int]:
    value = node.attributes.get(name, default)
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, int) for v in value):
        raise OnnxError(f"attribute {name} is not a list of integers")
    return list(value)


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise OnnxError(f"axis {axis} of {rank}")
    return axis % rank


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an elementwise result."""
    rank = max(map(len, shapes), default=0)
    sizes = []
    for position in range(-rank, 0):
        here = {shape[position] for shape in shapes if -position <= len(shape)} - {1}
        if len(here) > 1:
            raise OnnxError(f"shapes {' and '.join(map(str, shapes))} do not fit")
        sizes.append(here.pop() if here else 1)
    return tuple(sizes)


def _folded(function: Callable[..., np.ndarray], *tensors: Known) -> np.ndarray | None:
    """The value of a result, if all inputs are known integers and few."""
    values = [tensor.value for tensor in tensors]
    if any(v is None or v.dtype.kind not in "iub" or v.size > KEPT_VALUES for v in values):
        return None
    with np.errstate(all="ignore"):
        return np.asarray(function(*values))


# -- rules ------------------------------------------------------------------------------------------------------------


def _same(node: NodeInfo, inputs: Inputs) -> list[Known]:
    """The output has the shape of the first input."""
    return [Known(inputs[0].shape)] * max(1, len(node.outputs))


def _cast(node: NodeInfo, inputs: Inputs) -> list[Known]:
    whole = _int(node, "to", 1) in (6, 7, 9)
    kind = np.int64 if _int(node, "to", 1) != 9 else np.bool_
    return [Known(inputs[0].shape, _folded(lambda v: v.astype(kind), inputs[0]) if whole else None)]


_ARITHMETIC: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Equal": np.equal, "Less": np.less, "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal, "LessOrEqual": np.less_equal, "Max": np.maximum, "Min": np.minimum,
    "And": np.logical_and, "Or": np.logical_or,
}  # fmt: skip


def _elementwise(node: NodeInfo, inputs: Inputs) -> list[Known]:
    tensors = [inputs[position] for position in range(len(inputs.tensors))]
    shape = broadcast(*(tensor.shape for tensor in tensors))
    function = _ARITHMETIC.get(node.op)
    few = function is not None and len(tensors) == 2 and math.prod(shape) <= KEPT_VALUES
    return [Known(shape, _folded(function, *tensors) if few and function else None)]


def _where(node: NodeInfo, inputs: Inputs) -> list[Known]:
    tensors = inputs[0], inputs[1], inputs[2]
    shape = broadcast(*(tensor.shape for tensor in tensors))
    return [Known(shape, _folded(np.where, *tensors) if math.prod(shape) <= KEPT_VALUES else None)]


def _matmul(node: NodeInfo, inputs: Inputs) -> list[Known]:
    a, b = inputs[0].shape, inputs[1].shape
    if not a or not b or a[-1] != b[-2 if len(b) > 1 else -1]:
        raise OnnxError(f"shapes {a} and {b} do not fit")
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    return [Known((*broadcast(a[:-2], b[:-2]), *rows, *columns))]


def _gemm(node: NodeInfo, inputs: Inputs) -> list[Known]:
    a, b = inputs[0].shape, inputs[1].shape
    if len(a) != 2 or len(b) != 2:
        raise OnnxError("it takes matrices")
    rows, depth = (a[1], a[0]) if _int(node, "transA", 0) else (a[0], a[1])
    other, columns = (b[1], b[0]) if _int(node, "transB", 0) else (b[0], b[1])
    if depth != other:
        raise OnnxError(f"shapes {a} and {b} do not fit")
    return [Known((rows, columns))]


def _matmul_nbits(node: NodeInfo, inputs: Inputs) -> list[Known]:
    if inputs[0].shape[-1:] != (_int(node, "K", 0),) or _int(node, "N", 0) * _int(node, "K", 0) > inputs[1].size * 4:
        raise OnnxError("its weights do not have the size K x N")
    return [Known((*inputs[0].shape[:-1], _int(node, "N", 0)))]


def _window(node: NodeInfo, inputs: Inputs) -> list[Known]:
    """Conv, ConvTranspose and pooling over one or two axes."""
    shape = inputs[0].shape
    weights = inputs[1].shape if node.op.startswith("Conv") else ()
    kernel = _ints(node, "kernel_shape", weights[2:])
    rank = len(kernel)
    if len(shape) != rank + 2 or weights and len(weights) != rank + 2 or any(k < 1 for k in kernel):
        raise OnnxError("its kernel does not fit")
    strides, dilations = _ints(node, "strides", [1] * rank), _ints(node, "dilations", [1] * rank)
    pads, more = _ints(node, "pads", [0] * 2 * rank), _ints(node, "output_padding", [0] * rank)
    if len(strides) != rank or len(dilations) != rank or len(pads) != 2 * rank or min([*strides, *dilations]) < 1:
        raise OnnxError("its strides, dilations or pads do not fit")
    if node.attributes.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes:
        raise OnnxError("auto_pad and output_shape are not written")
    if min([*pads, *more]) < 0 or len(more) != rank:
        raise OnnxError("its pads do not fit")
    sizes = []
    for size, k, stride, dilation, before, after, extra in zip(
        shape[2:], kernel, strides, dilations, pads[:rank], pads[rank:], more
    ):
        extent = dilation * (k - 1) + 1
        if node.op == "ConvTranspose":
            sizes.append((size - 1) * stride + extent - before - after + extra)
        else:
            up = stride - 1 if _int(node, "ceil_mode", 0) else 0
            sizes.append((size + before + after - extent + up) // stride + 1)
    channels = shape[1]
    if weights:
        channels = weights[1] * _int(node, "group", 1) if node.op == "ConvTranspose" else weights[0]
    if min(sizes) < 1:
        raise OnnxError("its kernel is larger than its input")
    return [Known((shape[0], channels, *sizes))] * max(1, len(node.outputs))


def _reduce(node: NodeInfo, inputs: Inputs) -> list[Known]:
    shape = inputs[0].shape
    axes = inputs.values(1) if inputs.optional(1) is not None else _ints(node, "axes")
    which = {_axis(axis, len(shape)) for axis in axes} or set(range(len(shape)))
    if not axes and _int(node, "noop_with_empty_axes", 0):
        return [Known(shape)]
    kept = _int(node, "keepdims", 1)
    return [Known(tuple(1 if i in which else size for i, size in enumerate(shape) if kept or i not in which))]


def _reshape(node: NodeInfo, inputs: Inputs) -> list[Known]:
    wanted, source = inputs.values(1), inputs[0]
    zero = _int(node, "allowzero", 0) == 0
    sizes = [source.shape[i] if size == 0 and zero and i < len(source.shape) else size for i, size in enumerate(wanted)]
    if sizes.count(-1) == 1:
        others = -math.prod(sizes)
        if others < 1 or source.size % others:
            raise OnnxError(f"shape {source.shape} does not become {wanted}")
        sizes[sizes.index(-1)] = source.size // others
    if min(sizes, default=0) < 0 or math.prod(sizes) != source.size:
        raise OnnxError(f"shape {source.shape} does not become {wanted}")
    return [Known(tuple(sizes), _folded(lambda v: v.reshape(sizes), source))]


def _flatten(node: NodeInfo, inputs: Inputs) -> list[Known]:
    shape, axis = inputs[0].shape, _int(node, "axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise OnnxError(f"axis {axis} of {len(shape)}")
    axis += len(shape) if axis < 0 else 0
    return [Known((math.prod(shape[:axis]), math.prod(shape[axis:])))]


def _transpose(node: NodeInfo, inputs: Inputs) -> list[Known]:
    shape = inputs[0].shape
    order = _ints(node, "perm", range(len(shape))[::-1])
    if sorted(order) != list(range(len(shape))):
        raise OnnxError("perm is no order of the axes")
    return [Known(tuple(shape[i] for i in order))]


def _squeeze(node: NodeInfo, inputs: Inputs) -> list[Known]:
    shape = inputs[0].shape
    given = inputs.values(1) if inputs.optional(1) is not None else [i for i, size in enumerate(shape) if size == 1]
    axes = {_axis(axis, len(shape)) for axis in given}
    if any(shape[axis] != 1 for axis in axes):
        raise OnnxError(f"axes {given} of {shape} are not 1")
    sizes = tuple(size for i, size in enumerate(shape) if i not in axes)
    return [Known(sizes, _folded(lambda v: v.reshape(sizes), inputs[0]))]


def _unsqueeze(node: NodeInfo, inputs: Inputs) -> list[Known]:
    given = inputs.values(1)
    rank = len(inputs[0].shape) + len(given)
    axes, sizes = {_axis(axis, rank) for axis in given}, iter(inputs[0].shape)
    if len(axes) != len(given):
        raise OnnxError("an axis appears twice")
    shape = tuple(1 if i in axes else next(sizes) for i in range(rank))
    return [Known(shape, _folded(lambda v: v.reshape(shape), inputs[0]))]


def _shape(node: NodeInfo, inputs: Inputs) -> list[Known]:
    shape = inputs[0].shape
    value = np.array(shape[slice(_int(node, "start", 0), _int(node, "end", len(shape)))], np.int64)
    return [Known(value.shape, value)]


def _gather(node: NodeInfo, inputs: Inputs) -> list[Known]:
    source, indices = inputs[0], inputs[1]
    axis = _axis(_int(node, "axis", 0), len(source.shape))
    shape = (*source.shape[:axis], *indices.shape, *source.shape[axis + 1 :])
    small = math.prod(shape) <= KEPT_VALUES
    try:
        value = _folded(lambda v, i: np.take(v, i, axis), source, indices) if small else None
    except IndexError:
        raise OnnxError("an index is outside of its tensor") from None
    return [Known(shape, value)]


def _slice(node: NodeInfo, inputs: Inputs) -> list[Known]:
    source, starts, ends = inputs[0], inputs.values(1), inputs.values(2)
    axes = inputs.values(3) if inputs.optional(3) is not None else list(range(len(starts)))
    steps = inputs.values(4) if inputs.optional(4) is not None else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise OnnxError("starts, ends, axes and steps do not fit")
    cuts = [slice(None)] * len(source.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps):
        if step == 0:
            raise OnnxError("a step is 0")
        # An end before the beginning of a falling range: ONNX writes the smallest integer.
        stop = None if step < 0 and end < -source.shape[_axis(axis, len(source.shape))] else end
        cuts[_axis(axis, len(source.shape))] = slice(start, stop, step)
    shape = tuple(len(range(size)[cut]) for size, cut in zip(source.shape, cuts))
    return [Known(shape, _folded(lambda v: v[tuple(cuts)], source))]


def _concat(node: NodeInfo, inputs: Inputs) -> list[Known]:
    tensors = [inputs[position] for position in range(len(inputs.tensors))]
    first = inputs[0].shape
    axis = _axis(_int(node, "axis", 0), len(first))
    rest = {(t.shape[:axis], t.shape[axis + 1 :]) if len(t.shape) == len(first) else None for t in tensors}
    if len(rest) != 1 or None in rest:
        raise OnnxError("its inputs do not fit")
    shape = (*first[:axis], sum(t.shape[axis] for t in tensors), *first[axis + 1 :])
    small = math.prod(shape) <= KEPT_VALUES
    return [Known(shape, _folded(lambda *v: np.concatenate(v, axis), *tensors) if small else None)]


def _split(node: NodeInfo, inputs: Inputs) -> list[Known]:
    shape, count = inputs[0].shape, len(node.outputs)
    axis = _axis(_int(node, "axis", 0), len(shape))
    chunk = -(-shape[axis] // max(count, 1))
    equal = [max(0, min(chunk, shape[axis] - i * chunk)) for i in range(count)]
    sizes = inputs.values(1) if inputs.optional(1) is not None else equal
    if len(sizes) != count or sum(sizes) != shape[axis] or min(sizes, default=0) < 0:
        raise OnnxError("its parts do not fit")
    return [Known((*shape[:axis], size, *shape[axis + 1 :])) for size in sizes]


def _expand(node: NodeInfo, inputs: Inputs) -> list[Known]:
    wanted = tuple(inputs.values(1))
    if min(wanted, default=0) < 0:
        raise OnnxError("its shape is negative")
    shape = broadcast(inputs[0].shape, wanted)
    small = math.prod(shape) <= KEPT_VALUES
    return [Known(shape, _folded(lambda v: np.broadcast_to(v, shape), inputs[0]) if small else None)]


def _tile(node: NodeInfo, inputs: Inputs) -> list[Known]:
    repeats, shape = inputs.values(1), inputs[0].shape
    if len(repeats) != len(shape) or min(repeats, default=0) < 0:
        raise OnnxError("its repeats do not fit")
    return [Known(tuple(size * repeat for size, repeat in zip(shape, repeats)))]


def _pad(node: NodeInfo, inputs: Inputs) -> list[Known]:
    pads, shape = inputs.values(1), inputs[0].shape
    axes = inputs.values(3) if inputs.optional(3) is not None else list(range(len(shape)))
    if len(pads) != 2 * len(axes):
        raise OnnxError("its pads do not fit")
    sizes = list(shape)
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :]):
        sizes[_axis(axis, len(shape))] += before + after
    return [Known(tuple(sizes))]


def _resize(node: NodeInfo, inputs: Inputs) -> list[Known]:
    shape, by = inputs[0].shape, inputs.optional(2)
    if "axes" in node.attributes:
        raise OnnxError("axes are not written")
    if inputs.optional(3) is not None:
        sizes = inputs.values(3)
    elif by is not None and by.value is not None and by.value.size == len(shape):
        factors = [float(v) for v in by.value.reshape(-1)]
        if not all(0 < factor < 1e6 for factor in factors):
            raise OnnxError("its factors are out of range")
        sizes = [math.floor(size * factor) for size, factor in zip(shape, factors)]
    else:
        raise OnnxError("its factors are not constant")
    if len(sizes) != len(shape):
        raise OnnxError("its sizes do not fit")
    return [Known(tuple(sizes))]


def _depth_to_space(node: NodeInfo, inputs: Inputs) -> list[Known]:
    block, shape = _int(node, "blocksize", 1), inputs[0].shape
    if len(shape) != 4 or block < 1 or shape[1] % block**2:
        raise OnnxError("its blocks do not fit")
    return [Known((shape[0], shape[1] // block**2, shape[2] * block, shape[3] * block))]


def _attention(node: NodeInfo, inputs: Inputs) -> list[Known]:
    """Opset 23, queries, keys and values of [B, heads, length, d], without a cache of its own."""
    query, values = inputs[0].shape, inputs[2].shape
    if len(query) != 4 or len(values) != 4 or len(node.outputs) > 1:
        raise OnnxError("it takes four axes and gives one output")
    return [Known((*query[:3], values[3]))]


def _constant(node: NodeInfo, inputs: Inputs) -> list[Known]:
    value = node.attributes.get("value")
    if not isinstance(value, TensorInfo) or len(node.attributes) != 1:
        raise OnnxError("it is not a tensor")
    return [Known(value.shape, value.value)]


_LIKE_THE_FIRST_INPUT = (
    "Abs", "BatchNormalization", "Ceil", "Clip", "Cos", "DequantizeLinear", "Erf", "Exp", "Floor", "Gelu", "GroupNormalization",
    "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax",
    "Neg", "Not", "QuantizeLinear", "RMSNormalization", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softmax",
    "Softplus", "Sqrt", "Tanh", "TensorScatter",
)  # fmt: skip
#: Every operator that an exported graph may hold, by domain and name, with the rule of its shapes.
OPERATORS: dict[tuple[str, str], Rule] = {
    **{("", name): _same for name in _LIKE_THE_FIRST_INPUT},
    **{("", name): _elementwise for name in (*_ARITHMETIC, "Div", "Pow", "PRelu")},
    **{("", name): _reduce for name in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceProd")},
    **{("", name): _window for name in ("Conv", "ConvTranspose", "AveragePool", "MaxPool")},
    ("", "Attention"): _attention, ("", "Cast"): _cast, ("", "Concat"): _concat, ("", "Constant"): _constant,
    ("", "DepthToSpace"): _depth_to_space, ("", "Expand"): _expand, ("", "Flatten"): _flatten, ("", "Gather"): _gather,
    ("", "Gemm"): _gemm, ("", "MatMul"): _matmul, ("", "Pad"): _pad,
    ("", "Reshape"): _reshape, ("", "Resize"): _resize, ("", "Shape"): _shape, ("", "Slice"): _slice, ("", "Split"): _split,
    ("", "Squeeze"): _squeeze, ("", "Tile"): _tile, ("", "Transpose"): _transpose, ("", "Unsqueeze"): _unsqueeze,
    ("", "Where"): _where, ("com.microsoft", "MatMulNBits"): _matmul_nbits,
}  # fmt: skip
