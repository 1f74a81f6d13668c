"""A misfit is found, and its message names graph, tensor and axis."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mimo_export.graphs.validate import check_operators, check_spec
from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import GraphSpec, Tensor

CONTRACT = GraphSpec(
    "text_decoder",
    (Tensor("token", "int32", ("batch", 1)), Tensor("past_keys", "float32", (2, "batch", "past", 8))),
    (Tensor("logits", "float32", ("batch", 16)), Tensor("keys", "float32", (2, "batch", "past_plus_one", 8))),
)


def model(op: str = "Identity", domain: str = "", opset: int = 20, **shapes: tuple) -> onnx.ModelProto:
    """A graph with the specification's tensors; ``shapes`` replaces some, as (dtype, shape)."""
    kinds = {"int32": TensorProto.INT32, "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}

    def value(tensor: Tensor) -> onnx.ValueInfoProto:
        dtype, shape = shapes.get(tensor.name, (tensor.dtype, tensor.shape))
        return helper.make_tensor_value_info(tensor.name, kinds[dtype], shape)

    node = helper.make_node(op, ["past_keys"], ["keys"], name="layers.0/Op", domain=domain)
    graph = helper.make_graph([node], "g", [*map(value, CONTRACT.inputs)], [*map(value, CONTRACT.outputs)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def test_what_fits_passes():
    check_spec(model(), CONTRACT)
    check_operators(model(), CONTRACT, 20)


@pytest.mark.parametrize("spelling", ["past + 1", "1 + past"])
def test_the_length_of_the_new_cache_gets_the_name_of_the_spec(spelling: str):
    found = model(keys=("float32", (2, "batch", spelling, 8)))
    check_spec(found, CONTRACT)
    assert found.graph.output[1].type.tensor_type.shape.dim[2].dim_param == "past_plus_one"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"token": ("int32", (2, 1))}, "text_decoder .* axis 0 of input token was frozen to 2, it must stay dynamic"),
        ({"past_keys": ("float32", (2, "batch", 3, 8))}, "axis 2 of input past_keys was frozen to 3"),
        ({"keys": ("float32", (2, "batch", 4, 8))}, "axis 2 of output keys was frozen to 4"),
        ({"logits": ("float32", ("batch", "s7"))}, r"axis 1 of output logits became dynamic \(s7\), it must be 16"),
        ({"logits": ("float32", ("batch", 17))}, "axis 1 of output logits is 17 instead of 16"),
        ({"keys": ("float32", (2, "batch", "past", 8))}, "axis 2 of output keys is past instead of past_plus_one"),
        ({"past_keys": ("float32", (2, "past", "batch", 8))}, "axis 1 of input past_keys is past instead of batch"),
        ({"logits": ("float16", ("batch", 16))}, "output logits is float16 instead of float32"),
        ({"logits": ("float32", ("batch", 1, 16))}, "output logits has 3 axes instead of 2"),
    ],
)
def test_a_misfit_is_named(shapes: dict, message: str):
    with pytest.raises(EngineError, match=message):
        check_spec(model(**shapes), CONTRACT)


def test_names_and_order_matter():
    swapped = GraphSpec(CONTRACT.name, CONTRACT.inputs[::-1], CONTRACT.outputs)
    with pytest.raises(EngineError, match="inputs are token, past_keys instead of past_keys, token"):
        check_spec(model(), swapped)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"op": "NonZero"}, "node layers.0/Op is a ai.onnx NonZero"),
        ({"domain": "com.microsoft"}, "node layers.0/Op is a com.microsoft Identity"),
        ({"opset": 18}, "instead of ai.onnx 20"),
    ],
)
def test_operators_that_an_engine_may_lack_are_refused(changes: dict, message: str):
    with pytest.raises(EngineError, match=message):
        check_operators(model(**changes), CONTRACT, 20)


def test_double_precision_is_refused():
    found = model()
    found.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(2), "scale"))
    with pytest.raises(EngineError, match="constant scale is float64"):
        check_operators(found, CONTRACT, 20)
