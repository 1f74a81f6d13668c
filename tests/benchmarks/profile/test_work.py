"""Products and bytes of a graph from the shapes of its tensors."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mimo_benchmarks.profile.peaks import _chain, _quantized_chain
from mimo_benchmarks.profile.work import work_of


def model(nodes, constants, inputs, output) -> bytes:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    last = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", ends, [last], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()


def test_a_product_of_matrices_and_a_convolution() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=2),
        helper.make_node("Reshape", ["y", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weight"], ["z"]),
    ]
    constants = {
        "kernel": np.zeros((6, 2, 3, 3), np.float32),
        "shape": np.array([6, 25], np.int64),
        "weight": np.zeros((25, 7), np.float32),
    }
    inputs = {"x": (1, 4, 5, 5)}
    work = work_of(model(nodes, constants, inputs, "z"), inputs)
    assert work.macs == {"fp32": 6 * 25 * 2 * 9 + 6 * 25 * 7}
    assert work.weight_bytes == 4 * (6 * 2 * 9 + 25 * 7) + 2 * 8
    assert work.boundary_bytes == 4 * (100 + 6 * 7) and work.least_bytes == work.weight_bytes + work.boundary_bytes
    # The view moves nothing; weights are no activations.
    assert work.activation_bytes == 4 * (100 + 150 + 150 + 42)


@pytest.mark.parametrize(("graph", "kind"), [(_chain, "fp32"), (_quantized_chain, "int8")])
def test_products_of_dequantized_factors_are_products_of_integers(graph, kind: str) -> None:
    work = work_of(graph(16, 3), {"x": (16, 16)})
    assert work.macs == {kind: 3 * 16**3}
