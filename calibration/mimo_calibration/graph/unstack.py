"""Stacked inputs and outputs of a graph become one per layer.

An input that is only cut into slices along its first axis becomes one input per slice (``cross_keys.0`` ...), which the engine
fills with views. A cut inside the graph copies the memory of the whole answer for every word. An output that is only stacked
from parts becomes those parts (``keys.0`` ...), which go back into such inputs as they are.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir


def unstack(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph without stacked inputs and outputs; the same model where there are none."""
    unstacked = ir.serde.deserialize_model(model)
    graph = unstacked.graph
    inputs = [(value, slices) for value in graph.inputs if (slices := _slices(value))]
    for value, slices in inputs:
        parts = [_without_first_axis(value, layer) for layer in range(len(slices))]
        for part, node in zip(parts, slices):
            node.outputs[0].replace_all_uses_with(part)
        graph.remove(slices, safe=True)
        place = graph.inputs.index(value)
        graph.inputs[place : place + 1] = parts
    outputs = [(output, tensors) for output in graph.outputs if (tensors := _stacked(output))]
    for output, tensors in outputs:
        stack = output.producer()
        nodes = [stack, *(value.producer() for value in stack.inputs)]
        for layer, tensor in enumerate(tensors):
            part = _without_first_axis(output, layer)
            tensor.name, tensor.shape, tensor.type = part.name, part.shape, part.type
        place = graph.outputs.index(output)
        graph.outputs[place : place + 1] = tensors
        graph.remove(nodes, safe=True)
    if not inputs and not outputs:
        return model
    result = ir.serde.serialize_model(unstacked)
    del result.graph.value_info[:]  # written for every initializer; engines infer shapes themselves
    return result


def _without_first_axis(value: ir.Value, layer: int) -> ir.Value:
    shape = ir.Shape(list(value.shape)[1:]) if value.shape is not None else None
    return ir.Value(name=f"{value.name}.{layer}", shape=shape, type=value.type)


def _slices(value: ir.Value) -> list[ir.Node]:
    """The nodes that take the layers of an input, in order; none if it is read in any other way."""
    slices: dict[int, ir.Node] = {}
    for node, position in value.uses():
        index = node.inputs[1].const_value if node.op_type == "Gather" and position == 0 else None
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        if index is None or axis != 0 or index.shape.rank() or node.outputs[0].is_graph_output():
            return []
        slices[int(index.numpy())] = node
    layers = value.shape[0] if value.shape else None
    complete = isinstance(layers, int) and sorted(slices) == list(range(layers)) and len(value.uses()) == layers
    return [slices[layer] for layer in sorted(slices)] if complete else []


def _stacked(output: ir.Value) -> list[ir.Value]:
    """The tensors that ``Concat`` of ``Unsqueeze`` stacks along a new first axis; none if the output is made otherwise."""
    stack = output.producer()
    if stack is None or stack.op_type != "Concat" or stack.attributes["axis"].as_int() != 0 or output.uses():
        return []
    tensors: list[ir.Value] = []
    for value in stack.inputs:
        node = value.producer()
        axes = node.inputs[1].const_value if node is not None and node.op_type == "Unsqueeze" else None
        if axes is None or axes.numpy().reshape(-1).tolist() != [0] or len(value.uses()) != 1:
            return []
        tensor = node.inputs[0]
        if tensor.producer() is None or tensor.is_graph_output() or tensor in tensors:
            return []
        tensors.append(tensor)
    return tensors
