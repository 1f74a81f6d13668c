"""Helpers of the tests in tests/runtime/compiler."""

from __future__ import annotations

from onnx import TensorProto, helper

from mimo_runtime.compiler import timing_cache
from mimo_runtime.hardware.nvidia import CudaDevice
from mimo_runtime.model.graph_spec import BATCH, GraphSpec, Tensor

ORIN = CudaDevice("Orin", (8, 7), jetpack=True)


TOY = GraphSpec("toy", (Tensor("x", "float32", (BATCH, 4)),), (Tensor("y", "float32", (BATCH, 4)),))


BATCHES = {BATCH: (1, 1, 4)}


def toy(element: int = TensorProto.FLOAT) -> bytes:
    """``y = x @ w``."""
    weights = helper.make_tensor("w", element, [4, 4], [0.5] * 16)
    x, y = (helper.make_tensor_value_info(name, element, [BATCH, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")], "toy", [x], [y], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


KEY = timing_cache.Key("10.3.0", "Fake A100", "8.0")
