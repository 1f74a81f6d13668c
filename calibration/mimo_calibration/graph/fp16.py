"""Half precision by casting, with islands in single precision where the measured ranges or the operator ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from mimo_runtime.errors import EngineError

from ..statistics.histogram import HistogramObserver
from .quantizable import copied, readers_of

#: Operators that add up many values or divide by small ones; they stay in float32.
FP32_OPERATORS = frozenset({
    "LayerNormalization", "Softmax", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "Pow", "Sqrt", "Reciprocal", "Exp",
    "Log", "Sigmoid", "Erf", "Div", "CumSum",
})  # fmt: skip
#: A measured |x| beyond this is too near the end of half precision (65504): the next image may be larger.
HEADROOM = 65504.0 / 8.0
#: A constant smaller than this, yet not zero, would become zero or lose most of its digits.
SMALLEST = 6e-5


@dataclass(frozen=True)
class Half:
    """A graph in half precision, and which nodes were left out and why."""

    model: onnx.ModelProto
    islands: dict[str, str]


def to_half(model: onnx.ModelProto, seen: Mapping[str, HistogramObserver]) -> Half:
    """Cast a graph; its inputs and outputs stay float32, so that the chain around it does not change.

    Args:
        seen: statistics of every activation (``ObservedEngine(every=True)``).

    Raises:
        EngineError: the converter failed.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = copied(model)
    islands = find_fp32_nodes(copy, seen)
    try:
        half = convert_float_to_float16(
            copy, keep_io_types=True, disable_shape_infer=False, node_block_list=sorted(islands), op_block_list=[],
            min_positive_val=1e-7, max_finite_val=65504.0,
        )  # fmt: skip
    except Exception as error:  # the converter raises plain exceptions of many kinds
        raise EngineError(f"graph {model.graph.name} cannot be cast to half precision: {error}") from None
    _join(half.graph, {node.name for node in model.graph.node})
    _sort(half.graph)
    del half.graph.value_info[:]
    return Half(half, islands)


def _join(graph: onnx.GraphProto, original: Set[str]) -> None:
    """From island to island a tensor stays in single precision: the converter casts it to half and back, and what is too large
    for half precision would be lost just where it is looked after.

    Args:
        original: names of the nodes that the converter did not add.
    """
    outputs = {o.name for o in graph.output}
    down = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast" and node.name not in original and node.attribute[0].i == TensorProto.FLOAT16
    }
    direct: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Cast" and node.name not in original and node.input[0] in down:
            if node.output[0] in outputs:
                node.op_type, node.input[0] = "Identity", down[node.input[0]]
                del node.attribute[:]
            else:
                direct[node.output[0]] = down[node.input[0]]
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in direct:
                node.input[place] = direct[name]
    for casts in (direct, down):
        read = {name for node in graph.node for name in node.input} | outputs
        for node in [n for n in graph.node if n.output[0] in casts and n.output[0] not in read]:
            graph.node.remove(node)


def _sort(graph: onnx.GraphProto) -> None:
    """Every node behind those whose results it reads: the converter adds its casts at the end."""
    known = {""} | {v.name for v in graph.input} | {w.name for w in graph.initializer}
    left = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    while left:
        later = []
        for node in left:
            if all(name in known for name in node.input):
                graph.node.append(node)
                known.update(node.output)
            else:
                later.append(node)
        if len(later) == len(left):
            raise EngineError(f"graph {graph.name} cannot be cast to half precision: it reads what nothing computes")
        left = later


def find_fp32_nodes(model: onnx.ModelProto, seen: Mapping[str, HistogramObserver]) -> dict[str, str]:
    """Nodes that stay in float32, with the reason."""
    weights = {w.name: w for w in model.graph.initializer}
    found: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in FP32_OPERATORS:
            found[node.name] = f"{node.op_type} adds up many values or divides"
            continue
        for name in (*node.input, *node.output):
            if name in seen and seen[name].maximum > HEADROOM:
                found[node.name] = f"|x| up to {seen[name].maximum:.0f} in {name}"
            elif name in weights and weights[name].data_type == TensorProto.FLOAT:
                values = np.abs(numpy_helper.to_array(weights[name]))
                if values.size and values.max() > HEADROOM:
                    found[node.name] = f"constant {name} is up to {values.max():.0f}"
                elif 0 < values.max(initial=0) < SMALLEST:
                    found[node.name] = f"constant {name} is at most {values.max():.1e}"
    return found


def compact(model: onnx.ModelProto, least: int = 4096) -> onnx.ModelProto:
    """Store large float32 constants that are added (attention biases and masks) as float16 with a cast behind them.

    Engines fold the cast when they load: half the file, the same speed, 11 bits of precision. Weights of products and
    tables of embeddings are not touched: only what an Add reads.
    """
    result = copied(model)
    graph, readers = result.graph, readers_of(result)
    weights = {w.name: w for w in graph.initializer}
    casts = []
    for name, weight in weights.items():
        value = numpy_helper.to_array(weight) if weight.data_type == TensorProto.FLOAT else None
        if value is None or value.size < least or np.abs(value).max() > HEADROOM:
            continue
        if not readers.get(name) or any(node.op_type != "Add" for node in readers[name]):
            continue
        weight.CopyFrom(numpy_helper.from_array(value.astype(np.float16), f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], name=f"{name}/Cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return result
