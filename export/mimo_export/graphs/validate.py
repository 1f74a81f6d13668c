"""An ONNX model held against its contract: names, order, dtypes, and which axes are static or dynamic."""

from __future__ import annotations

import onnx

from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import PAST_PLUS_ONE, GraphSpec, Tensor

#: How the exporter may write the length of the cache after a step; the contract has one name for it.
_PAST_PLUS_ONE = {"past + 1", "1 + past", PAST_PLUS_ONE}

_DTYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
}

#: Control flow and data-dependent shapes: no engine compiler takes them well, and nothing in the model needs them.
FORBIDDEN = frozenset({"If", "Loop", "Scan", "NonZero", "RandomNormal", "RandomUniform", "Dropout"})


def check_spec(model: onnx.ModelProto, contract: GraphSpec) -> None:
    """Hold a model against its contract.

    Output axes that the exporter wrote as ``past + 1`` are renamed to the contract's ``past_plus_one``.

    Raises:
        EngineError: the first difference; it names graph, tensor and axis.
    """
    graph = model.graph
    for role, wanted, found in (("input", contract.inputs, graph.input), ("output", contract.outputs, graph.output)):
        names = [value.name for value in found]
        if names != [t.name for t in wanted]:
            raise _misfit(contract, f"its {role}s are {', '.join(names)} instead of {', '.join(t.name for t in wanted)}")
        for tensor, value in zip(wanted, found):
            _check_tensor(contract, role, tensor, value.type.tensor_type)


def check_operators(model: onnx.ModelProto, contract: GraphSpec, opset: int) -> None:
    """Only standard operators of one opset, no control flow, no double precision.

    Raises:
        EngineError: the first operator or initializer that breaks this.
    """
    imports = {(i.domain, i.version) for i in model.opset_import}
    if imports != {("", opset)}:
        raise _misfit(contract, f"its operator sets are {sorted(imports)} instead of ai.onnx {opset}")
    for node in model.graph.node:
        if node.domain or node.op_type in FORBIDDEN:
            raise _misfit(contract, f"node {node.name} is a {node.domain or 'ai.onnx'} {node.op_type}")
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.DOUBLE:
            raise _misfit(contract, f"constant {weight.name} is float64")


def _check_tensor(contract: GraphSpec, role: str, tensor: Tensor, found: onnx.TypeProto.Tensor) -> None:
    dtype = _DTYPES.get(found.elem_type, onnx.TensorProto.DataType.Name(found.elem_type))
    if dtype != tensor.dtype:
        raise _misfit(contract, f"{role} {tensor.name} is {dtype} instead of {tensor.dtype}")
    if len(found.shape.dim) != len(tensor.shape):
        raise _misfit(contract, f"{role} {tensor.name} has {len(found.shape.dim)} axes instead of {len(tensor.shape)}")
    for axis, (wanted, dim) in enumerate(zip(tensor.shape, found.shape.dim)):
        if wanted == PAST_PLUS_ONE and dim.dim_param in _PAST_PLUS_ONE:
            dim.dim_param = PAST_PLUS_ONE
        given: int | str = dim.dim_param or dim.dim_value
        if given == wanted:
            continue
        where = f"axis {axis} of {role} {tensor.name}"
        if isinstance(wanted, str) and isinstance(given, int):
            raise _misfit(contract, f"{where} was frozen to {given}, it must stay dynamic ({wanted})")
        if isinstance(wanted, int) and isinstance(given, str):
            raise _misfit(contract, f"{where} became dynamic ({given}), it must be {wanted}")
        raise _misfit(contract, f"{where} is {given} instead of {wanted}")


def _misfit(contract: GraphSpec, how: str) -> EngineError:
    told = f"exported graph {contract.name} does not fit its contract: {how}"
    return EngineError(told, "Correct mimo_train.model or the contract")
