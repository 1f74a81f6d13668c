"""Half precision where it is safe, and constants in half their bytes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from small_graphs import initializers, make_model, node, operators, run

from mimo_calibration.graph.fp16 import HEADROOM, compact, find_fp32_nodes, to_half
from mimo_calibration.graph.observer import ObservingEngine
from mimo_calibration.statistics.histogram import HistogramObserver
from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import GraphSpec, Tensor


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def block(rng) -> onnx.ModelProto:
    """What a transformer is made of; one product is far too large for half precision, until it is scaled down again."""
    constants = {"scale": normal(rng, 32), "bias": normal(rng, 32), "w": normal(rng, 32, 32) / 4, "v": normal(rng, 32, 16) / 4,
            "up": np.float32(500), "down": np.float32(1 / 500)}  # fmt: skip
    nodes = [
        node("LayerNormalization", ["x", "scale", "bias"], "normed"), node("MatMul", ["normed", "w"], "mixed"),
        node("Softmax", ["mixed"], "shares", axis=-1), node("Add", ["mixed", "shares"], "sum"),
        node("Mul", ["sum", "up"], "high"), node("Mul", ["high", "up"], "large"), node("Mul", ["large", "down"], "low"),
        node("Mul", ["low", "down"], "back"), node("MatMul", ["back", "v"], "y"),
    ]  # fmt: skip
    return make_model(nodes, {"x": ("batch", 6, 32)}, ["y"], constants)


CONTRACT = GraphSpec("g", (Tensor("x", "float32", ("batch", 6, 32)),), (Tensor("y", "float32", ("batch", 6, 16)),))


def observed(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, HistogramObserver]:
    engine = ObservingEngine(model, CONTRACT, every=True, threads=1)
    engine.run(feed)
    return engine.histograms


def histograms_up_to(**largest: float) -> dict[str, HistogramObserver]:
    result = {}
    for name, value in largest.items():
        result[name] = HistogramObserver()
        result[name].add(np.array([value], np.float32))
    return result


def test_operators_that_add_up_and_large_tensors_stay_in_single_precision(rng):
    model, feed = block(rng), {"x": normal(rng, 2, 6, 32)}
    histograms = observed(model, feed)
    assert set(histograms) == {"x", *(n.output[0] for n in model.graph.node)}
    assert histograms["large"].maximum > 65504 > HEADROOM > histograms["high"].maximum
    fp32_nodes = find_fp32_nodes(model, histograms)
    # All that touches a large tensor, as its input or its output.
    assert set(fp32_nodes) == {"normed", "shares", "large", "low"}
    assert "LayerNormalization" in fp32_nodes["normed"] and "Softmax" in fp32_nodes["shares"]
    assert all(f"up to {histograms['large'].maximum:.0f} in large" in fp32_nodes[name] for name in ("large", "low"))


def test_a_tensor_at_the_edge_of_the_headroom():
    model = make_model([node("Neg", ["x"], "a"), node("Neg", ["a"], "y")], {"x": (2,)}, ["y"], {})
    assert find_fp32_nodes(model, histograms_up_to(a=HEADROOM, x=1, y=1)) == {}
    assert set(find_fp32_nodes(model, histograms_up_to(a=HEADROOM * 1.01, x=1, y=1))) == {"a", "y"}
    # A graph's own input may be what is too large.
    assert set(find_fp32_nodes(model, histograms_up_to(x=1e5))) == {"a"}


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (1e5, "constant c is up to 100000"),
        (-1e5, "constant c is up to 100000"),
        (1e-7, "constant c is at most 1.0e-07"),
        (0.0, None),
        (1.0, None),
        (HEADROOM, None),
    ],
)
def test_constants_out_of_range_keep_nodes_in_single_precision(value, word):
    model = make_model([node("Add", ["x", "c"], "y")], {"x": (2,)}, ["y"], {"c": np.float32([value, 0])})
    result = find_fp32_nodes(model, {})
    assert (result == {}) if word is None else (word in result["y"])


def test_a_half_precision_graph_is_close_with_the_same_inputs_and_outputs(rng):
    model, feed = block(rng), {"x": normal(rng, 3, 6, 32)}
    before = model.SerializeToString()
    half = to_half(model, observed(model, feed))
    assert model.SerializeToString() == before
    onnx.checker.check_model(half.model, full_check=True)
    for role in ("input", "output"):
        old, new = getattr(model.graph, role), getattr(half.model.graph, role)
        assert [(v.name, v.type.tensor_type.elem_type) for v in new] == [(v.name, TensorProto.FLOAT) for v in old]
    expected, result = run(model, feed)["y"], run(half.model, feed)["y"]
    assert result.dtype == np.float32 and np.isfinite(result).all()
    assert np.linalg.norm(result - expected) < 3e-3 * np.linalg.norm(expected)
    assert np.abs(result - expected).max() > 0  # it is half precision indeed


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}


def test_fp32_nodes_are_in_single_precision_and_the_rest_is_not(rng):
    model, feed = block(rng), {"x": normal(rng, 3, 6, 32)}
    half = to_half(model, observed(model, feed)).model
    kinds = {n.name: types(half)[n.output[0]] for n in half.graph.node if n.op_type != "Cast"}
    assert kinds["large"] == kinds["low"] == kinds["normed"] == TensorProto.FLOAT
    assert kinds["mixed"] == kinds["high"] == kinds["y"] == TensorProto.FLOAT16
    constants = initializers(half)
    assert constants["w"].dtype == constants["v"].dtype == np.float16
    assert constants["scale"].dtype == constants["bias"].dtype == np.float32
    assert len(half.SerializeToString()) < len(model.SerializeToString()) - 2 * 32 * (32 + 16) + 3000


def test_between_fp32_nodes_a_tensor_is_never_cast(rng):
    """A cast to half precision and back would lose what is too large for it."""
    model, feed = block(rng), {"x": normal(rng, 3, 6, 32)}
    half = to_half(model, observed(model, feed)).model
    producers = {name: n for n in half.graph.node for name in n.output}
    named = {n.name: n for n in half.graph.node}
    assert producers[named["low"].input[0]] is named["large"]
    read = {name for n in half.graph.node for name in n.input} | {"y"}
    assert all(name in read for n in half.graph.node for name in n.output)  # no cast is left over
    for optimised in (False, True):
        result = run(half, feed, optimised)["y"]
        assert np.linalg.norm(result - run(model, feed)["y"]) < 3e-3 * np.linalg.norm(result)


def test_large_inputs_and_outputs_stay_in_single_precision(rng):
    nodes = [
        node("Mul", ["x", "thousandth"], "small"), node("Relu", ["small"], "kept"), node("Mul", ["kept", "thousand"], "y"),
        node("Cast", ["kept"], "whole", to=TensorProto.INT32), node("Cast", ["whole"], "back", to=TensorProto.FLOAT),
        node("Exp", ["back"], "z"),
    ]  # fmt: skip
    model = make_model(nodes, {"x": ("batch", 8)}, ["y", "z"], {"thousandth": np.float32(1e-3), "thousand": np.float32(1e3)})
    spec = GraphSpec("g", (Tensor("x", "float32", ("batch", 8)),), tuple(
        Tensor(name, "float32", ("batch", 8)) for name in ("y", "z")
    ))  # fmt: skip
    feed = {"x": np.linspace(-7e4, 4e3, 16, dtype=np.float32).reshape(2, 8)}
    feed["x"][0, 3] = 1e3
    engine = ObservingEngine(model, spec, every=True, threads=1)
    expected = engine.run(feed)
    engine.histograms["y"].add(np.array([1e5], np.float32))  # as another image would give
    half = to_half(model, engine.histograms)
    onnx.checker.check_model(half.model, full_check=True)
    assert set(half.fp32_nodes) == {"small", "y", "z"}
    for optimised in (False, True):
        for name, value in run(half.model, feed, optimised).items():
            np.testing.assert_allclose(value, expected[name], rtol=2e-3)
    # Neither the input nor the large output passes through half precision.
    casts = [(n.input[0], n.output[0]) for n in operators(half.model, "Cast") if n.attribute[0].i == TensorProto.FLOAT16]
    assert not any("x" in pair or "y" in pair for pair in casts)


def test_a_converter_that_fails_names_the_graph(rng, monkeypatch):
    from onnxruntime.transformers import float16

    def broken(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(float16, "convert_float_to_float16", broken)
    with pytest.raises(EngineError, match="graph g cannot be cast to half precision: 'surprise'"):
        to_half(block(rng), {})


# -- constants that are added ----------------------------------------------------------------------------------------


def biased(rng, *more: onnx.NodeProto, outputs: tuple[str, ...] = ()) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Attention with a large bias table, and weights of the same size."""
    constants = {"w": normal(rng, 64, 64), "table": 3 * normal(rng, 4, 64, 64), "short": normal(rng, 64)}
    nodes = [
        node("MatMul", ["x", "w"], "scores"), node("Add", ["scores", "table"], "biased"), node("Add", ["biased", "short"], "y"),
    ]  # fmt: skip
    return make_model([*nodes, *more], {"x": ("batch", 4, 64, 64)}, ["y", *outputs], constants), constants


