"""The graph for a GPU: half precision, with INT8 products where the graph is quantized.

GPUs are built for 16-bit types, and a strongly typed engine keeps FP32 where the graph holds FP32. A quantized graph is
therefore cast as well: its products are INT8, everything around them FP16, and some nodes FP32. A MatMul whose values are too
large for half precision is scaled down instead of kept in FP32: FP32 products are slow, and TensorRT for RTX refuses them for
Turing (compute capability 7.5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..statistics.histogram import HistogramObserver
from .fp16 import HEADROOM, HalfPrecisionGraph, to_half
from .quantizable import copied, drop_unused, replace_nodes

#: The smallest normal value of half precision; smaller values have fewer digits.
_NORMAL = float(np.finfo(np.float16).tiny)
#: The smallest scale: ``to_half`` raises values below 1e-7.
_LEAST_SCALE = 2.0**-23
#: Products are divided by at most 2 to the power of this; beyond it their operands would become subnormal.
_MOST_HALVINGS = 12


def to_gpu_graph(model: onnx.ModelProto, histograms: Mapping[str, HistogramObserver]) -> HalfPrecisionGraph:
    """Cast a graph to half precision; its inputs and outputs stay float32.

    Args:
        model: float32, or a symmetric Q/DQ graph of :mod:`~mimo_calibration.graph.qdq`. Its scales become float16 as well,
            because opset 20 has one type for a tensor and its scale. A cast between DequantizeLinear and the product would
            keep the product from INT8. (That happens where all scales are below 6e-5, weights below 0.008: they are scaled in
            float32 and the product is FP16.)
        histograms: by tensor of the graph in full precision; a tensor without one is assumed to be small.

    Raises:
        EngineError: the converter failed.
    """
    result = copied(model)
    histograms = _behind_quantizers(result, histograms)
    _Shrinker(result, histograms).run()
    _round_scales(result)
    return to_half(result, histograms)


class _Shrinker:
    """Scales down each MatMul that is too large for half precision.

    One operand is divided by a power of two, and the result is multiplied by it in float32. Powers of two change no digit.
    """

    def __init__(self, model: onnx.ModelProto, histograms: Mapping[str, HistogramObserver]) -> None:
        self.model, self.graph, self.histograms = model, model.graph, histograms
        self.producers = {name: node for node in model.graph.node for name in node.output}
        self.weights = {w.name: w for w in model.graph.initializer}

    def run(self) -> None:
        nodes: list[onnx.NodeProto] = []
        for node in map(_copy, self.graph.node):
            shrink = self._side_and_factor(node) if node.op_type == "MatMul" else None
            nodes += [node] if shrink is None else self._shrunk(node, *shrink)
        read = {name for node in nodes for name in node.input} | {o.name for o in self.graph.output}
        replace_nodes(self.graph, [n for n in nodes if n.op_type != "DequantizeLinear" or n.output[0] in read])
        drop_unused(self.model)

    def _side_and_factor(self, node: onnx.NodeProto) -> tuple[int, float] | None:
        """Which operand of a MatMul is divided, and by what; None if nothing is too large, or a division does not help."""
        left, right, result = (self._maximum(name) for name in (*node.input, *node.output))
        largest = max(left, right, result)
        if largest <= HEADROOM or min(left, right) > HEADROOM or largest > HEADROOM * 2**_MOST_HALVINGS:
            return None
        if max(left, right) > HEADROOM:
            side = 0 if left > HEADROOM else 1
        else:  # only the result is too large; dividing weights costs nothing at run time
            source = self.producers.get(node.input[1])
            quantized = source is not None and source.op_type == "DequantizeLinear" and source.input[0] in self.weights
            side = 1 if quantized or node.input[1] in self.weights else 0
        return side, 2.0 ** math.ceil(math.log2(largest / HEADROOM))

    def _maximum(self, tensor: str) -> float:
        return self.histograms[tensor].maximum if tensor in self.histograms else 0.0

    def _shrunk(self, node: onnx.NodeProto, side: int, factor: float) -> list[onnx.NodeProto]:
        """The nodes that take the place of a MatMul."""
        name = f"{node.name}/small"
        nodes = self._divided(node.input[side], name, factor)
        self._constant(f"{name}_factor", np.float32(factor))
        grown = helper.make_node("Mul", [f"{name}_result", f"{name}_factor"], [node.output[0]], name=f"{node.name}/Mul")
        node.input[side], node.output[0] = name, f"{name}_result"
        return [*nodes, node, grown]

    def _divided(self, tensor: str, name: str, factor: float) -> list[onnx.NodeProto]:
        """The nodes that compute ``tensor / factor`` as ``name``. A quantized tensor gets another scale instead."""
        source, weights = self.producers.get(tensor), self.weights
        if tensor in weights:
            self._constant(name, (numpy_helper.to_array(weights[tensor]) / factor).astype(np.float32))
            return []
        if source is not None and source.op_type == "DequantizeLinear" and source.input[1] in weights:
            node = _copy(source)
            node.name, node.output[0], node.input[1] = f"{name}/DequantizeLinear", name, f"{name}_scale"
            self._constant(f"{name}_scale", (numpy_helper.to_array(weights[source.input[1]]) / factor).astype(np.float32))
            if source.input[0] in weights:  # rounding the new scale may change the values
                node.input[0] = f"{name}_values"
                self._constant(node.input[0], numpy_helper.to_array(weights[source.input[0]]))
            return [node]
        self._constant(f"{name}_inverse", np.float32(1.0 / factor))
        return [helper.make_node("Mul", [tensor, f"{name}_inverse"], [name], name=f"{name}/Mul")]

    def _constant(self, name: str, value: np.ndarray | np.generic) -> None:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def _round_scales(model: onnx.ModelProto) -> None:
    """Round the scales of weights to float16, and quantize weights again where half precision changes their scale much.

    A normal float16 is off by at most a two-thousandth, a sixteenth of a quantization step. Smaller scales are rounded up, so
    that no weight is clipped.
    """
    weights = {w.name: w for w in model.graph.initializer}
    for node in _weight_quantizers(model, weights):
        stored, held = weights[node.input[0]], weights[node.input[1]]
        before = numpy_helper.to_array(held).astype(np.float64)
        after = before.astype(np.float16)
        small = before < _NORMAL
        # A float32 is exact in float64, so a value less than before was rounded down.
        after = np.where(small & (after < before), np.nextafter(after, np.float16(np.inf)), after)
        after = np.maximum(after.astype(np.float64), _LEAST_SCALE)
        held.CopyFrom(numpy_helper.from_array(after.astype(np.float32), held.name))
        if small.any():
            values = numpy_helper.to_array(stored)
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            shape = [-1 if i == axis else 1 for i in range(values.ndim)] if before.ndim else []
            again = np.round(values * np.where(small, before / after, 1.0).reshape(shape)).astype(np.int8)
            stored.CopyFrom(numpy_helper.from_array(again, stored.name))


def _weight_quantizers(model: onnx.ModelProto, weights: Mapping[str, TensorProto]) -> Iterator[onnx.NodeProto]:
    """The DequantizeLinear nodes of constants, one per constant."""
    done = set()
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights and node.input[0] not in done:
            done.add(node.input[0])
            yield node


def _behind_quantizers(model: onnx.ModelProto, histograms: Mapping[str, HistogramObserver]) -> dict[str, HistogramObserver]:
    """The histograms, and those of the outputs of DequantizeLinear: the same as of the tensor that was quantized."""
    known = dict(histograms)
    quantized = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and quantized.get(node.input[0]) in known:
            known[node.output[0]] = known[quantized[node.input[0]]]
    return known


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
