"""Recipes, and the signal-to-noise ratio at the outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_graphs import fake_activation, fake_weight, initializers, make_model, node, operators, run

from mimo_calibration.graph.observer import ObservingEngine
from mimo_calibration.search.recipe import CEILING, GraphContext, QuantizationRecipe, score, sqnr
from mimo_calibration.search.recipe_search import best_recipe
from mimo_calibration.statistics import range_estimators
from mimo_runtime.model.graph_spec import GraphSpec, Tensor

CONTRACT = GraphSpec("g", (Tensor("x", "float32", ("batch", 32)),), (Tensor("y", "float32", ("batch", 16)),))


@pytest.fixture
def context(rng) -> GraphContext:
    """Two blocks behind each other, observed over ten calls with a few outliers."""
    quantized = {"w": rng.normal(size=(32, 32)), "v": rng.normal(size=(32, 16))}
    nodes = [node("MatMul", ["x", "w"], "p", "net.0.first/MatMul"), node("Relu", ["p"], "h"),
             node("MatMul", ["h", "v"], "y", "net.1.second/MatMul")]  # fmt: skip
    model = make_model(nodes, {"x": ("batch", 32)}, ["y"], {k: v.astype(np.float32) for k, v in quantized.items()})
    engine = ObservingEngine(model, CONTRACT, threads=1)
    for _ in range(10):
        engine.run({"x": rng.standard_t(4, size=(40, 32)).astype(np.float32)})
    return GraphContext(model, engine.histograms, engine.calls)


def runner(data: bytes):
    return lambda inputs: run(onnx.load_from_string(data), inputs)


def test_noise_of_a_hundredth_of_the_signal_is_forty_decibels():
    signal = {"y": np.tile(np.float32([1, -1]), 50), "exact": np.ones(3, np.float32)}
    noisy = {"y": signal["y"] * np.float32(1.01), "exact": signal["exact"]}
    ratios = sqnr([({}, signal)] * 3, lambda inputs: noisy)
    assert ratios == {"y": pytest.approx(40.0, abs=0.01), "exact": CEILING}
    assert score(ratios) == ratios["y"] and score({"a": CEILING}) == CEILING and score({"a": 20.0, "b": 40.0}) == 30.0


def test_an_output_of_zeros_that_stays_one_is_exact():
    zeros = {"y": np.zeros(4, np.float32)}
    assert sqnr([({}, zeros)], lambda inputs: zeros) == {"y": CEILING}
    assert sqnr([({}, zeros)], lambda inputs: {"y": np.ones(4, np.float32)})["y"] < 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_is_no_signal(bad):
    expected = {"y": np.ones(4, np.float32)}
    result = sqnr([({}, expected)], lambda inputs: {"y": np.array([1, 1, 1, bad], np.float32)})
    assert result["y"] == -CEILING


@pytest.mark.parametrize("method", range_estimators.METHODS)
def test_a_recipe_limits_activations_by_its_method(method, context):
    quantized = context.quantized(QuantizationRecipe(method))
    constants = initializers(quantized)
    for tensor in ("x", "h"):
        expected = range_estimators.amax(context.histograms[tensor], method)
        assert constants[f"{tensor}/q_scale"] == pytest.approx(expected / 127, rel=1e-6)
    x = context.calls[0][0]["x"]
    first = fake_activation(x, float(constants["x/q_scale"]) * 127) @ fake_weight(initializers(context.model)["w"], 1)
    rounded = fake_activation(np.maximum(first, 0), float(constants["h/q_scale"]) * 127)
    expected = rounded @ fake_weight(initializers(context.model)["v"], 1)
    result = run(quantized, {"x": x})["y"]
    assert np.linalg.norm(result - expected) < 2e-3 * np.linalg.norm(expected)


def test_skipped_blocks_stay_and_only_takes_one(context):
    assert [p.block for p in context.nodes()] == ["net.0", "net.1"]
    for quantized, kept, lost in (
        (context.quantized(QuantizationRecipe("minmax", skipped=("net.0",))), "w", "v"),
        (context.quantized(QuantizationRecipe("minmax"), only="net.0"), "v", "w"),
    ):
        assert kept in initializers(quantized) and lost not in initializers(quantized)
    assert context.quantized(QuantizationRecipe("minmax", skipped=("net.0", "net.1"))) == context.model


def test_weights_alone_need_no_statistics(context):
    quantized = GraphContext(context.model, {}, []).quantized(QuantizationRecipe("weights", 4))
    assert not operators(quantized, "QuantizeLinear") and len(operators(quantized, "DequantizeLinear")) == 2
    assert GraphContext(context.model, {}, []).quantized(QuantizationRecipe("minmax")) == context.model


def test_a_recipe_is_described_in_one_phrase():
    assert QuantizationRecipe("weights", 4).description() == "INT4 weights"
    assert QuantizationRecipe("mse", smooth=True, skipped=("a", "b")).description() == "INT8, mse, smoothed, 2 blocks FP32"
    assert QuantizationRecipe("minmax").description() == "INT8, minmax"


def test_the_graph_for_onnx_runtime_is_of_the_same_recipe(context):
    whole, first = QuantizationRecipe("mse"), context.ort_cpu(QuantizationRecipe("weights"), only="net.0")
    inputs = context.calls[0][0]
    expected = run(context.quantized(whole), inputs)["y"]
    np.testing.assert_allclose(run(context.ort_cpu(whole), inputs)["y"], expected, atol=0.05 * np.abs(expected).max())
    assert len(operators(first, "MatMulNBits")) == len(operators(first, "MatMul")) == 1


def test_the_best_recipe_is_the_one_with_the_best_score(context):
    recipe, scores = best_recipe(context, runner)
    assert set(scores) == {
        QuantizationRecipe(m).description() for m in range_estimators.METHODS
    }  # nothing to smooth without a norm
    assert scores[recipe.description()] == max(scores.values())
    worst = QuantizationRecipe(min(range_estimators.METHODS, key=lambda m: scores[QuantizationRecipe(m).description()]))
    inputs, expected = context.calls[0]
    errors = [np.abs(run(context.quantized(r), inputs)["y"] - expected["y"]).mean() for r in (recipe, worst)]
    assert errors[0] <= errors[1]


def test_smoothing_takes_part_where_there_is_a_norm(rng):
    scale = np.ones(32, np.float32)
    scale[4] = 80
    quantized = {"scale": scale, "bias": np.zeros(32, np.float32), "w": rng.normal(size=(32, 16)).astype(np.float32)}
    nodes = [node("LayerNormalization", ["x", "scale", "bias"], "n"), node("MatMul", ["n", "w"], "y")]
    model = make_model(nodes, {"x": ("batch", 32)}, ["y"], quantized)
    engine = ObservingEngine(model, CONTRACT, threads=1)
    for _ in range(4):
        engine.run({"x": rng.normal(size=(40, 32)).astype(np.float32)})
    context = GraphContext(model, engine.histograms, engine.calls)
    _, factors = context.smoothed()
    largest = (engine.histograms["n"].channels / factors["n"]).max()
    for method in range_estimators.METHODS:
        # The share of the largest value that the method clips at is the same as before smoothing.
        share = range_estimators.amax(engine.histograms["n"], method) / engine.histograms["n"].maximum
        scale = initializers(context.quantized(QuantizationRecipe(method, smooth=True)))["n/q_scale"]
        assert scale == pytest.approx(share * largest / 127, rel=1e-4)
    recipe, scores = best_recipe(context, runner)
    assert recipe.smooth and len(scores) == 2 * len(range_estimators.METHODS)
    assert scores["INT8, minmax, smoothed"] > scores["INT8, minmax"] + 1
