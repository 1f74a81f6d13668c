"""The symmetric Q/DQ graph, against the same arithmetic in numpy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_graphs import (
    conv2d,
    fake_activation,
    fake_weight,
    initializers,
    layer_norm,
    make_model,
    node,
    operators,
    run,
)

from mimo_calibration.graph.qdq import Choice, quantize, quantize_weight
from mimo_calibration.graph.quantizable import channel_axis

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


# -- weights ---------------------------------------------------------------------------------------------------------


@st.composite
def weights(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=4, max_side=6))
    finite = st.floats(-1e4, 1e4, width=32).filter(lambda v: v == 0 or abs(v) > 1e-20)
    return draw(hnp.arrays(np.float32, shape, elements=finite)), draw(st.integers(0, len(shape) - 1))


@settings(max_examples=60, deadline=None)
@given(weights(), st.sampled_from([(8, 127), (4, 7)]))
def test_every_weight_is_within_half_a_step_of_its_channel(given_weight, kind):
    (weight, axis), (bits, largest) = given_weight, kind
    values, scale = quantize_weight(weight, axis, bits)
    assert values.dtype == np.int8 and values.shape == weight.shape
    assert scale.dtype == np.float32 and scale.shape == (weight.shape[axis],)
    assert np.abs(values.astype(int)).max(initial=0) <= largest  # -128 and -8 are never used
    for k in range(weight.shape[axis]):
        part, stored = np.take(weight, k, axis).astype(np.float64), np.take(values, k, axis)
        assert np.abs(stored * np.float64(scale[k]) - part).max(initial=0) <= scale[k] / 2 * (1 + 1e-4)
        if np.abs(part).max(initial=0) > 0:
            # The largest weight of a channel uses the whole range.
            assert np.abs(stored.astype(int)).max() == largest
        else:
            assert scale[k] > 0 and not stored.any()


@settings(max_examples=25, deadline=None)
@given(weights(), st.sampled_from([8, 4]))
def test_quantized_weights_are_symmetric(given_weight, bits):
    weight, axis = given_weight
    values, scale = quantize_weight(weight, axis, bits)
    negative, same = quantize_weight(-weight, axis, bits)
    np.testing.assert_array_equal(negative, -values)
    np.testing.assert_array_equal(same, scale)


# -- graphs ----------------------------------------------------------------------------------------------------------


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("amax", [3.0, 1.1, None], ids=["all", "clipped", "weights_only"])
@pytest.mark.parametrize("bits", [8, 4])
def test_matmul_computes_what_numpy_computes(rng, amax, bits):
    x, w = normal(rng, 2, 5, 32), normal(rng, 32, 24)
    w[:, 3] = 0
    model = make_model([node("MatMul", ["x", "w"], "y")], {"x": ("batch", 5, 32)}, ["y"], {"w": w})
    quantized = checked(quantize(model, {"y": Choice(amax, bits)}))
    activation = x if amax is None else fake_activation(x, amax)
    expected = activation.astype(np.float64) @ fake_weight(w, 1, 7 if bits == 4 else 127)
    # Left to itself, ONNX Runtime rounds the activations beside weights that are quantized alone, too.
    for optimised in (False, True) if amax else (False,):
        np.testing.assert_allclose(run(quantized, {"x": x}, optimised)["y"], expected, **CLOSE)
    if bits == 4:
        assert np.abs(initializers(quantized)["w/q"]).max() == 7


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_computes_what_numpy_computes_and_its_bias_stays(rng, transposed):
    x, w, bias = normal(rng, 6, 32), normal(rng, 32, 24), normal(rng, 24)
    stored = w.T.copy() if transposed else w
    model = make_model([node("Gemm", ["x", "w", "bias"], "y", transB=transposed)], {"x": ("batch", 32)}, ["y"],
                       {"w": stored, "bias": bias})  # fmt: skip
    quantized = checked(quantize(model, {"y": Choice(2.5)}))
    expected = fake_activation(x, 2.5).astype(np.float64) @ fake_weight(w, 1) + bias
    np.testing.assert_allclose(run(quantized, {"x": x})["y"], expected, **CLOSE)
    assert operators(quantized, "Gemm")[0].input[2] == "bias"
    np.testing.assert_array_equal(initializers(quantized)["bias"], bias)


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups"), [(3, 5, 1), (6, 6, 6), (4, 8, 2)], ids=["full", "depthwise", "grouped"]
)
def test_convolution_computes_what_numpy_computes_and_its_bias_stays(rng, inputs, outputs, groups):
    x, w, bias = normal(rng, 2, inputs, 7, 9), normal(rng, outputs, inputs // groups, 3, 3), normal(rng, outputs)
    model = make_model([node("Conv", ["x", "w", "bias"], "y", group=groups, pads=[1, 1, 1, 1])],
                       {"x": ("batch", inputs, 7, 9)}, ["y"], {"w": w, "bias": bias})  # fmt: skip
    quantized = checked(quantize(model, {"y": Choice(2.0)}))
    expected = conv2d(fake_activation(x, 2.0), fake_weight(w, 0).astype(np.float64), bias, groups)
    for optimised in (False, True):
        np.testing.assert_allclose(run(quantized, {"x": x}, optimised)["y"], expected, rtol=1e-3, atol=1e-3)
    assert operators(quantized, "Conv")[0].input[2] == "bias"
    np.testing.assert_array_equal(initializers(quantized)["bias"], bias)


def test_transposed_convolution_computes_what_numpy_computes(rng):
    x, w = normal(rng, 2, 6, 4, 5), normal(rng, 6, 3, 2, 2)
    model = make_model([node("ConvTranspose", ["x", "w"], "y", strides=[2, 2])], {"x": ("batch", 6, 4, 5)}, ["y"], {"w": w})
    quantized = checked(quantize(model, {"y": Choice(2.0)}))
    # With kernel 2 and stride 2 every output pixel has one input pixel.
    parts = np.einsum("bchw,coij->bohiwj", fake_activation(x, 2.0).astype(np.float64), fake_weight(w, 1))
    np.testing.assert_allclose(run(quantized, {"x": x})["y"], parts.reshape(2, 3, 8, 10), **CLOSE)


def two_readers(rng) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    a, b = normal(rng, 32, 16), normal(rng, 32, 24)
    nodes = [node("Relu", ["x"], "h"), node("MatMul", ["h", "a"], "ya"), node("MatMul", ["h", "b"], "yb")]
    return make_model(nodes, {"x": ("batch", 32)}, ["ya", "yb"], {"a": a, "b": b}), a, b


def test_readers_of_one_activation_share_one_pair(rng):
    model, a, b = two_readers(rng)
    quantized = checked(quantize(model, {"ya": Choice(2.0), "yb": Choice(2.0)}))
    assert len(operators(quantized, "QuantizeLinear")) == 1
    first, second = operators(quantized, "MatMul")
    assert first.input[0] == second.input[0] and first.input[1] != second.input[1]
    x = normal(rng, 4, 32)
    activation = fake_activation(np.maximum(x, 0), 2.0).astype(np.float64)
    for name, w in (("ya", a), ("yb", b)):
        np.testing.assert_allclose(run(quantized, {"x": x})[name], activation @ fake_weight(w, 1), **CLOSE)


def test_two_ranges_of_one_activation_are_two_pairs(rng):
    model, a, b = two_readers(rng)
    quantized = checked(quantize(model, {"ya": Choice(2.0), "yb": Choice(0.5)}))
    assert len(operators(quantized, "QuantizeLinear")) == 2
    x = normal(rng, 4, 32)
    for name, w, amax in (("ya", a, 2.0), ("yb", b, 0.5)):
        expected = fake_activation(np.maximum(x, 0), amax).astype(np.float64) @ fake_weight(w, 1)
        np.testing.assert_allclose(run(quantized, {"x": x})[name], expected, **CLOSE)


def test_one_weight_with_two_bit_widths_is_stored_twice(rng):
    w = normal(rng, 32, 32)
    nodes = [node("MatMul", ["x", "w"], "y8"), node("MatMul", ["x", "w"], "y4"), node("Gemm", ["x", "w"], "yt", transB=1)]
    model = make_model(nodes, {"x": ("batch", 32)}, ["y8", "y4", "yt"], {"w": w})
    quantized = checked(quantize(model, {"y8": Choice(None, 8), "y4": Choice(None, 4), "yt": Choice(None, 8)}))
    x = normal(rng, 4, 32)
    result, exact = run(quantized, {"x": x}, optimised=False), x.astype(np.float64)
    np.testing.assert_allclose(result["y8"], exact @ fake_weight(w, 1), **CLOSE)
    np.testing.assert_allclose(result["y4"], exact @ fake_weight(w, 1, 7), **CLOSE)
    np.testing.assert_allclose(result["yt"], exact @ fake_weight(w, 0).T, **CLOSE)


def test_what_was_not_chosen_stays_as_it_was(rng):
    model, a, _ = two_readers(rng)
    before = model.SerializeToString()
    quantized = checked(quantize(model, {"yb": Choice(2.0)}))
    assert model.SerializeToString() == before
    old, new = ({n.name: n for n in m.graph.node} for m in (model, quantized))
    assert set(old) <= set(new)
    assert all(new[name] == old[name] for name in ("h", "ya"))
    assert list(new["yb"].output) == ["yb"]
    assert (list(quantized.graph.input), list(quantized.graph.output)) == (list(model.graph.input), list(model.graph.output))
    np.testing.assert_array_equal(initializers(quantized)["a"], a)
    assert "b" not in initializers(quantized)  # its float32 form is gone: the file shrinks
    x = normal(rng, 4, 32)
    np.testing.assert_array_equal(run(quantized, {"x": x})["ya"], run(model, {"x": x})["ya"])


def test_nothing_chosen_changes_nothing(rng):
    model, _, _ = two_readers(rng)
    assert quantize(model, {}) == model


@pytest.mark.parametrize("name", ["nowhere", "h"])
def test_a_node_that_cannot_be_quantized_is_refused(rng, name):
    model, _, _ = two_readers(rng)
    with pytest.raises(ValueError, match=f"{name} cannot be quantized"):
        quantize(model, {"ya": Choice(1.0), name: Choice(1.0)})


def test_tied_weights_are_quantized_for_the_product_and_exact_for_the_table(rng):
    table = normal(rng, 40, 32)
    nodes = [
        node("Cast", ["x"], "ids", to=onnx.TensorProto.INT64),
        node("Gather", ["table", "ids"], "rows"),
        node("Transpose", ["table"], "table_t", perm=[1, 0]),
        node("MatMul", ["rows", "table_t"], "logits"),
    ]
    model = make_model(nodes, {"x": (4,)}, ["logits", "rows"], {"table": table})
    quantized = checked(quantize(model, {"logits": Choice(3.0)}))
    result = run(quantized, {"x": np.array([1, 2, 2, 39], np.float32)})
    np.testing.assert_array_equal(result["rows"], table[[1, 2, 2, 39]])
    # One scale per word: the rows of the table.
    expected = fake_activation(table[[1, 2, 2, 39]], 3.0).astype(np.float64) @ fake_weight(table, 0).T
    np.testing.assert_allclose(result["logits"], expected, **CLOSE)


def rearranged(rng, extra: str | None) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """LayerNorm -> Reshape -> Transpose -> MatMul; something else reads the tensor ``extra``, too."""
    quantized = {"scale": normal(rng, 32), "bias": normal(rng, 32), "w": normal(rng, 32, 24),
            "shape": np.array([0, 2, 3, 32], np.int64)}  # fmt: skip
    nodes = [
        node("LayerNormalization", ["x", "scale", "bias"], "normed"),
        node("Reshape", ["normed", "shape"], "cut"),
        node("Transpose", ["cut"], "turned", perm=[0, 2, 1, 3]),
        node("MatMul", ["turned", "w"], "y"),
        *([node("Neg", [extra], "z")] if extra else []),
    ]
    return make_model(nodes, {"x": ("batch", 6, 32)}, ["y", "z"] if extra else ["y"], quantized), quantized


@pytest.mark.parametrize("extra", [None, "normed", "cut", "turned"])
def test_an_activation_that_is_rearranged_first_computes_the_same(rng, extra):
    model, quantized = rearranged(rng, extra)
    x = normal(rng, 2, 6, 32)
    normed = layer_norm(x, quantized["scale"], quantized["bias"]).astype(np.float32)
    turned = normed.reshape(2, 2, 3, 32).transpose(0, 2, 1, 3)
    graph = checked(quantize(model, {"y": Choice(2.0)}))
    for optimised in (False, True):
        result = run(graph, {"x": x}, optimised)
        expected = fake_activation(turned, 2.0).astype(np.float64) @ fake_weight(quantized["w"], 1)
        np.testing.assert_allclose(result["y"], expected, rtol=1e-3, atol=1e-3)
        if extra:
            # Whoever else reads it gets it unrounded.
            exact = {"normed": normed, "cut": normed.reshape(2, 2, 3, 32), "turned": turned}[extra]
            np.testing.assert_allclose(result["z"], -exact, rtol=1e-4, atol=1e-5)
    assert len(operators(graph, "QuantizeLinear")) == 1


def test_random_chains_compute_what_numpy_computes(rng):
    """Three products one after the other, any subset of them quantized."""
    sizes = [32, 24, 40, 16]
    matrices = {f"w{k}": normal(rng, sizes[k], sizes[k + 1]) / 4 for k in range(3)}
    nodes = []
    for k in range(3):
        nodes += [node("MatMul", [f"h{k}" if k else "x", f"w{k}"], f"p{k}"), node("Relu", [f"p{k}"], f"h{k + 1}")]
    model = make_model(nodes, {"x": ("batch", 32)}, ["h3"], matrices)
    x = normal(rng, 5, 32)
    for subset in range(8):
        chosen = [k for k in range(3) if subset >> k & 1]
        h = x
        for k in range(3):
            w = matrices[f"w{k}"]
            if k in chosen:
                h, w = fake_activation(h, 1.5), fake_weight(w, 1)
            h = np.maximum(h.astype(np.float32) @ w, 0).astype(np.float32)
        result = run(quantize(model, {f"p{k}": Choice(1.5) for k in chosen}), {"x": x})["h3"]
        # A value on the edge between two steps may fall to either side: one step of one factor.
        np.testing.assert_allclose(result, h, rtol=1e-3, atol=0.02)
        assert np.median(np.abs(result - h)) < 1e-5


def test_the_axis_of_the_scales_is_that_of_the_output_channels(rng):
    shapes = {"Conv": (5, 3, 1, 1), "ConvTranspose": (3, 5, 1, 1), "MatMul": (16, 8)}
    axes = {op: channel_axis(node(op, ["x", "w"], "y"), len(shape)) for op, shape in shapes.items()}
    assert axes == {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}