def test_large_constants_that_are_added_take_half_the_bytes(rng):
    model, original = biased(rng)
    before = model.SerializeToString()
    small = compact(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(small, full_check=True)
    constants = initializers(small)
    assert constants["table_half"].dtype == np.float16 and "table" not in constants
    # Weights of a product stay, and so does what is short.
    for name in ("w", "short"):
        np.testing.assert_array_equal(constants[name], original[name])
    assert len(before) - len(small.SerializeToString()) == pytest.approx(original["table"].nbytes / 2, abs=200)
    x = normal(rng, 2, 4, 64, 64)
    by_hand = run(model, {"x": x})["y"] - original["table"] + original["table"].astype(np.float16).astype(np.float32)
    result = run(small, {"x": x})["y"]
    np.testing.assert_allclose(result, by_hand, rtol=1e-5, atol=1e-4)
    rounding = np.abs(original["table"]).max() * 2.0**-11
    assert np.abs(result - run(model, {"x": x})["y"]).max() <= 1.1 * rounding + 1e-4


def test_a_constant_that_something_else_reads_is_not_changed(rng):
    model, _ = biased(rng, node("Mul", ["x", "table"], "z"), outputs=("z",))
    assert compact(model) == model


def test_a_constant_beyond_half_precision_is_not_changed(rng):
    for value in (1e5, -np.inf, np.float32(-3.4e38)):
        constants = {"mask": np.where(rng.random((64, 64)) < 0.5, value, 0).astype(np.float32)}
        model = make_model([node("Add", ["x", "mask"], "y")], {"x": (64, 64)}, ["y"], constants)
        assert compact(model) == model


def test_two_adds_share_one_cast(rng):
    table = normal(rng, 64, 64)
    nodes = [node("Add", ["x", "table"], "a"), node("Add", ["a", "table"], "y")]
    small = compact(make_model(nodes, {"x": (64, 64)}, ["y"], {"table": table}))
    assert len(operators(small, "Cast")) == 1
    x = normal(rng, 64, 64)
    rounded = table.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(run(small, {"x": x})["y"], x + rounded + rounded, rtol=1e-6, atol=1e-6)


def test_the_least_size_is_what_the_caller_says(rng):
    model, _ = biased(rng)
    assert {n for n in initializers(compact(model, least=1)) if n.endswith("_half")} == {"table_half", "short_half"}
    assert compact(model, least=10**6) == model
