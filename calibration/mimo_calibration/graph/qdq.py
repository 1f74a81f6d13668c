"""The symmetric Q/DQ graph: explicit QuantizeLinear / DequantizeLinear, activations per tensor, weights per output channel.

TensorRT, TensorRT-RTX and OpenVINO take the file as it is. :mod:`~mimo_calibration.graph.ort_cpu` derives the graph for ONNX
Runtime on a CPU from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .quantizable import QuantizableNode, drop_unused, find_quantizable, fold_transposed_weights, readers_of, replace_nodes

#: Largest magnitude of a quantized weight by bits: symmetric, so that -128 is not used.
LARGEST = {8: 127, 4: 7}
#: Operators that move values without changing any.
REARRANGES = ("Transpose", "Reshape")


@dataclass(frozen=True)
class Choice:
    """How one node is quantized.

    Attributes:
        amax: largest magnitude of the INT8 activation; None leaves the activation in floating point (weight-only).
        bits: of the weights, 8 or 4. Four-bit weights are stored as INT8 values from -7 to 7: opset 20 has no smaller type.
    """

    amax: float | None
    bits: int = 8


def quantize_weight(weight: np.ndarray, axis: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric per-channel quantization.

    Returns:
        int8 values of the weight's shape, and float32 scales, one per index of ``axis``.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    scale = (np.where(largest > 0, largest, 1.0) / LARGEST[bits]).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    values = np.clip(np.round(weight / scale.reshape(shape)), -LARGEST[bits], LARGEST[bits])
    return values.astype(np.int8), scale


def quantize(model: onnx.ModelProto, choices: Mapping[str, Choice]) -> onnx.ModelProto:
    """A copy of a graph with the chosen nodes quantized.

    Args:
        model: float32, opset 13 or later.
        choices: by name of the node; each must be one of :func:`~mimo_calibration.graph.quantizable.find_quantizable`.

    Raises:
        ValueError: a node cannot be quantized.
    """
    model = fold_transposed_weights(model)
    quantizable = {entry.node: entry for entry in find_quantizable(model)}
    unknown = sorted(set(choices) - set(quantizable))
    if unknown:
        raise ValueError(f"{unknown[0]} cannot be quantized")
    names = {entry.weight for entry in quantizable.values()}
    weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer if w.name in names}
    pairs = _PairInserter(model.graph)
    early, moved = _before_rearranging(model, quantizable, choices)
    for node in model.graph.node:
        choice = choices.get(node.name)
        if node.name in early:
            node.input[0] = pairs.activation(node.input[0], early[node.name])
        if choice is not None:
            entry = quantizable[node.name]
            if choice.amax is not None and entry.activation not in moved:
                node.input[0] = pairs.activation(entry.activation, choice.amax)
            node.input[1] = pairs.weight(entry, weights[entry.weight], choice.bits)
        pairs.nodes.append(node)
    replace_nodes(model.graph, pairs.nodes)
    drop_unused(model)
    return model


def _before_rearranging(
    model: onnx.ModelProto, quantizable: Mapping[str, QuantizableNode], choices: Mapping[str, Choice]
) -> tuple[dict[str, float], set[str]]:
    """Which activations are quantized before a rearranging operator instead of behind it.

    A quarter of the bytes move then, and the transposition around a convolution cancels with the engine's own layout.
    Rearranging changes no value, so the result is the same. Only through ``Transpose`` and ``Reshape`` that nothing else
    reads, and not up to a product: engines fuse attention with what follows it.

    Returns:
        amax by the name of the first rearranging node, and the activations that need no quantization of their own then.
    """
    producer = {name: node for node in model.graph.node for name in node.output}
    readers = readers_of(model)
    outputs = {o.name for o in model.graph.output}
    early: dict[str, float] = {}
    moved: set[str] = set()
    for name, choice in choices.items():
        activation = quantizable[name].activation
        limits = {choices[r.name].amax if r.name in choices else None for r in readers[activation]}
        if choice.amax is None or activation in moved or limits != {choice.amax}:
            continue
        tensor, first = activation, None
        while (node := producer.get(tensor)) is not None and node.op_type in REARRANGES:
            if tensor in outputs or (tensor != activation and len(readers[tensor]) > 1):
                break
            tensor, first = node.input[0], node
        above = producer.get(tensor)
        if first is not None and (above is None or above.op_type != "MatMul"):
            early[first.name] = choice.amax
            moved.add(activation)
    return early, moved


@dataclass
class _PairInserter:
    """Adds Q/DQ nodes and their constants, one pair per tensor and scale."""

    graph: onnx.GraphProto
    #: Nodes of the new graph, in order.
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    _activations: dict[tuple[str, float], str] = field(default_factory=dict)
    _weights: dict[tuple[str, int, int], str] = field(default_factory=dict)

    def activation(self, tensor: str, amax: float) -> str:
        """Quantize and dequantize an activation; returns the name of the dequantized tensor."""
        key = tensor, float(np.float32(amax))
        if key not in self._activations:
            # Consumers with different ranges get pairs of their own: the second is numbered.
            count = sum(known == tensor for known, _ in self._activations)
            base = f"{tensor}/q{count or ''}"
            scale, zero, result = f"{base}_scale", f"{base}_zero", f"{base}_d"
            self._constant(scale, np.float32(amax / LARGEST[8]))
            self._constant(zero, np.int8(0))
            self.nodes += [
                helper.make_node("QuantizeLinear", [tensor, scale, zero], [base], name=f"{base}/QuantizeLinear"),
                helper.make_node("DequantizeLinear", [base, scale, zero], [result], name=f"{base}/DequantizeLinear"),
            ]
            self._activations[key] = result
        return self._activations[key]

    def weight(self, entry: QuantizableNode, weight: np.ndarray, bits: int) -> str:
        """Store a weight quantized and dequantize it; returns the name of the dequantized tensor."""
        key = entry.weight, bits, entry.axis
        if key not in self._weights:
            count = sum(known == entry.weight for known, _, _ in self._weights)
            base = f"{entry.weight}/q{count or ''}"
            values, scale = quantize_weight(weight, entry.axis, bits)
            self._constant(base, values)
            self._constant(f"{base}_scale", scale)
            self._constant(f"{base}_zero", np.zeros(scale.shape, np.int8))
            names = [base, f"{base}_scale", f"{base}_zero"]
            name = f"{base}/DequantizeLinear"
            self.nodes.append(helper.make_node("DequantizeLinear", names, [f"{base}_d"], name=name, axis=entry.axis))
            self._weights[key] = f"{base}_d"
        return self._weights[key]

    def _constant(self, name: str, value: np.ndarray | np.generic) -> None:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def amax_of(model: onnx.ModelProto) -> dict[str, float]:
    """The largest magnitude of every quantized activation, by tensor."""
    values = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    return {
        node.input[0]: float(np.max(values[node.input[1]])) * LARGEST[8]
        for node in model.graph.node if node.op_type == "QuantizeLinear"
    }  # fmt: skip
