"""ONNX Runtime's CPU form of a quantised graph, derived from the symmetric one without looking at any data.

Mechanical steps that compute the same: a test holds them against the symmetric file.

* Activations become unsigned: zero-point 0 of INT8 is zero-point 128 of UINT8, the scale stays. Its kernels for x86 multiply
  unsigned with signed bytes; with signed ones on both sides they fall back to slower ones.
* Weights that are quantised alone (no quantised activation beside them) become ``MatMulNBits``, which reads 8 or 4 bits per
  weight and multiplies in floating point or, with ``accuracy_level`` 4, with activations that it quantises per block itself.
* An input that is only ever cut into slices along its first axis becomes one input per slice (``cross_keys.0`` ...), which the
  engine fills with views: a cut inside the graph copies the memory of the whole answer for every word. An output that is only
  stacked from parts becomes those parts (``keys.0`` ...), which go back into such inputs as they are.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .qdq import REARRANGES
from .quantizable import copied, drop_unused

#: Rows of a weight that share one scale in ``MatMulNBits``; a multiple of 16. Per-channel scales are repeated for each.
BLOCK = 32
MICROSOFT = "com.microsoft"


def to_ort_cpu_graph(model: onnx.ModelProto, *, accuracy_level: int = 4) -> onnx.ModelProto:
    """The CPU form of a symmetric Q/DQ graph.

    Args:
        accuracy_level: of ``MatMulNBits``: 1 multiplies in float32, 4 in int8.
    """
    result = copied(model)
    _unstack(result)
    _unstack_outputs(result)
    _unsigned(result)
    _n_bits(result, accuracy_level)
    drop_unused(result)
    return result


def _unstack(model: onnx.ModelProto) -> None:
    graph = model.graph
    weights = {w.name: w for w in graph.initializer}
    for value in list(graph.input):
        readers = [node for node in graph.node if value.name in node.input]
        layers = value.type.tensor_type.shape.dim[0].dim_value if value.type.tensor_type.shape.dim else 0
        if not readers or not layers or not all(_cuts(node, value.name, weights) for node in readers):
            continue
        if any(node.output[0] == output.name for node in readers for output in graph.output):
            continue
        index = {int(numpy_helper.to_array(weights[node.input[1]])): node for node in readers}
        if len(index) != len(readers) or sorted(index) != list(range(layers)):
            continue
        inputs = []
        for k in range(layers):
            part = onnx.ValueInfoProto()
            part.CopyFrom(value)
            part.name = f"{value.name}.{k}"
            del part.type.tensor_type.shape.dim[0]
            inputs.append(part)
            for node in graph.node:
                for position, name in enumerate(node.input):
                    if name == index[k].output[0]:
                        node.input[position] = part.name
        place = list(graph.input).index(value)
        rest = [*graph.input[:place], *inputs, *graph.input[place + 1 :]]
        del graph.input[:]
        graph.input.extend(rest)
        for node in readers:
            graph.node.remove(node)


def _unstack_outputs(model: onnx.ModelProto) -> None:
    """``Concat`` of ``Unsqueeze`` along a new first axis: the parts are the outputs."""
    graph = model.graph
    weights = {w.name: w for w in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    ports = {value.name for value in (*graph.input, *graph.output)}
    outputs: list[onnx.ValueInfoProto] = []
    for output in graph.output:
        stack = producers.get(output.name)
        parts = [producers.get(name) for name in stack.input] if stack is not None and stack.op_type == "Concat" else []
        names = [part.input[0] for part in parts if part is not None and _adds_first_axis(part, weights)]
        once = len(names) == len(parts) == len(set(names)) and not ports & set(names) and set(names) <= set(producers)
        stacked = {output.name, *(part.output[0] for part in parts if part is not None)}
        read = any(stacked & set(node.input) for node in graph.node if node is not stack)
        if not parts or not once or read or next(a.i for a in stack.attribute if a.name == "axis") != 0:
            outputs.append(output)
            continue
        for node in (stack, *parts):
            graph.node.remove(node)
        for k, name in enumerate(names):
            part = onnx.ValueInfoProto()
            part.CopyFrom(output)
            part.name = f"{output.name}.{k}"
            del part.type.tensor_type.shape.dim[0]
            outputs.append(part)
            for node in graph.node:
                for ends in (node.input, node.output):
                    for position, end in enumerate(ends):
                        if end == name:
                            ends[position] = part.name
    del graph.output[:]
    graph.output.extend(outputs)


def _adds_first_axis(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node puts one axis in front of its input."""
    if node.op_type != "Unsqueeze" or node.input[1] not in weights:
        return False
    return numpy_helper.to_array(weights[node.input[1]]).reshape(-1).tolist() == [0]


