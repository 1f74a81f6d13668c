"""The graph for ONNX Runtime on a CPU, derived from the symmetric Q/DQ graph or from the graph in full precision.

* Activations become unsigned: zero-point 0 of INT8 is zero-point 128 of UINT8, the scale stays. The x86 kernels multiply
  unsigned with signed bytes; with signed bytes on both sides ONNX Runtime falls back to slower kernels.
* An input that is only cut into slices along its first axis becomes one input per slice (``cross_keys.0`` ...), which the
  engine fills with views. A cut inside the graph copies the memory of the whole answer for every word. An output that is only
  stacked from parts becomes those parts (``keys.0`` ...), which go back into such inputs as they are.
* Weight-only quantisation (:func:`quantise_weights`) is ONNX Runtime's own: ``MatMulNBits`` with one scale per block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .qdq import Choice, quantise
from .quantizable import QuantizableNode, copied, drop_unused, fold_transposed_weights

#: Rows of a weight that share one scale in ``MatMulNBits``. On the text decoder of ``tiny`` larger blocks are no faster (0.167
#: ms a step with 32, 64 and 128 rows), and lose 1 dB.
BLOCK = 32


def to_ort_cpu_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph with unsigned activations, and without stacked inputs and outputs. It computes the same."""
    result = copied(model)
    _unstack_inputs(result)
    _unstack_outputs(result)
    _make_unsigned(result)
    drop_unused(result)
    return result


