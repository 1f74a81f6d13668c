"""The precision that a graph has, counted in its file: the reports show it beside the requested one."""

from __future__ import annotations

import onnx

#: Operators that do the arithmetic. Where these run decides speed and size; the rest follows.
MATRIX_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Attention", "MatMulNBits"})

_FLOATS = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}


def delivered(model: onnx.ModelProto) -> dict[str, int]:
    """How many matrix operators of a model run in ``int8``, ``fp16`` and ``fp32``.

    One counts as int8 if both operands come from DequantizeLinear (an engine then fuses the three), as ``int8_weights`` if the
    second alone does (the product is in floating point). ``MatMulNBits``, whose weights alone are quantized in the file, is
    ``int8_weights`` or ``int4`` by their bits; the rest go by their element type. ``int8_weights`` and ``int4`` are listed only
    where there is some.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    types |= {w.name: w.data_type for w in inferred.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    counts = {"int8": 0, "fp16": 0, "fp32": 0}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            kind = {8: "int8_weights", 4: "int4"}[next(a.i for a in node.attribute if a.name == "bits")]
            counts[kind] = counts.get(kind, 0) + 1
        elif node.op_type in MATRIX_OPERATORS:
            left, right = (_dequantized(name, producers) for name in node.input[:2])
            # Shapes and types end at MatMulNBits, which onnx does not know: it gives float32.
            kind = _FLOATS[types.get(node.input[0], onnx.TensorProto.FLOAT)]
            kind = ("int8" if left else "int8_weights") if right else kind
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def _dequantized(name: str, producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a tensor comes from DequantizeLinear, directly or rearranged: engines move the rearranging before it."""
    node = producers.get(name)
    while node is not None and node.op_type in ("Transpose", "Reshape"):
        node = producers.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"
