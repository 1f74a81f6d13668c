"""Attention in INT8: which products it quantizes, and how near the result is."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import make_model, node, operators, run

from mimo_calibration.graph.attention import attention_products, operand_ranges, with_int8_attention


@pytest.fixture
def attention(rng):
    """Query, key and value by weights, then attention."""
    weights = {name: rng.normal(size=(16, 16)).astype(np.float32) for name in ("wq", "wk", "wv")}
    nodes = [
        node("MatMul", ["x", "wq"], "q"), node("MatMul", ["x", "wk"], "k"), node("MatMul", ["x", "wv"], "v"),
        node("Transpose", ["k"], "kt", perm=[1, 0]), node("MatMul", ["q", "kt"], "scores"),
        node("Softmax", ["scores"], "p", axis=-1), node("MatMul", ["p", "v"], "y"),
    ]  # fmt: skip
    return make_model(nodes, {"x": ("batch", 16)}, ["y"], weights)


@pytest.fixture
def calls(rng):
    return [{"x": (0.3 * rng.normal(size=(12, 16))).astype(np.float32)} for _ in range(3)]


def test_products_of_two_activations_are_found(attention):
    assert [list(product.input) for product in attention_products(attention)] == [["q", "kt"], ["p", "v"]]


def test_ranges_hold_what_was_seen_and_probabilities_reach_one(attention, calls):
    ranges = operand_ranges(attention, calls)
    assert set(ranges) == {"q", "kt", "p", "v"} and ranges["p"] == 1
    weights = {w.name: np.frombuffer(w.raw_data, np.float32).reshape(16, 16) for w in attention.graph.initializer}
    largest = max(np.abs(inputs["x"] @ weights["wq"]).max() for inputs in calls)
    assert largest < ranges["q"] < 1.2 * largest


def test_the_result_is_near_and_each_operand_is_quantized_once(attention, calls):
    reduced = with_int8_attention(attention, operand_ranges(attention, calls))
    assert len(operators(reduced, "QuantizeLinear")) == len(operators(reduced, "DequantizeLinear")) == 4
    for inputs in calls:
        expected, outputs = (run(model, inputs)["y"] for model in (attention, reduced))
        assert 0 < np.linalg.norm(outputs - expected) < 0.1 * np.linalg.norm(expected)
    assert [list(product.input) for product in attention_products(reduced)] == [
        ["q/attention_d", "kt/attention_d"], ["p/attention_d", "v/attention_d"],
    ]  # fmt: skip
    assert not operators(attention, "QuantizeLinear")


def test_a_product_without_a_range_stays(attention):
    assert not operators(with_int8_attention(attention, {"q": 1.0}), "QuantizeLinear")
