"""The shape of every tensor of a graph for one set of input shapes, and the memory that running it takes."""

from __future__ import annotations

from collections.abc import Mapping

from .onnx_rules import OPERATORS, Inputs, Known, Shape
from .onnx_wire import GraphInfo, OnnxError


def infer_shapes(graph: GraphInfo, inputs: Mapping[str, Shape], largest: int) -> dict[str, Known]:
    """The shapes of all tensors.

    Args:
        inputs: shapes of the graph's inputs.
        largest: most elements that a tensor may have.

    Raises:
        OnnxError: an operator that is not in :data:`OPERATORS`, shapes that do not fit, or a tensor that is too large.
    """
    known = {name: Known(tensor.shape, tensor.value) for name, tensor in graph.initializers.items()}
    known |= {name: Known(shape) for name, shape in inputs.items()}
    for node in graph.nodes:
        rule = OPERATORS.get((node.domain if node.domain != "ai.onnx" else "", node.op))
        if rule is None:
            name = f"{node.domain[:40]}.{node.op[:40]}".lstrip(".")
            raise OnnxError(f"holds the operator {name!r}, which no exported graph has")
        if any(name and name not in known for name in node.inputs):
            raise OnnxError(f"holds an operator {node.op} whose inputs are computed nowhere before it")
        tensors = Inputs(tuple(known[name] if name else None for name in node.inputs))
        try:
            outputs = rule(node, tensors)
        except OnnxError as error:
            raise OnnxError(f"holds an operator {node.op} whose shapes do not fit: {error}") from None
        except (ValueError, IndexError, OverflowError, TypeError, ArithmeticError):
            raise OnnxError(f"holds an operator {node.op} whose shapes do not fit") from None
        if len(node.outputs) > len(outputs):
            raise OnnxError(f"holds an operator {node.op} with {len(node.outputs)} outputs")
        for name, output in zip(node.outputs, outputs):
            if len(output.shape) > 16 or min(output.shape, default=0) < 0 or output.size > largest:
                size = f"{output.size:.3g}" if output.size < 10**300 else "too many"
                raise OnnxError(f"computes a tensor of {size} elements ({node.op}), more than a model of this size needs")
            known[name] = output
    return known


def peak_bytes(graph: GraphInfo, known: Mapping[str, Known]) -> int:
    """The most memory that tensors between operators take at one time, at four bytes an element."""
    last: dict[str, int] = {}
    for position, node in enumerate(graph.nodes):
        last.update(dict.fromkeys(node.inputs, position))
    ends: dict[int, list[str]] = {}
    for name, position in last.items():
        if name not in graph.initializers:
            ends.setdefault(position, []).append(name)
    alive = peak = sum(known[name].size for name in graph.inputs if name in known)
    for position, node in enumerate(graph.nodes):
        alive += sum(known[name].size for name in node.outputs if name)
        peak = max(peak, alive)
        alive -= sum(known[name].size for name in ends.get(position, ()) if name)
    return 4 * peak
