"""What a GPU gets of a graph: half precision, and INT8 products within it.

GPUs are made for 16-bit types, and what a graph holds in FP32 stays FP32 (strongly typed). So a quantised graph is cast,
too: products are INT8, everything around them is FP16, with islands in FP32. A MatMul that is too large for half precision is
done on a smaller scale instead of as an island: FP32 products are slow, and refused for Turing (compute capability 7.5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..statistics.histogram import HistogramObserver
from .fp16 import HEADROOM, Half, to_half
from .quantizable import drop_unused

#: The smallest normal value of half precision: below it, digits are lost one by one.
_NORMAL = float(np.finfo(np.float16).tiny)
#: A scale is at least this: ``to_half`` raises whatever is below 1e-7.
_LEAST = 2.0**-23
#: Products are divided by at most 2 to the power of this: more would bring their operands near the small end.
_MOST_HALVINGS = 12


def to_gpu_graph(model: onnx.ModelProto, seen: Mapping[str, HistogramObserver]) -> Half:
    """Cast a graph to half precision; its inputs and outputs stay float32.

    Args:
        model: float32, or in the symmetric form of ``graph.qdq``. Scales become float16 with the rest: opset 20
            has one type for a tensor and its scale, and a cast between DequantizeLinear and product would keep it from INT8.
            (It does where all scales are below 6e-5, weights below 0.008: they are scaled in float32, the product is FP16.)
        seen: statistics by tensor of the graph in full precision; every activation that is missing is taken to be small.

    Raises:
        EngineError: the converter failed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    seen = _behind_quantisers(result, seen)
    _shrink_products(result, seen)
    _round_scales(result)
    return to_half(result, seen)


def _shrink_products(model: onnx.ModelProto, seen: Mapping[str, HistogramObserver]) -> None:
    """Divide one operand of a MatMul by a power of two if it, or the result, is too large for half precision, and multiply the
    result by it in float32. Powers of two change no digit.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    weights = {w.name: w for w in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in map(_copy, graph.node):
        if node.op_type != "MatMul":
            nodes.append(node)
            continue
        left, right, result = (seen[name].maximum if name in seen else 0.0 for name in (*node.input, *node.output))
        largest = max(left, right, result)
        if largest <= HEADROOM or min(left, right) > HEADROOM or largest > HEADROOM * 2**_MOST_HALVINGS:
            nodes.append(node)  # nothing to do, or nothing that helps: then it stays an island
            continue
        if max(left, right) > HEADROOM:
            side = 0 if left > HEADROOM else 1
        else:  # only the result is too large; weights cost nothing at run time
            source = producers.get(node.input[1])
            quantised = source is not None and source.op_type == "DequantizeLinear" and source.input[0] in weights
            side = 1 if quantised or node.input[1] in weights else 0
        factor, name = 2.0 ** math.ceil(math.log2(largest / HEADROOM)), f"{node.name}/small"
        nodes += _divided(graph, producers, weights, node.input[side], name, factor)
        graph.initializer.append(numpy_helper.from_array(np.float32(factor), f"{name}_factor"))
        grown = helper.make_node("Mul", [f"{name}_result", f"{name}_factor"], [node.output[0]], name=f"{node.name}/Mul")
        node.input[side], node.output[0] = name, f"{name}_result"
        nodes += [node, grown]
    read = {name for node in nodes for name in node.input} | {o.name for o in graph.output}
    del graph.node[:]
    graph.node.extend(n for n in nodes if n.op_type != "DequantizeLinear" or n.output[0] in read)
    drop_unused(model)


def _divided(
    graph: onnx.GraphProto, producers: Mapping[str, onnx.NodeProto], weights: Mapping[str, TensorProto], tensor: str, name: str,
    factor: float,
) -> list[onnx.NodeProto]:  # fmt: skip
    """Give ``tensor / factor`` under a new name; returns the nodes that this takes. What is quantised gets another scale."""
    source = producers.get(tensor)
    if tensor in weights:
        value = numpy_helper.to_array(weights[tensor])
        graph.initializer.append(numpy_helper.from_array((value / factor).astype(np.float32), name))
        return []
    if source is not None and source.op_type == "DequantizeLinear" and source.input[1] in weights:
        node = _copy(source)
        node.name, node.output[0], node.input[1] = f"{name}/DequantizeLinear", name, f"{name}_scale"
        scale = numpy_helper.to_array(weights[source.input[1]])
        graph.initializer.append(numpy_helper.from_array((scale / factor).astype(np.float32), node.input[1]))
        if source.input[0] in weights:  # rounding the new scale may change the values
            node.input[0] = f"{name}_values"
            graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(weights[source.input[0]]), node.input[0]))
        return [node]
    graph.initializer.append(numpy_helper.from_array(np.float32(1.0 / factor), f"{name}_inverse"))
    return [helper.make_node("Mul", [tensor, f"{name}_inverse"], [name], name=f"{name}/Mul")]


def _round_scales(model: onnx.ModelProto) -> None:
    """Make the scales of weights values of float16, and quantise again by those that half precision would change much.

    Normal ones lose at most a two-thousandth, a sixteenth of a quantisation step. Smaller ones are rounded up, so that no
    weight is clipped.
    """
    weights = {w.name: w for w in model.graph.initializer}
    for node in _weight_quantisers(model, weights):
        stored, held = weights[node.input[0]], weights[node.input[1]]
        before = numpy_helper.to_array(held).astype(np.float64)
        after = before.astype(np.float16)
        small = before < _NORMAL
        # A float32 is exact in float64, so "less than before" is what rounding took away.
        after = np.where(small & (after < before), np.nextafter(after, np.float16(np.inf)), after)
        after = np.maximum(after.astype(np.float64), _LEAST)
        held.CopyFrom(numpy_helper.from_array(after.astype(np.float32), held.name))
        if small.any():
            values = numpy_helper.to_array(stored)
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            shape = [-1 if i == axis else 1 for i in range(values.ndim)] if before.ndim else []
            again = np.round(values * np.where(small, before / after, 1.0).reshape(shape)).astype(np.int8)
            stored.CopyFrom(numpy_helper.from_array(again, stored.name))


def _weight_quantisers(model: onnx.ModelProto, weights: Mapping[str, TensorProto]) -> Iterator[onnx.NodeProto]:
    """The DequantizeLinear nodes of constants; each constant once."""
    done = set()
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights and node.input[0] not in done:
            done.add(node.input[0])
            yield node


def _behind_quantisers(model: onnx.ModelProto, seen: Mapping[str, HistogramObserver]) -> dict[str, HistogramObserver]:
    """Statistics of what DequantizeLinear gives, too: that of the tensor which was quantised."""
    known = dict(seen)
    quantised = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and quantised.get(node.input[0]) in known:
            known[node.output[0]] = known[quantised[node.input[0]]]
    return known


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
