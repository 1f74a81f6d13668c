"""What is delivered is counted in the file."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mimo_export.graphs.precision_audit import delivered


def test_each_matrix_operator_counts_once_by_its_real_precision():
    weight = numpy_helper.from_array(np.zeros((4, 4), np.int8), "w8")
    scale = numpy_helper.from_array(np.float32(1), "scale")
    zero = numpy_helper.from_array(np.int8(0), "zero")
    real = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w32")
    half = numpy_helper.from_array(np.zeros((4, 4), np.float16), "w16")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w8", "scale", "zero"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["a"]),  # int8
        helper.make_node("MatMul", ["a", "wd"], ["b"]),  # weights only: the product is fp32
        helper.make_node("MatMul", ["b", "w32"], ["c"]),
        helper.make_node("Cast", ["c"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "w16"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["batch", 4])],
        [weight, scale, zero, real, half],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model, full_check=True)
    assert delivered(model) == {"int8": 1, "fp16": 1, "fp32": 1, "int8_weights": 1}
