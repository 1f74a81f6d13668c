"""The one quantised form of a graph: explicit QuantizeLinear / DequantizeLinear, symmetric, weights per output channel.

TensorRT, TensorRT-RTX and OpenVINO take the file as it is; ``ort_form`` derives ONNX Runtime's from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .quantizable import QuantizableNode, drop_unused, find_quantizable, fold_transposed_weights, readers_of

#: Largest magnitude of a quantised weight by bits: symmetric, so that -128 is not used.
LARGEST = {8: 127, 4: 7}
#: Operators that move values without changing any.
REARRANGES = ("Transpose", "Reshape")


@dataclass(frozen=True)
class Choice:
    """How one point is quantised.

    Attributes:
        clip: of the activation, which is then INT8; None leaves it in floating point (weight-only).
        bits: of the weights, 8 or 4. Four-bit weights are stored as INT8 values from -7 to 7: opset 20 has no smaller type.
    """

    clip: float | None
    bits: int = 8


def quantise_weight(weight: np.ndarray, axis: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric per-channel quantisation.

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


def quantise(model: onnx.ModelProto, choices: Mapping[str, Choice]) -> onnx.ModelProto:
    """A copy of a graph with the chosen points quantised.

    Args:
        model: float32, opset 13 or later.
        choices: by name of the node; every one must be a point of the graph.

    Raises:
        ValueError: a node that is no point.
    """
    model = fold_transposed_weights(model)
    points = {point.node: point for point in find_quantizable(model)}
    unknown = sorted(set(choices) - set(points))
    if unknown:
        raise ValueError(f"{unknown[0]} cannot be quantised")
    graph = model.graph
    weights = {w.name: numpy_helper.to_array(w) for w in graph.initializer if w.name in {p.weight for p in points.values()}}
    nodes: list[onnx.NodeProto] = []
    made: dict = {}
    early, moved = _early(model, points, choices)
    for node in graph.node:
        choice = choices.get(node.name)
        if node.name in early:
            node.input[0] = _activation(graph, nodes, made, node.input[0], early[node.name])
        if choice is not None:
            point = points[node.name]
            if choice.clip is not None and point.activation not in moved:
                node.input[0] = _activation(graph, nodes, made, point.activation, choice.clip)
            node.input[1] = _weight(graph, nodes, made, point, weights[point.weight], choice.bits)
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    drop_unused(model)
    return model


def _early(
    model: onnx.ModelProto, points: Mapping[str, QuantizableNode], choices: Mapping[str, Choice]
) -> tuple[dict[str, float], set[str]]:
    """Quantise before an activation is rearranged rather than after: a quarter of the bytes move, and the transposition around
    a convolution cancels with the engine's own layout. Rearranging changes no value, so the result is the same.

    Only through ``Transpose`` and ``Reshape`` that nothing else reads, and not up to a product: engines fuse attention with
    what follows it.

    Returns:
        clips by the name of the first rearranging node, and the activations that need no quantisation of their own then.
    """
    graph = model.graph
    producer = {name: node for node in graph.node for name in node.output}
    readers = readers_of(model)
    outputs = {o.name for o in graph.output}
    early: dict[str, float] = {}
    moved: set[str] = set()
    for name, choice in choices.items():
        activation = points[name].activation
        clips = {choices[r.name].clip if r.name in choices else None for r in readers[activation]}
        if choice.clip is None or activation in moved or clips != {choice.clip}:
            continue
        tensor, first = activation, None
        while (node := producer.get(tensor)) is not None and node.op_type in REARRANGES:
            if tensor in outputs or (tensor != activation and len(readers[tensor]) > 1):
                break
            tensor, first = node.input[0], node
        above = producer.get(tensor)
        if first is not None and (above is None or above.op_type != "MatMul"):
            early[first.name] = choice.clip
            moved.add(activation)
    return early, moved


def _activation(graph: onnx.GraphProto, nodes: list, made: dict, tensor: str, clip: float) -> str:
    key = tensor, float(np.float32(clip))
    if key not in made:
        # Two consumers with different clips are two pairs: the second is numbered.
        count = sum(1 for known in made if known[0] == tensor and len(known) == 2)
        base = f"{tensor}/q{count or ''}"
        scale, zero = f"{base}_scale", f"{base}_zero"
        graph.initializer.append(numpy_helper.from_array(np.float32(clip / LARGEST[8]), scale))
        graph.initializer.append(numpy_helper.from_array(np.int8(0), zero))
        nodes.append(helper.make_node("QuantizeLinear", [tensor, scale, zero], [base], name=f"{base}/QuantizeLinear"))
        nodes.append(helper.make_node("DequantizeLinear", [base, scale, zero], [f"{base}_d"], name=f"{base}/DequantizeLinear"))
        made[key] = f"{base}_d"
    return made[key]


def _weight(graph: onnx.GraphProto, nodes: list, made: dict, point: QuantizableNode, weight: np.ndarray, bits: int) -> str:
    key = "weight", point.weight, bits, point.axis
    if key not in made:
        count = sum(1 for known in made if known[:2] == key[:2])
        base = f"{point.weight}/q{count or ''}"
        values, scale = quantise_weight(weight, point.axis, bits)
        graph.initializer.append(numpy_helper.from_array(values, base))
        graph.initializer.append(numpy_helper.from_array(scale, f"{base}_scale"))
        graph.initializer.append(numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{base}_zero"))
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [base, f"{base}_scale", f"{base}_zero"], [f"{base}_d"],
                name=f"{base}/DequantizeLinear", axis=point.axis,
            )
        )  # fmt: skip
        made[key] = f"{base}_d"
    return made[key]


def amax_of(model: onnx.ModelProto) -> dict[str, float]:
    """The clip of every quantised activation, by tensor."""
    values = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    return {
        node.input[0]: float(np.max(values[node.input[1]])) * 127
        for node in model.graph.node if node.op_type == "QuantizeLinear"
    }  # fmt: skip
