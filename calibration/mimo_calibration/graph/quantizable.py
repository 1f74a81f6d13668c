"""Where a graph can be quantised: the products of an activation with constant weights, and the blocks that they belong to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

#: Fewer rows or columns than this are not worth a kernel of their own; they are the coordinate tables and the scalar heads.
MIN_ROWS, MIN_COLUMNS = 16, 8


@dataclass(frozen=True)
class QuantizableNode:
    """One node with constant weights.

    Attributes:
        node: its name; op: its type.
        activation: the tensor that it multiplies with its weights; weight: the name of the initializer.
        axis: the axis of the weights that holds the output channels.
        block: the module of the model that the node is part of, e.g. ``backbone.stages.2.1``.
    """

    node: str
    op: str
    activation: str
    weight: str
    axis: int
    block: str


def find_quantizable(model: onnx.ModelProto) -> list[QuantizableNode]:
    """All places of a graph that can be quantised, in the order of the graph.

    A product of two activations (attention scores) is none: it has no weights, and both sides would lose precision.
    """
    weights = {w.name: w for w in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv", "ConvTranspose") or node.input[1] not in weights:
            continue
        weight = weights[node.input[1]]
        if weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) < 2 or node.input[0] in weights:
            continue
        axis = channel_axis(node, len(weight.dims))
        if node.op_type in ("MatMul", "Gemm"):
            rows = int(np.prod(weight.dims)) // weight.dims[axis]
            if len(weight.dims) != 2 or rows < MIN_ROWS or weight.dims[axis] < MIN_COLUMNS:
                continue
        found.append(QuantizableNode(node.name, node.op_type, node.input[0], node.input[1], axis, block_of(node.name)))
    return found


def channel_axis(node: onnx.NodeProto, dims: int) -> int:
    """The axis of a node's weights that holds the output channels."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Gemm":
        return 0 if attributes.get("transB") else 1
    if node.op_type == "ConvTranspose":
        # Grouped, its output channels are spread over two axes; then one scale for all of them is the safe choice (axis 1 of
        # the weights would mix groups). The model has no grouped one.
        return 1
    return 0 if node.op_type == "Conv" else dims - 1


def block_of(node: str) -> str:
    """``backbone.stages.2.1.mlp.0/MatMul`` -> ``backbone.stages.2.1``: the first numbered module of the path.

    Two numbers in a row are stage and block. Modules without a number are their own block.
    """
    path = node.split("/")[0]
    parts = path.split(".")
    for end, part in enumerate(parts):
        if part.isdigit():
            if end + 1 < len(parts) and parts[end + 1].isdigit():
                end += 1
            return ".".join(parts[: end + 1])
    return parts[0] or node


def blocks(points: Iterable[QuantizableNode]) -> dict[str, list[QuantizableNode]]:
    """The points of every block, in the order of the graph."""
    found: dict[str, list[QuantizableNode]] = {}
    for point in points:
        found.setdefault(point.block, []).append(point)
    return found


def fold_transposed_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which a ``Transpose`` of a constant is a constant: a tied output layer becomes a weight like any other."""
    model = copied(model)
    weights = {w.name: w for w in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type == "Transpose" and node.input[0] in weights:
            permutation = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            value = numpy_helper.to_array(weights[node.input[0]]).transpose(permutation)
            model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), node.output[0]))
            model.graph.node.remove(node)
    drop_unused(model)
    return model


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove the initializers that nothing reads."""
    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    kept = [w for w in model.graph.initializer if w.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def readers_of(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy to change."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
