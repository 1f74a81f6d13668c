"""Moving the outliers of activations into the weights behind them (SmoothQuant, Xiao et al. 2023, arXiv:2211.10438).

Behind a LayerNorm, a channel can be divided by a number if the weights that read it are multiplied by the same number. The
network computes the same, and the activation is easier to quantize. The factor is ``max|x_j|^a / max|w_j|^(1 - a)``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from ..statistics.histogram import HistogramObserver
from .quantizable import copied, find_quantizable, readers_of

#: Operators between the norm and the weights that move values and may keep the last axis: see :func:`_keeps_channels`.
_MOVES = frozenset({"Reshape", "Transpose", "Slice", "Concat"})
ALPHA = 0.5
#: A channel is multiplied or divided by at most this.
LIMIT = 100.0


def smoothed(
    model: onnx.ModelProto, statistics: Mapping[str, HistogramObserver], alpha: float = ALPHA
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A copy of the graph that computes the same, with flatter activations behind its norms.

    Args:
        statistics: by tensor, with ``channels``.

    Returns:
        the model, and the factors by which the channels of each changed activation are divided.
    """
    result = copied(model)
    graph, paths = result.graph, _Paths(result)
    factors: dict[str, np.ndarray] = {}
    for node in graph.node:
        if node.op_type != "LayerNormalization" or len(node.input) < 2 or node.input[1] not in paths.weights:
            continue
        if any(len(paths.readers.get(name, [])) > 1 for name in node.input[1:]):
            continue  # two norms share the parameters
        channels = paths.weights[node.input[1]].dims[0]
        products = [paths.quantizable[name] for name in paths.products(node.output[0], channels)]
        activations = {entry.activation for entry in products}
        matrices = {entry.weight for entry in products}
        peaks = [p for name in activations if (p := _channel_peaks(statistics, name, channels)) is not None]
        if not products or len(peaks) != len(activations) or any(len(paths.readers[m]) > 1 for m in matrices):
            continue
        weight = np.maximum.reduce([np.abs(numpy_helper.to_array(paths.weights[m])).max(1) for m in matrices])
        factor = _factor(np.maximum.reduce(peaks), weight, alpha)
        for name in node.input[1:]:
            _scale(paths.weights[name], 1.0 / factor)
        for name in matrices:
            _scale(paths.weights[name], factor[:, None])
        factors |= {name: factor for name in activations}
    return result, factors


def _channel_peaks(statistics: Mapping[str, HistogramObserver], tensor: str, channels: int) -> np.ndarray | None:
    """The largest magnitude per channel; None where it is not known."""
    peaks = statistics[tensor].channels if tensor in statistics else None
    return peaks if peaks is not None and peaks.shape == (channels,) else None


def _factor(activation: np.ndarray, weight: np.ndarray, alpha: float) -> np.ndarray:
    """The factor per channel, with a geometric mean of 1 before it is limited."""
    factor = np.maximum(activation, 1e-5) ** alpha / np.maximum(weight, 1e-5) ** (1.0 - alpha)
    return np.clip(factor / np.exp(np.log(factor).mean()), 1.0 / LIMIT, LIMIT).astype(np.float32)


class _Paths:
    """The ways from a tensor to the products that read it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.readers = readers_of(model)
        self.weights = {w.name: w for w in model.graph.initializer}
        self.quantizable = {entry.node: entry for entry in find_quantizable(model) if entry.op == "MatMul"}
        self.outputs = {o.name for o in model.graph.output}

    def products(self, tensor: str, channels: int) -> list[str]:
        """Names of the products that read a norm's output, directly or moved; empty if anything else reads it too."""
        if tensor in self.outputs:
            return []
        names: list[str] = []
        for reader in self.readers.get(tensor, []):
            is_product = reader.name in self.quantizable and reader.input[0] == tensor
            if is_product and self.weights[reader.input[1]].dims[0] == channels:
                names.append(reader.name)
            elif reader.op_type in _MOVES and _keeps_channels(reader, channels, self.weights):
                inner = self.products(reader.output[0], channels)
                if not inner:
                    return []
                names += inner
            else:
                return []
        return list(dict.fromkeys(names))


def _keeps_channels(node: onnx.NodeProto, channels: int, weights: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether the last axis of the output is that of the input, as far as the shapes say.

    ``search.recipe_search.is_smoothing_exact`` compares the outputs of the smoothed graph, so a wrong answer here does no harm.
    """
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
