"""Recipes, and how much signal they leave over noise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_graphs import fake_activation, fake_weight, initializers, make_model, node, operators, run

from mimo_calibration.graph.observer import ObservingEngine
from mimo_calibration.search import recipe as recipe_module
from mimo_calibration.search.recipe import CEILING, GraphContext, QuantizationRecipe, best_recipe, score, sqnr
from mimo_calibration.statistics import range_estimators
from mimo_runtime.model.graph_spec import GraphSpec, Tensor

CONTRACT = GraphSpec("g", (Tensor("x", "float32", ("batch", 32)),), (Tensor("y", "float32", ("batch", 16)),))


@pytest.fixture
def material(rng) -> GraphContext:
    """Two blocks behind each other, watched over ten calls with a few outliers."""
    made = {"w": rng.normal(size=(32, 32)), "v": rng.normal(size=(32, 16))}
    nodes = [node("MatMul", ["x", "w"], "p", "net.0.first/MatMul"), node("Relu", ["p"], "h"),
             node("MatMul", ["h", "v"], "y", "net.1.second/MatMul")]  # fmt: skip
    model = make_model(nodes, {"x": ("batch", 32)}, ["y"], {k: v.astype(np.float32) for k, v in made.items()})
    engine = ObservingEngine(model, CONTRACT, threads=1)
    for _ in range(10):
        engine.run({"x": rng.standard_t(4, size=(40, 32)).astype(np.float32)})
    return GraphContext(model, engine.seen, engine.calls)


def runner(data: bytes, engine: str):
    return lambda inputs: run(onnx.load_from_string(data), inputs)


def test_sqnr_is_ten_times_the_logarithm_of_signal_over_noise(rng):
    signal = rng.normal(size=(3, 100)).astype(np.float32)
    noise = 0.01 * rng.normal(size=(3, 100)).astype(np.float32)
    calls = [({"k": np.array(k)}, {"y": signal[k], "exact": signal[k]}) for k in range(3)]
    found = sqnr(calls, lambda given: {"y": signal[given["k"]] + noise[given["k"]], "exact": signal[given["k"]]})
    assert found["y"] == pytest.approx(10 * np.log10((signal**2).sum() / (noise**2).sum()), abs=0.01)
    assert found["exact"] == CEILING
    assert score(found) == found["y"] and score({"a": CEILING}) == CEILING and score({"a": 20.0, "b": 40.0}) == 30.0


def test_an_output_of_zeros_that_stays_one_is_exact():
    zeros = {"y": np.zeros(4, np.float32)}
    assert sqnr([({}, zeros)], lambda given: zeros) == {"y": CEILING}
    assert sqnr([({}, zeros)], lambda given: {"y": np.ones(4, np.float32)})["y"] < 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_is_no_signal(bad):
    wanted = {"y": np.ones(4, np.float32)}
    found = sqnr([({}, wanted)], lambda given: {"y": np.array([1, 1, 1, bad], np.float32)})
    assert found["y"] == -CEILING


@pytest.mark.parametrize("method", range_estimators.METHODS)
def test_a_recipe_clips_by_its_method(method, material):
    made = material.quantised(QuantizationRecipe(method))
    constants = initializers(made)
    for tensor in ("x", "h"):
        wanted = range_estimators.amax(material.seen[tensor], method)
        assert constants[f"{tensor}/q_scale"] == pytest.approx(wanted / 127, rel=1e-6)
    x = material.calls[0][0]["x"]
    first = fake_activation(x, float(constants["x/q_scale"]) * 127) @ fake_weight(initializers(material.model)["w"], 1)
    rounded = fake_activation(np.maximum(first, 0), float(constants["h/q_scale"]) * 127)
    wanted = rounded @ fake_weight(initializers(material.model)["v"], 1)
    found = run(made, {"x": x})["y"]
    assert np.linalg.norm(found - wanted) < 2e-3 * np.linalg.norm(wanted)


def test_skipped_blocks_stay_and_only_takes_one(material):
    assert [p.block for p in material.points()] == ["net.0", "net.1"]
    for made, kept, lost in (
        (material.quantised(QuantizationRecipe("minmax", skipped=("net.0",))), "w", "v"),
        (material.quantised(QuantizationRecipe("minmax"), only="net.0"), "v", "w"),
    ):
        assert kept in initializers(made) and lost not in initializers(made)
    assert material.quantised(QuantizationRecipe("minmax", skipped=("net.0", "net.1"))) == material.model


def test_weights_alone_need_no_statistics(material):
    made = GraphContext(material.model, {}, []).quantised(QuantizationRecipe("weights", 4))
    assert not operators(made, "QuantizeLinear") and len(operators(made, "DequantizeLinear")) == 2
    assert GraphContext(material.model, {}, []).quantised(QuantizationRecipe("minmax")) == material.model


def test_recipes_in_words():
    assert QuantizationRecipe("weights", 4).words() == "INT4 weights"
    assert QuantizationRecipe("mse", smooth=True, skipped=("a", "b")).words() == "INT8, mse, smoothed, 2 blocks FP32"
    assert QuantizationRecipe("minmax").words() == "INT8, minmax"


def test_the_best_recipe_is_the_one_with_the_best_score(material):
    recipe, scores = best_recipe(material, runner, "onnxruntime")
    assert set(scores) == {QuantizationRecipe(m).words() for m in range_estimators.METHODS}  # nothing to smooth without a norm
    assert scores[recipe.words()] == max(scores.values())
    by_hand = {}
    for method in range_estimators.METHODS:
        made = material.quantised(QuantizationRecipe(method))
        wanted = [got["y"] for _, got in material.calls[: recipe_module.COMPARED]]
        found = [run(made, given)["y"] for given, _ in material.calls[: recipe_module.COMPARED]]
        noise = sum(np.square(a.astype(np.float64) - b).sum() for a, b in zip(found, wanted))
        by_hand[QuantizationRecipe(method).words()] = 10 * np.log10(
            sum(np.square(b, dtype=np.float64).sum() for b in wanted) / noise
        )
    assert scores == pytest.approx(by_hand, abs=0.02)


def test_smoothing_takes_part_where_there_is_a_norm(rng):
    scale = np.ones(32, np.float32)
    scale[4] = 80
    made = {"scale": scale, "bias": np.zeros(32, np.float32), "w": rng.normal(size=(32, 16)).astype(np.float32)}
    nodes = [node("LayerNormalization", ["x", "scale", "bias"], "n"), node("MatMul", ["n", "w"], "y")]
    model = make_model(nodes, {"x": ("batch", 32)}, ["y"], made)
    engine = ObservingEngine(model, CONTRACT, threads=1)
    for _ in range(4):
        engine.run({"x": rng.normal(size=(40, 32)).astype(np.float32)})
    material = GraphContext(model, engine.seen, engine.calls)
    _, factors = material.smoothed()
    largest = (engine.seen["n"].channels / factors["n"]).max()
    for method in range_estimators.METHODS:
        # The share of the largest value that the method clips at is the same as before smoothing.
        share = range_estimators.amax(engine.seen["n"], method) / engine.seen["n"].maximum
        scale = initializers(material.quantised(QuantizationRecipe(method, smooth=True)))["n/q_scale"]
        assert scale == pytest.approx(share * largest / 127, rel=1e-4)
    recipe, scores = best_recipe(material, runner, "onnxruntime")
    assert recipe.smooth and len(scores) == 2 * len(range_estimators.METHODS)
    assert scores["INT8, minmax, smoothed"] > scores["INT8, minmax"] + 1