def _cuts(node: onnx.NodeProto, name: str, weights: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node takes one constant index of the first axis of ``name``."""
    if node.op_type != "Gather" or node.input[0] != name or node.input[1] not in weights:
        return False
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return axis == 0 and not weights[node.input[1]].dims


def _unsigned(model: onnx.ModelProto) -> None:
    zeros = {n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    for weight in model.graph.initializer:
        if weight.name in zeros and weight.data_type == TensorProto.INT8:
            value = numpy_helper.to_array(weight).astype(np.int16) + 128
            weight.CopyFrom(numpy_helper.from_array(value.astype(np.uint8), weight.name))


def _n_bits(model: onnx.ModelProto, accuracy_level: int) -> None:
    graph = model.graph
    weights = {w.name: w for w in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    nodes, used = [], False
    for node in graph.node:
        source = producers.get(node.input[1]) if node.op_type == "MatMul" else None
        beside = producers.get(node.input[0]) if node.op_type == "MatMul" else None
        while beside is not None and beside.op_type in REARRANGES:
            beside = producers.get(beside.input[0])  # it may be quantised before it is rearranged
        alone = beside is None or beside.op_type != "DequantizeLinear"
        if source is not None and source.op_type == "DequantizeLinear" and source.input[0] in weights and alone:
            values, scales = (numpy_helper.to_array(weights[name]) for name in source.input[:2])
            if values.ndim == 2 and values.shape[0] % BLOCK == 0:
                nodes.append(_matmul_n_bits(graph, node, source.input[0], values, scales, accuracy_level))
                used = True
                continue
        nodes.append(node)
    read = {name for node in nodes for name in node.input}
    kept = [
        onnx.NodeProto.FromString(n.SerializeToString())
        for n in nodes if n.op_type != "DequantizeLinear" or any(o in read for o in n.output)
    ]  # fmt: skip
    del graph.node[:]
    graph.node.extend(kept)
    if used and all(o.domain != MICROSOFT for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def _matmul_n_bits(
    graph: onnx.GraphProto, node: onnx.NodeProto, name: str, values: np.ndarray, scales: np.ndarray, accuracy_level: int
) -> onnx.NodeProto:
    """values int8 [K, N], scales [N] -> a node with B uint8 [N, K / block, bytes] around zero-point 128 (or 8)."""
    rows, columns = values.shape
    bits = 4 if np.abs(values).max(initial=0) <= 7 else 8
    shifted = (values.T.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8).reshape(columns, rows // BLOCK, BLOCK)
    packed = shifted if bits == 8 else shifted[..., 0::2] | (shifted[..., 1::2] << 4)
    repeated = np.repeat(scales[:, None], rows // BLOCK, axis=1).astype(np.float32)
    names = f"{name}_b{bits}", f"{name}_b{bits}_scales"
    if all(w.name != names[0] for w in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(packed), names[0]))
        graph.initializer.append(numpy_helper.from_array(repeated, names[1]))
    return helper.make_node(
        "MatMulNBits", [node.input[0], *names], list(node.output), name=node.name, domain=MICROSOFT,
        K=rows, N=columns, bits=bits, block_size=BLOCK, accuracy_level=accuracy_level,
    )  # fmt: skip
