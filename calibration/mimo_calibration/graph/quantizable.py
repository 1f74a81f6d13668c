"""The nodes of a graph that can be quantized (products of an activation with constant weights), and their blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

#: A matrix with fewer rows or columns is not quantized: a coordinate table or a scalar head, where INT8 saves no time.
MIN_ROWS, MIN_COLUMNS = 16, 8


@dataclass(frozen=True)
class QuantizableNode:
    """A node with constant weights.

    Attributes:
        node: name of the node.
        op: operator type.
        activation: name of the tensor that is multiplied with the weights.
        weight: name of the initializer.
        axis: axis of the weights that holds the output channels.
        block: module of the model that the node is part of, e.g. ``backbone.stages.2.1``.
    """

    node: str
    op: str
    activation: str
    weight: str
    axis: int
    block: str


def find_quantizable(model: onnx.ModelProto) -> list[QuantizableNode]:
    """All nodes of a graph that can be quantized, in the order of the graph.

    A product of two activations (attention scores) is left out: it has no weights, and both operands would lose precision.
    """
    weights = {w.name: w for w in model.graph.initializer}
    nodes = []
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
        nodes.append(QuantizableNode(node.name, node.op_type, node.input[0], node.input[1], axis, block_of(node.name)))
    return nodes


def channel_axis(node: onnx.NodeProto, dims: int) -> int:
    """The axis of a node's weights that holds the output channels."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Gemm":
        return 0 if attributes.get("transB") else 1
    if node.op_type == "ConvTranspose":
        # A grouped ConvTranspose spreads its output channels over two axes, and axis 1 would mix groups. The model has none.
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


def blocks(nodes: Iterable[QuantizableNode]) -> dict[str, list[QuantizableNode]]:
    """The quantizable nodes of every block, in the order of the graph."""
    by_block: dict[str, list[QuantizableNode]] = {}
    for node in nodes:
        by_block.setdefault(node.block, []).append(node)
    return by_block


def fold_transposed_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph with every ``Transpose`` of a constant folded, so that a tied output layer is an ordinary weight."""
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
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model that may be edited."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make ``nodes`` the nodes of a graph. They may be nodes of the graph itself: protobuf needs copies of those."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
