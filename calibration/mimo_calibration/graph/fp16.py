"""Half precision by casting. Nodes stay in single precision where the measured range or the operator requires it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from mimo_runtime.errors import EngineError

from ..statistics.histogram import HistogramObserver
from .quantizable import copied, readers_of, replace_nodes

#: Operators that add up many values or divide by small values stay in float32.
FP32_OPERATORS = frozenset({
    "LayerNormalization", "Softmax", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "Pow", "Sqrt", "Reciprocal", "Exp",
    "Log", "Sigmoid", "Erf", "Div", "CumSum",
})  # fmt: skip
#: A node with a larger measured |x| stays in float32. An eighth of the largest float16: the next image may have larger values.
HEADROOM = 65504.0 / 8.0
#: A node whose constant is not zero and nowhere larger than this stays in float32: float16 would lose most of its digits.
SMALLEST = 6e-5


@dataclass(frozen=True)
class HalfPrecisionGraph:
    """A graph in half precision, and the nodes that stay in float32, with the reason."""

    model: onnx.ModelProto
    fp32_nodes: dict[str, str]


def to_half(model: onnx.ModelProto, histograms: Mapping[str, HistogramObserver]) -> HalfPrecisionGraph:
    """Cast a graph to half precision; its inputs and outputs stay float32, so that the pipeline around it does not change.

    Args:
        model: float32.
        histograms: of every activation (``ObservingEngine(every=True)``).

    Raises:
        EngineError: the converter failed.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = copied(model)
    fp32_nodes = find_fp32_nodes(copy, histograms)
    try:
        half = convert_float_to_float16(
            copy, keep_io_types=True, disable_shape_infer=False, node_block_list=sorted(fp32_nodes), op_block_list=[],
            min_positive_val=1e-7, max_finite_val=65504.0,
        )  # fmt: skip
    except Exception as error:  # the converter raises plain exceptions of many kinds
        raise EngineError(f"graph {model.graph.name} cannot be cast to half precision: {error}") from None
    _join(half.graph, {node.name for node in model.graph.node})
    _sort(half.graph)
    del half.graph.value_info[:]
    return HalfPrecisionGraph(half, fp32_nodes)


def _join(graph: onnx.GraphProto, original: Set[str]) -> None:
    """Remove the casts between two nodes in single precision.

    The converter casts the tensor between them to half and back, and what is too large for half precision would be lost.

    Args:
        original: names of the nodes of the graph before the conversion.
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
    """Sort the nodes topologically: the converter adds its casts at the end."""
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
            raise EngineError(
                f"graph {graph.name} cannot be cast to half precision: a node reads a tensor that no node computes"
            )
        left = later


def find_fp32_nodes(model: onnx.ModelProto, histograms: Mapping[str, HistogramObserver]) -> dict[str, str]:
    """Nodes that stay in float32, with the reason."""
    weights = {w.name: w for w in model.graph.initializer}
    reasons: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in FP32_OPERATORS:
            reasons[node.name] = f"{node.op_type} adds up many values or divides"
            continue
        for name in (*node.input, *node.output):
            if name in histograms and histograms[name].maximum > HEADROOM:
                reasons[node.name] = f"|x| up to {histograms[name].maximum:.0f} in {name}"
            elif name in weights and weights[name].data_type == TensorProto.FLOAT:
                values = np.abs(numpy_helper.to_array(weights[name]))
                if values.size and values.max() > HEADROOM:
                    reasons[node.name] = f"constant {name} is up to {values.max():.0f}"
                elif 0 < values.max(initial=0) < SMALLEST:
                    reasons[node.name] = f"constant {name} is at most {values.max():.1e}"
    return reasons


def compact(model: onnx.ModelProto, least: int = 4096) -> onnx.ModelProto:
    """A copy of a graph that stores large float32 constants that are added (attention biases, masks) as float16 with a cast.

    Engines fold the cast when they load: half the file, the same speed, 11 bits of precision. Only constants that nothing but
    ``Add`` reads are changed; weights of products and embedding tables are not.

    Args:
        least: elements of the smallest constant that is changed.
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
    replace_nodes(graph, [*casts, *graph.node])
    return result
