"""Where a graph can be quantized."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_graphs import initializers, make_model, node, operators, run

from mimo_calibration.graph.quantizable import (
    QuantizableNode,
    block_of,
    blocks,
    drop_unused,
    find_quantizable,
    fold_transposed_weights,
)


def test_products_with_constant_weights_can_be_quantized_and_nothing_else(rng):
    w = rng.normal(size=(32, 8)).astype(np.float32)
    nodes = [
        node("MatMul", ["x", "w"], "matmul"),
        node("Gemm", ["x", "w"], "gemm"),
        node("Gemm", ["x", "wt"], "gemm_t", transB=1),
        node("MatMul", ["x", "narrow"], "narrow_columns"),  # seven columns
        node("MatMul", ["matmul", "short"], "short_rows"),  # eight rows
        node("MatMul", ["x", "stack"], "stacked"),  # three axes
        node("MatMul", ["left", "matmul"], "constant_left"),
        node("Transpose", ["matmul"], "turned", perm=[1, 0]),
        node("MatMul", ["matmul", "turned"], "scores"),  # two activations
        node("Add", ["matmul", "bias"], "sum"),
    ]
    constants = {"w": w, "wt": w.T.copy(), "narrow": w[:, :7].copy(), "short": w[:8].copy(), "stack": w[None].copy(),
            "left": rng.normal(size=(16, 4)).astype(np.float32), "bias": w[0].copy()}  # fmt: skip
    model = make_model(
        nodes, {"x": (4, 32)}, [n.output[0] for n in nodes if n.output[0] not in ("matmul", "turned")], constants
    )
    assert find_quantizable(model) == [
        QuantizableNode("matmul", "MatMul", "x", "w", 1, "matmul"),
        QuantizableNode("gemm", "Gemm", "x", "w", 1, "gemm"),
        QuantizableNode("gemm_t", "Gemm", "x", "wt", 0, "gemm_t"),
    ]


def test_convolutions_of_any_size_can_be_quantized_per_output_channel(rng):
    nodes = [
        node("Conv", ["x", "full"], "full_out"),
        node("Conv", ["x", "depthwise"], "depthwise_out", group=3),
        node("ConvTranspose", ["x", "up"], "up_out"),
    ]
    shapes = {"full": (5, 3, 1, 1), "depthwise": (3, 1, 3, 3), "up": (3, 7, 2, 2)}
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model = make_model(nodes, {"x": (1, 3, 8, 8)}, [n.output[0] for n in nodes], constants)
    channels = {p.node: shapes[p.weight][p.axis] for p in find_quantizable(model)}
    assert channels == {"full_out": 5, "depthwise_out": 3, "up_out": 7}


def test_weights_that_are_no_float32_cannot_be_quantized():
    nodes = [node("Cast", ["x"], "half", to=onnx.TensorProto.FLOAT16), node("MatMul", ["half", "w"], "product"),
             node("Cast", ["product"], "y", to=onnx.TensorProto.FLOAT)]  # fmt: skip
    model = make_model(nodes, {"x": (4, 32)}, ["y"], {"w": np.ones((32, 8), np.float16)})
    assert find_quantizable(model) == []


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("backbone.stages.2.1.mlp.0/MatMul", "backbone.stages.2.1"),
        ("backbone.stages.2.1/MatMul_3", "backbone.stages.2.1"),
        ("text_decoder.layers.11.self.query/MatMul", "text_decoder.layers.11"),
        ("fusion.locator.score.0/Gemm", "fusion.locator.score.0"),
        ("pooled/MatMul", "pooled"),
        ("text_decoder.head/MatMul", "text_decoder"),
        ("MatMul_7", "MatMul_7"),
    ],
)
def test_the_block_is_the_deepest_numbered_module(name: str, block: str):
    assert block_of(name) == block


def test_blocks_keep_the_order_of_the_graph():
    quantizable = [QuantizableNode(n, "MatMul", "x", "w", 1, b) for n, b in (("a", "late"), ("b", "early"), ("c", "late"))]
    assert {name: [p.node for p in members] for name, members in blocks(quantizable).items()} == {
        "late": ["a", "c"],
        "early": ["b"],
    }
    assert list(blocks(quantizable)) == ["late", "early"]


@pytest.mark.parametrize("permutation", [None, [1, 0]])
def test_a_tied_output_layer_becomes_a_weight_and_its_table_stays(rng, permutation):
    attributes = {} if permutation is None else {"perm": permutation}
    nodes = [
        node("Cast", ["x"], "ids", to=onnx.TensorProto.INT64),
        node("Gather", ["table", "ids"], "rows"),
        node("Transpose", ["table"], "table_t", **attributes),
        node("MatMul", ["rows", "table_t"], "logits"),
    ]
    table = rng.normal(size=(40, 32)).astype(np.float32)
    model = make_model(nodes, {"x": (4,)}, ["logits"], {"table": table})
    before = model.SerializeToString()
    folded = fold_transposed_weights(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(folded, full_check=True)
    assert not operators(folded, "Transpose")
    assert [(p.node, p.weight, p.axis) for p in find_quantizable(folded)] == [("logits", "table_t", 1)]
    np.testing.assert_array_equal(initializers(folded)["table"], table)
    feed = {"x": np.array([0, 3, 3, 39], np.float32)}
    np.testing.assert_allclose(run(folded, feed)["logits"], table[[0, 3, 3, 39]] @ table.T, rtol=1e-4, atol=1e-4)


def test_a_constant_that_was_only_transposed_is_dropped(rng):
    w = rng.normal(size=(8, 32)).astype(np.float32)
    nodes = [node("Transpose", ["w"], "wt"), node("MatMul", ["x", "wt"], "y")]
    folded = fold_transposed_weights(make_model(nodes, {"x": (4, 32)}, ["y"], {"w": w}))
    assert list(initializers(folded)) == ["wt"]


def test_drop_unused_keeps_what_is_read_or_given_out():
    model = make_model([node("Add", ["x", "read"], "y")], {"x": (2,)}, ["y"],
                       {"read": np.ones(2, np.float32), "unread": np.ones(2, np.float32)})  # fmt: skip
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "given"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("given", onnx.TensorProto.FLOAT, (2,)))
    drop_unused(model)
    assert sorted(initializers(model)) == ["given", "read"]
