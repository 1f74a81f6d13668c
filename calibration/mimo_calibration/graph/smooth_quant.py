"""Moving the outliers of activations into the weights behind them (SmoothQuant, Xiao et al. 2023, arXiv:2211.10438).

Behind a LayerNorm, a channel can be divided by any number if the weights that read it are multiplied by the same: the network
computes what it did, and the activation is easier to quantise. The factor is ``max|x_j|^a / max|w_j|^(1 - a)``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from ..statistics.histogram import HistogramObserver
from .quantizable import copied, find_quantizable, readers_of

#: Operators between the norm and the weights that move values but leave the last axis alone, as far as the shapes tell.
_MOVES = frozenset({"Reshape", "Transpose", "Slice", "Concat"})
ALPHA = 0.5
#: Largest factor by which a channel is changed, either way.
LIMIT = 100.0


def smoothed(
    model: onnx.ModelProto, seen: Mapping[str, HistogramObserver], alpha: float = ALPHA
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A copy of the graph that computes the same, with flatter activations behind its norms.

    Args:
        seen: statistics of activations, with ``channels``.

    Returns:
        the model, and the factors by which the channels of each changed activation were divided.
    """
    result = copied(model)
    graph, readers = result.graph, readers_of(result)
    weights = {w.name: w for w in graph.initializer}
    points = {p.node: p for p in find_quantizable(result) if p.op == "MatMul"}
    outputs = {o.name for o in graph.output}
    factors: dict[str, np.ndarray] = {}
    for node in graph.node:
        if node.op_type != "LayerNormalization" or len(node.input) < 2 or node.input[1] not in weights:
            continue
        if any(len(readers.get(name, [])) > 1 for name in node.input[1:]):
            continue  # two norms share the parameters
        channels = weights[node.input[1]].dims[0]
        ends = _ends(node.output[0], readers, outputs, channels, points, weights)
        if not ends:
            continue
        names = {points[e.name].activation for e in ends}
        peaks = [seen[n].channels for n in names if n in seen and seen[n].channels is not None]
        if len(peaks) != len(names) or any(p.shape != (channels,) for p in peaks):
            continue
        matrices = {points[e.name].weight for e in ends}
        if any(len(readers[m]) > 1 for m in matrices):
            continue
        activation = np.maximum.reduce(peaks)
        weight = np.maximum.reduce([np.abs(numpy_helper.to_array(weights[m])).max(1) for m in matrices])
        factor = np.maximum(activation, 1e-5) ** alpha / np.maximum(weight, 1e-5) ** (1.0 - alpha)
        factor = np.clip(factor / np.exp(np.log(factor).mean()), 1.0 / LIMIT, LIMIT).astype(np.float32)
        for name in node.input[1:]:
            _scale(weights[name], 1.0 / factor)
        for name in matrices:
            _scale(weights[name], factor[:, None])
        factors |= {name: factor for name in names}
    return result, factors


def _ends(
    tensor: str, readers: Mapping[str, list], outputs: set[str], channels: int, points: Mapping, weights: Mapping
) -> list[onnx.NodeProto]:
    """The products that read a norm's output, directly or moved; none if anything else reads it too."""
    if tensor in outputs:
        return []
    found: list[onnx.NodeProto] = []
    for reader in readers.get(tensor, []):
        if reader.name in points and reader.input[0] == tensor and weights[reader.input[1]].dims[0] == channels:
            found.append(reader)
        elif reader.op_type in _MOVES and _keeps_channels(reader, channels, weights):
            inner = _ends(reader.output[0], readers, outputs, channels, points, weights)
            if not inner:
                return []
            found += inner
        else:
            return []
    return list({node.name: node for node in found}.values())


def _keeps_channels(node: onnx.NodeProto, channels: int, weights: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether the last axis of the output is that of the input. The caller's numerical check is what this rests on."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Transpose":
        return attributes["perm"][-1] == len(attributes["perm"]) - 1
    if node.op_type == "Reshape":
        return node.input[1] in weights and int(numpy_helper.to_array(weights[node.input[1]])[-1]) == channels
    if node.op_type == "Slice":
        axes = weights.get(node.input[3]) if len(node.input) > 3 else None
        return axes is not None and all(0 <= int(a) < 3 for a in numpy_helper.to_array(axes))
    return attributes.get("axis", 0) in (1, 2)


def _scale(weight: onnx.TensorProto, factor: np.ndarray) -> None:
    weight.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(weight) * factor).astype(np.float32), weight.name))
