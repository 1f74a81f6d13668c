"""The graph for ONNX Runtime on a CPU computes what the symmetric graph computes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_graphs import fake_activation, initializers, make_model, node, operators, run

from mimo_calibration.graph.ort_cpu import BLOCK, quantize_weights, to_ort_cpu_graph
from mimo_calibration.graph.qdq import Choice, quantize
from mimo_calibration.graph.quantizable import find_quantizable

K, N = 2 * BLOCK, 24


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def product(rng, rows: int = K) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    w = normal(rng, rows, N)
    return make_model([node("MatMul", ["x", "w"], "y")], {"x": ("batch", 5, rows)}, ["y"], {"w": w}), w, normal(rng, 2, 5, rows)


# -- unsigned activations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amax", [0.7, 3.0])
def test_unsigned_activations_round_exactly_as_signed_ones(amax, rng):
    """Without a product behind it: every bit must be the same, at both ends of the range."""
    x = np.concatenate((normal(rng, 2000), np.linspace(-2 * amax, 2 * amax, 2001, dtype=np.float32)))
    model, _, _ = product(rng)
    constants = quantize(model, {"y": Choice(amax)})
    for graph in (constants, to_ort_cpu_graph(constants)):
        pair = [n for n in graph.graph.node if n.name.startswith("x/q")]
        pair_graph = pair_as_graph(graph, pair)
        np.testing.assert_array_equal(run(pair_graph, {"x": x}, optimised=False)["out"], fake_activation(x, amax))
    assert initializers(constants)["x/q_zero"].dtype == np.int8
    zero = initializers(to_ort_cpu_graph(constants))["x/q_zero"]
    assert zero.dtype == np.uint8 and zero == 128


def pair_as_graph(model: onnx.ModelProto, pair: list[onnx.NodeProto]) -> onnx.ModelProto:
    """The nodes that quantize and dequantize ``x``, as a graph."""
    used = {name for n in pair for name in n.input}
    end = node("Identity", [pair[-1].output[0]], "out")
    first, last = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "out"))
    graph = helper.make_graph([*pair, end], "alone", [first], [last], [w for w in model.graph.initializer if w.name in used])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def layers(rng) -> onnx.ModelProto:
    """Convolution, Gemm and MatMul in a row."""
    constants = {"conv_w": normal(rng, 8, 3, 3, 3), "conv_b": normal(rng, 8), "shape": np.array([0, -1], np.int64),
            "gemm_w": normal(rng, 32, 8 * 36) / 8, "gemm_b": normal(rng, 32), "w": normal(rng, 32, 24) / 4}  # fmt: skip
    nodes = [
        node("Conv", ["x", "conv_w", "conv_b"], "conv", pads=[1, 1, 1, 1]), node("Relu", ["conv"], "a"),
        node("Reshape", ["a", "shape"], "flat"), node("Gemm", ["flat", "gemm_w", "gemm_b"], "gemm", transB=1),
        node("Gelu", ["gemm"], "b"), node("MatMul", ["b", "w"], "y"),
    ]  # fmt: skip
    return make_model(nodes, {"x": ("batch", 3, 6, 6)}, ["y"], constants)


@pytest.mark.parametrize("chosen", [("conv",), ("gemm",), ("y",), ("conv", "gemm", "y")], ids=",".join)
def test_the_cpu_graph_computes_what_the_symmetric_graph_computes(chosen, rng):
    symmetric = quantize(layers(rng), {name: Choice({"conv": 2.5, "gemm": 4.0, "y": 3.0}[name]) for name in chosen})
    before = symmetric.SerializeToString()
    cpu = to_ort_cpu_graph(symmetric)
    assert symmetric.SerializeToString() == before
    onnx.checker.check_model(cpu, full_check=True)
    assert not operators(cpu, "MatMulNBits")  # their activations are quantized, too
    x = normal(rng, 3, 3, 6, 6)
    expected = run(symmetric, {"x": x}, optimised=False)["y"]
    for optimised in (False, True):
        # A value on the edge between two steps may fall to the other side behind a convolution that adds in another order.
        np.testing.assert_allclose(run(cpu, {"x": x}, optimised)["y"], expected, rtol=1e-4, atol=0.02 * np.abs(expected).max())
        assert np.median(np.abs(run(cpu, {"x": x}, optimised)["y"] - expected)) < 1e-4


def test_an_activation_that_is_rearranged_after_rounding_stays_one(rng):
    constants = {
        "scale": normal(rng, K),
        "bias": normal(rng, K),
        "w": normal(rng, K, N),
        "shape": np.array([-1, 3, K], np.int64),
    }
    nodes = [node("LayerNormalization", ["x", "scale", "bias"], "normed"), node("Reshape", ["normed", "shape"], "cut"),
             node("MatMul", ["cut", "w"], "y")]  # fmt: skip
    symmetric = quantize(make_model(nodes, {"x": ("batch", 6, K)}, ["y"], constants), {"y": Choice(2.0)})
    cpu, x = to_ort_cpu_graph(symmetric), normal(rng, 2, 6, K)
    assert not operators(cpu, "MatMulNBits") and len(operators(cpu, "MatMul")) == 1
    np.testing.assert_allclose(run(cpu, {"x": x})["y"], run(symmetric, {"x": x}, optimised=False)["y"], rtol=1e-3, atol=1e-3)


# -- weights alone ---------------------------------------------------------------------------------------------------


def weight_only(model: onnx.ModelProto, bits: int = 8, **options: int) -> onnx.ModelProto:
    return quantize_weights(model, find_quantizable(model), bits, **options)


@pytest.mark.parametrize("rows", [K, BLOCK + 8])
@pytest.mark.parametrize(("bits", "steps"), [(8, 255), (4, 15)])
def test_weights_alone_are_within_a_step_of_their_block(bits, steps, rows, rng):
    w = normal(rng, rows, N)
    model = make_model([node("MatMul", ["x", "w"], "y")], {"x": ("batch", rows)}, ["y"], {"w": w})
    before = model.SerializeToString()
    quantized = weight_only(model, bits, accuracy_level=1)
    assert model.SerializeToString() == before
    (matmul,) = operators(quantized, "MatMulNBits")
    attributes = {a.name: helper.get_attribute_value(a) for a in matmul.attribute}
    assert (attributes["bits"], attributes["K"], attributes["N"], attributes["block_size"]) == (bits, rows, N, BLOCK)
    # The products with unit vectors are the stored weights.
    stored = run(quantized, {"x": np.eye(rows, dtype=np.float32)})["y"]
    for start in range(0, rows, BLOCK):
        block, error = w[start : start + BLOCK], np.abs(stored - w)[start : start + BLOCK]
        assert (error.max(0) <= 2.01 * np.abs(block).max(0) / steps).all()
    # No weight in full precision is left in the file.
    assert not operators(quantized, "DequantizeLinear") and not operators(quantized, "MatMul")
    padded = -(-rows // BLOCK) * BLOCK * N * 4
    assert sum(v.nbytes for v in initializers(quantized).values()) < padded * (bits / 32 + 4 / (4 * BLOCK)) + 64


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_the_activations_as_well_costs_little(bits, rng):
    model, _, x = product(rng)
    exact, fast = (run(weight_only(model, bits, accuracy_level=level), {"x": x})["y"] for level in (1, 4))
    assert 0 < np.linalg.norm(fast - exact) < 0.02 * np.linalg.norm(exact)


def test_two_products_share_one_stored_weight(rng):
    w = normal(rng, K, N)
    nodes = [node("MatMul", ["a", "w"], "ya"), node("MatMul", ["b", "w"], "yb")]
    model = make_model(nodes, {"a": ("batch", K), "b": ("batch", K)}, ["ya", "yb"], {"w": w})
    quantized = weight_only(model, accuracy_level=1)
    assert len(operators(quantized, "MatMulNBits")) == 2 and len(quantized.graph.initializer) == 2
    feed = {"a": normal(rng, 3, K), "b": normal(rng, 3, K)}
    result = run(quantized, feed)
    for name in "ab":
        np.testing.assert_allclose(result[f"y{name}"], feed[name] @ w, atol=0.3)


def test_only_the_chosen_weights_are_quantized(rng):
    nodes = [node("MatMul", ["x", "v"], "h"), node("MatMul", ["h", "w"], "y")]
    model = make_model(nodes, {"x": ("batch", K)}, ["y"], {"v": normal(rng, K, K), "w": normal(rng, K, N)})
    quantized = quantize_weights(model, find_quantizable(model)[1:], 8)
    assert (len(operators(quantized, "MatMulNBits")), len(operators(quantized, "MatMul"))) == (1, 1)
    np.testing.assert_array_equal(initializers(quantized)["v"], initializers(model)["v"])
    assert "w" not in initializers(quantized)
    assert quantize_weights(model, [], 8) == model


def test_weights_of_convolutions_are_stored_in_int8(rng):
    model, x = layers(rng), normal(rng, 3, 3, 6, 6)
    quantized = weight_only(model)
    assert initializers(quantized)["conv_w/q"].dtype == initializers(quantized)["gemm_w/q"].dtype == np.int8
    assert len(operators(quantized, "MatMulNBits")) == 1 and not operators(quantized, "QuantizeLinear")
    expected = run(model, {"x": x})["y"]
    assert np.linalg.norm(run(quantized, {"x": x})["y"] - expected) < 0.02 * np.linalg.norm(expected)


def test_a_graph_without_anything_quantized_stays_as_it_is(rng):
    model = layers(rng)
    assert to_ort_cpu_graph(model) == model


# -- what the report counts ------------------------------------------------------------------------------------------


def attention(rng) -> onnx.ModelProto:
    """Two weighted products, and one of two activations behind them whose type only shape inference could tell."""
    nodes = [
        node("MatMul", ["x", "q"], "queries"), node("MatMul", ["x", "k"], "keys"),
        node("Transpose", ["keys"], "turned", perm=[0, 2, 1]), node("MatMul", ["queries", "turned"], "y"),
    ]  # fmt: skip
    return make_model(nodes, {"x": ("batch", 5, K)}, ["y"], {"q": normal(rng, K, K), "k": normal(rng, K, K)})


@pytest.mark.parametrize(
    ("bits", "counts"),
    [
        (None, {"int8": 2, "fp16": 0, "fp32": 1}),
        (8, {"int8": 0, "fp16": 0, "fp32": 1, "int8_weights": 2}),
        (4, {"int8": 0, "fp16": 0, "fp32": 1, "int4": 2}),
    ],
    ids=["int8", "int8_weights", "int4_weights"],
)
def test_the_precision_audit_counts_the_products_of_the_cpu_graph(bits, counts, rng):
    from mimo_export.graphs.precision_audit import delivered

    model = attention(rng)
    quantized = weight_only(model, bits) if bits else quantize(model, {"queries": Choice(2.0), "keys": Choice(2.0)})
    assert delivered(to_ort_cpu_graph(quantized)) == counts


def test_what_is_quantized_before_it_is_rearranged_counts_as_int8(rng):
    from mimo_export.graphs.precision_audit import delivered

    constants = {"scale": normal(rng, 8), "bias": normal(rng, 8), "w": normal(rng, 8, 8, 3, 3)}
    nodes = [node("LayerNormalization", ["x", "scale", "bias"], "normed"),
             node("Transpose", ["normed"], "turned", perm=[0, 3, 1, 2]), node("Conv", ["turned", "w"], "y")]  # fmt: skip
    symmetric = quantize(make_model(nodes, {"x": ("batch", 6, 6, 8)}, ["y"], constants), {"y": Choice(2.0)})
    for cpu in (symmetric, to_ort_cpu_graph(symmetric)):
        assert delivered(cpu) == {"int8": 1, "fp16": 0, "fp32": 0}


def test_quantizing_weights_leaves_logging_alone():
    """A fresh process: the quantizer configures the root logger when it is imported, once."""
    program = (
        "import logging; from mimo_calibration.graph.ort_cpu import _unchanged_logging\n"
        "with _unchanged_logging(): import onnxruntime.quantization.matmul_nbits_quantizer\n"
        "root = logging.getLogger(); assert root.handlers == [] and root.level == logging.WARNING, (root.handlers, root.level)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