def quantise_weights(
    model: onnx.ModelProto, nodes: Iterable[QuantizableNode], bits: int, *, accuracy_level: int = 4
) -> onnx.ModelProto:
    """A copy of a graph with quantised weights and activations in floating point.

    A MatMul becomes ``MatMulNBits`` by ONNX Runtime's quantiser: symmetric, one scale per :data:`BLOCK` rows. The weights of
    other operators are stored quantised per channel, as :func:`~mimo_calibration.graph.qdq.quantise` does.

    Args:
        model: float32.
        nodes: those whose weights are quantised.
        bits: 8 or 4.
        accuracy_level: of ``MatMulNBits``: 1 multiplies in float32, 4 in INT8 with activations quantised per block.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    nodes = list(nodes)
    products = [entry.node for entry in nodes if entry.op == "MatMul"]
    stored = {entry.node: Choice(None, bits) for entry in nodes if entry.op != "MatMul"}
    result = quantise(model, stored) if stored else fold_transposed_weights(model)
    if not products:
        return result
    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, accuracy_level=accuracy_level, bits=bits)
    # The quantiser takes every MatMul that is not excluded; its list of included nodes only adds other operators.
    others = [node.name for node in result.graph.node if node.op_type == "MatMul" and node.name not in products]
    quantiser = MatMulNBitsQuantizer(result, nodes_to_exclude=others, algo_config=config)
    quantiser.process()
    result = quantiser.model.model
    _drop_duplicates(result)
    drop_unused(result)
    return result


def _drop_duplicates(model: onnx.ModelProto) -> None:
    """Keep one initializer of each name: the quantiser adds a weight once for each of its readers."""
    kept = {weight.name: weight for weight in model.graph.initializer}
    if len(kept) < len(model.graph.initializer):
        copies = [TensorProto.FromString(weight.SerializeToString()) for weight in kept.values()]
        del model.graph.initializer[:]
        model.graph.initializer.extend(copies)


def _unstack_inputs(model: onnx.ModelProto) -> None:
    """An input of which only single layers are read becomes one input per layer."""
    graph = model.graph
    weights = {w.name: w for w in graph.initializer}
    inputs: list[onnx.ValueInfoProto] = []
    for value in graph.input:
        slices = _slices(graph, value, weights)
        if not slices:
            inputs.append(value)
            continue
        parts = _parts(value, len(slices))
        inputs += parts
        for part, node in zip(parts, slices):
            _rename(graph, node.output[0], part.name)
        for node in slices:
            graph.node.remove(node)
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
    del graph.input[:]
    graph.input.extend(kept)


def _slices(
    graph: onnx.GraphProto, value: onnx.ValueInfoProto, weights: Mapping[str, TensorProto]
) -> list[onnx.NodeProto] | None:
    """The nodes that take the layers of an input, in order; None if it is read in any other way."""
    readers = [node for node in graph.node if value.name in node.input]
    shape = value.type.tensor_type.shape.dim
    layers = shape[0].dim_value if shape else 0
    if not readers or not layers or not all(_takes_one_layer(node, value.name, weights) for node in readers):
        return None
    if any(node.output[0] == output.name for node in readers for output in graph.output):
        return None
    by_layer = {int(numpy_helper.to_array(weights[node.input[1]])): node for node in readers}
    if len(by_layer) != len(readers) or sorted(by_layer) != list(range(layers)):
        return None
    return [by_layer[layer] for layer in range(layers)]


def _takes_one_layer(node: onnx.NodeProto, name: str, weights: Mapping[str, TensorProto]) -> bool:
    """Whether a node takes one constant index of the first axis of ``name``."""
    if node.op_type != "Gather" or node.input[0] != name or node.input[1] not in weights:
        return False
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return axis == 0 and not weights[node.input[1]].dims


def _unstack_outputs(model: onnx.ModelProto) -> None:
    """An output that is ``Concat`` of ``Unsqueeze`` along a new first axis becomes one output per part."""
    graph = model.graph
    weights = {w.name: w for w in graph.initializer}
    outputs: list[onnx.ValueInfoProto] = []
    for output in list(graph.output):
        stacking = _stacking(graph, output, weights)
        if not stacking:
            outputs.append(output)
            continue
        tensors = [node.input[0] for node in stacking[1:]]
        for node in stacking:
            graph.node.remove(node)
        parts = _parts(output, len(tensors))
        outputs += parts
        for part, tensor in zip(parts, tensors):
            _rename(graph, tensor, part.name)
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in outputs]
    del graph.output[:]
    graph.output.extend(kept)


def _stacking(
    graph: onnx.GraphProto, output: onnx.ValueInfoProto, weights: Mapping[str, TensorProto]
) -> list[onnx.NodeProto] | None:
    """The ``Concat`` that makes an output and its ``Unsqueeze`` nodes; None if the output is no plain stack."""
    producers = {name: node for node in graph.node for name in node.output}
    stack = producers.get(output.name)
    if stack is None or stack.op_type != "Concat" or next(a.i for a in stack.attribute if a.name == "axis") != 0:
        return None
    parts = [producers[name] for name in stack.input if name in producers]
    names = [part.input[0] for part in parts if _adds_first_axis(part, weights)]
    ports = {value.name for value in (*graph.input, *graph.output)}
    if not names or not len(names) == len(stack.input) == len(set(names)):
        return None
    if ports & set(names) or not set(names) <= set(producers):
        return None
    stacked = {output.name, *(part.output[0] for part in parts)}
    if any(stacked & set(node.input) for node in graph.node if node is not stack):
        return None
    return [stack, *parts]


def _adds_first_axis(node: onnx.NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    """Whether a node puts one axis in front of its input."""
    if node.op_type != "Unsqueeze" or node.input[1] not in weights:
        return False
    return numpy_helper.to_array(weights[node.input[1]]).reshape(-1).tolist() == [0]


def _parts(value: onnx.ValueInfoProto, count: int) -> list[onnx.ValueInfoProto]:
    """``value`` without its first axis, ``count`` times, numbered."""
    parts = []
    for layer in range(count):
        part = onnx.ValueInfoProto()
        part.CopyFrom(value)
        part.name = f"{value.name}.{layer}"
        del part.type.tensor_type.shape.dim[0]
        parts.append(part)
    return parts


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a tensor wherever it is read or written."""
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = new


def _make_unsigned(model: onnx.ModelProto) -> None:
    """Shift the zero-points of activations from INT8 to UINT8."""
    zeros = {n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    for weight in model.graph.initializer:
        if weight.name in zeros and weight.data_type == TensorProto.INT8:
            value = numpy_helper.to_array(weight).astype(np.int16) + 128
            weight.CopyFrom(numpy_helper.from_array(value.astype(np.uint8), weight.name))
