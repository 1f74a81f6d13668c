"""What a graph has to do: multiplications by precision, and bytes, from the shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mimo_runtime.bundle.onnx_rules import Known, Shape
from mimo_runtime.bundle.onnx_shapes import infer_shapes
from mimo_runtime.bundle.onnx_wire import GraphInfo, NodeInfo, read_model

#: Precisions of a product: of the peaks in ``peaks``. Weights of 8 or 4 bits beside float activations count as ``fp32``.
FP32, INT8 = "fp32", "int8"
#: Operators that give another view of their input: no bytes move.
_VIEWS = frozenset({"Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Shape", "Constant"})
#: More elements than any tensor of a model.
_LARGEST = 1 << 40


@dataclass
class Work:
    """One run of a graph.

    Args:
        macs: multiply-accumulate operations by precision.
        weight_bytes: of the constants.
        boundary_bytes: of inputs and outputs.
        activation_bytes: read and written if every operator takes its tensors from memory; fused operators move less.
    """

    macs: dict[str, int] = field(default_factory=dict)
    weight_bytes: int = 0
    boundary_bytes: int = 0
    activation_bytes: int = 0

    @property
    def least_bytes(self) -> int:
        """Bytes that no engine can avoid to move: weights, inputs, outputs."""
        return self.weight_bytes + self.boundary_bytes


def work_of(data: bytes, inputs: Mapping[str, Shape]) -> Work:
    """The work of one run.

    Args:
        data: an ONNX file of this project.
        inputs: shapes by name, as the file calls them.

    Raises:
        OnnxError: the file holds an operator that no exported graph has, or shapes do not fit.
    """
    graph = read_model(data)
    known = infer_shapes(graph, inputs, _LARGEST)
    made_by = {name: node for node in graph.nodes for name in node.outputs}
    work = Work(weight_bytes=sum(tensor.bytes for tensor in graph.initializers.values()))
    work.boundary_bytes = 4 * sum(known[name].size for name in (*inputs, *graph.outputs) if name in known)
    for node in graph.nodes:
        count = _macs(node, known)
        if count:
            kind = INT8 if _is_int8(node, made_by) else FP32
            work.macs[kind] = work.macs.get(kind, 0) + count
        if node.op not in _VIEWS:
            names = [name for name in (*node.inputs, *node.outputs) if name and not _is_constant(name, graph, made_by)]
            work.activation_bytes += sum(_bytes(name, known, made_by) for name in names)
    return work


def _macs(node: NodeInfo, known: Mapping[str, Known]) -> int:
    shapes = [known[name].shape if name else () for name in node.inputs]
    out = known[node.outputs[0]].size if node.outputs and node.outputs[0] in known else 0
    if node.op == "MatMul":
        return out * shapes[0][-1]
    if node.op == "Gemm":
        return out * shapes[0][0 if node.attributes.get("transA") else 1]
    if node.op == "MatMulNBits":
        return out * shapes[0][-1]
    if node.op == "Conv":
        return out * math.prod(shapes[1][1:])
    if node.op == "ConvTranspose":
        return math.prod(shapes[0]) * math.prod(shapes[1][1:])
    if node.op == "Attention":
        (*heads, length, depth), keys, values = shapes[0], shapes[1], shapes[2]
        return math.prod(heads) * length * keys[2] * (depth + values[3])
    return 0


def _is_int8(node: NodeInfo, made_by: Mapping[str, NodeInfo]) -> bool:
    """Whether both factors are dequantized: engines multiply such integers."""
    return len(node.inputs) > 1 and all(name in made_by and made_by[name].op == "DequantizeLinear" for name in node.inputs[:2])


def _is_constant(name: str, graph: GraphInfo, made_by: Mapping[str, NodeInfo]) -> bool:
    """An initializer, or one that is dequantized."""
    if name in graph.initializers:
        return True
    node = made_by.get(name)
    return node is not None and (
        node.op == "Constant" or node.op == "DequantizeLinear" and node.inputs[0] in graph.initializers
    )


def _bytes(name: str, known: Mapping[str, Known], made_by: Mapping[str, NodeInfo]) -> int:
    node = made_by.get(name)
    return known[name].size * (1 if node is not None and node.op == "QuantizeLinear" else 4)
