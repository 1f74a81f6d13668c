"""Check that an ONNX model has the interface of its graph spec, and that the runtime accepts it.

The interface: names, order, dtypes, static and dynamic axes. What the runtime accepts: ``mimo_runtime.bundle.graph_check``.
"""

from __future__ import annotations

import onnx

from mimo_runtime.bundle.graph_check import check_graph
from mimo_runtime.bundle.onnx_rules import OPERATORS
from mimo_runtime.errors import BundleError, EngineError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import PAST_PLUS_ONE, GraphSpec, Tensor

#: How the exporter may write the length of the cache after a step; the spec has one name for it.
_PAST_PLUS_ONE = {"past + 1", "1 + past", PAST_PLUS_ONE}

_DTYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
}


def check_spec(model: onnx.ModelProto, spec: GraphSpec) -> None:
    """Compare the interface of a model with its spec.

    Output axes that the exporter wrote as ``past + 1`` are renamed to the spec's ``past_plus_one``.

    Raises:
        EngineError: the first difference; it names graph, tensor and axis.
    """
    graph = model.graph
    for role, expected, values in (("input", spec.inputs, graph.input), ("output", spec.outputs, graph.output)):
        names = [value.name for value in values]
        if names != [t.name for t in expected]:
            raise _misfit(spec, f"its {role}s are {', '.join(names)} instead of {', '.join(t.name for t in expected)}")
        for tensor, value in zip(expected, values):
            _check_tensor(spec, role, tensor, value.type.tensor_type)


def check_operators(model: onnx.ModelProto, spec: GraphSpec, opset: int) -> None:
    """Only standard operators of one opset that the runtime accepts, no double precision.

    The runtime's list has no control flow and no data-dependent shapes: engine compilers do not take them well.

    Raises:
        EngineError: the first operator or initializer that breaks this.
    """
    imports = {(i.domain, i.version) for i in model.opset_import}
    if imports != {("", opset)}:
        raise _misfit(spec, f"its operator sets are {sorted(imports)} instead of ai.onnx {opset}")
    for node in model.graph.node:
        if node.domain or ("", node.op_type) not in OPERATORS:
            raise _misfit(spec, f"node {node.name} is a {node.domain or 'ai.onnx'} {node.op_type}")
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.DOUBLE:
            raise _misfit(spec, f"constant {weight.name} is float64")


def check_runtime_accepts(data: bytes, spec: GraphSpec, config: MimoConfig) -> None:
    """Check the bytes of a graph as the runtime does before an engine reads them: operators, sizes, inputs.

    Raises:
        EngineError: the runtime would refuse a bundle with this graph.
    """
    try:
        check_graph(data, spec, config, f"graph {spec.name}")
    except BundleError as error:
        remedy = "Correct the export, or add the operator to mimo_runtime.bundle.onnx_rules"
        raise EngineError(f"the runtime refuses what was exported: {error.what}", remedy) from None


def _check_tensor(spec: GraphSpec, role: str, tensor: Tensor, actual: onnx.TypeProto.Tensor) -> None:
    dtype = _DTYPES.get(actual.elem_type, onnx.TensorProto.DataType.Name(actual.elem_type))
    if dtype != tensor.dtype:
        raise _misfit(spec, f"{role} {tensor.name} is {dtype} instead of {tensor.dtype}")
    if len(actual.shape.dim) != len(tensor.shape):
        raise _misfit(spec, f"{role} {tensor.name} has {len(actual.shape.dim)} axes instead of {len(tensor.shape)}")
    for axis, (expected, dim) in enumerate(zip(tensor.shape, actual.shape.dim)):
        if expected == PAST_PLUS_ONE and dim.dim_param in _PAST_PLUS_ONE:
            dim.dim_param = PAST_PLUS_ONE
        size: int | str = dim.dim_param or dim.dim_value
        if size == expected:
            continue
        where = f"axis {axis} of {role} {tensor.name}"
        if isinstance(expected, str) and isinstance(size, int):
            raise _misfit(spec, f"{where} was frozen to {size}, it must stay dynamic ({expected})")
        if isinstance(expected, int) and isinstance(size, str):
            raise _misfit(spec, f"{where} became dynamic ({size}), it must be {expected}")
        raise _misfit(spec, f"{where} is {size} instead of {expected}")


def _misfit(spec: GraphSpec, how: str) -> EngineError:
    message = f"exported graph {spec.name} does not fit its specification: {how}"
    return EngineError(message, "Correct mimo_train.model or mimo_runtime.model.graph_spec")
