"""Moving outliers into weights changes no result."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_graphs import make_model, node, run

from mimo_calibration.graph.qdq import Choice, quantize
from mimo_calibration.graph.smooth_quant import LIMIT, smoothed
from mimo_calibration.search.recipe import GraphContext, QuantizationRecipe
from mimo_calibration.search.recipe_search import is_smoothing_exact
from mimo_calibration.statistics.histogram import HistogramObserver

CHANNELS, LOUD = 32, (3, 17)


def parameters(rng: np.random.Generator, columns: int = 24) -> dict[str, np.ndarray]:
    """A norm with two loud channels, and weights behind it."""
    scale = rng.uniform(0.5, 1.5, CHANNELS)
    scale[list(LOUD)] *= 60
    constants = {"scale": scale, "bias": rng.normal(size=CHANNELS), "w": rng.normal(size=(CHANNELS, columns))}
    return {name: value.astype(np.float32) for name, value in constants.items()}


def statistics(model: onnx.ModelProto, feed: dict[str, np.ndarray], *names: str) -> dict[str, HistogramObserver]:
    """What the named inner tensors are for one input."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    known = {o.name for o in model.graph.output}
    tapped.graph.output.extend(
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names if n not in known
    )
    values, histograms = run(tapped, feed), {}
    for name in names:
        histograms[name] = HistogramObserver()
        histograms[name].add(values[name])
    return histograms


def same(model: onnx.ModelProto, other: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
    for name, value in run(model, feed).items():
        np.testing.assert_allclose(run(other, feed)[name], value, rtol=1e-3, atol=1e-4 * np.abs(value).max(), err_msg=name)


def norm(output: str = "normed") -> onnx.NodeProto:
    return node("LayerNormalization", ["x", "scale", "bias"], output)


def plain(rng):
    constants = parameters(rng)
    return make_model([norm(), node("MatMul", ["normed", "w"], "y")], {"x": ("batch", 6, CHANNELS)}, ["y"], constants), [
        "normed"
    ]


def without_bias(rng):
    constants = parameters(rng)
    del constants["bias"]
    nodes = [node("LayerNormalization", ["x", "scale"], "normed"), node("MatMul", ["normed", "w"], "y")]
    return make_model(nodes, {"x": ("batch", 6, CHANNELS)}, ["y"], constants), ["normed"]


def moved(rng):
    """As the windows of a Swin block."""
    constants = parameters(rng) | {
        "cut": np.array([-1, 2, 3, CHANNELS], np.int64),
        "flat": np.array([-1, 2, CHANNELS], np.int64),
    }
    nodes = [
        norm(), node("Reshape", ["normed", "cut"], "cut_out"), node("Transpose", ["cut_out"], "turned", perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "flat"], "windows"), node("MatMul", ["windows", "w"], "y"),
    ]  # fmt: skip
    return make_model(nodes, {"x": ("batch", 6, CHANNELS)}, ["y"], constants), ["windows"]


def rolled(rng):
    """Cut in two and joined the other way round: a cyclic shift."""
    constants = parameters(rng) | {f"i{k}": np.array([k], np.int64) for k in (0, 1, 2, 6)}
    nodes = [
        norm(), node("Slice", ["normed", "i2", "i6", "i1"], "tail"), node("Slice", ["normed", "i0", "i2", "i1"], "head"),
        node("Concat", ["tail", "head"], "shifted", axis=1), node("MatMul", ["shifted", "w"], "y"),
    ]  # fmt: skip
    return make_model(nodes, {"x": ("batch", 6, CHANNELS)}, ["y"], constants), ["shifted"]


def two_readers(rng):
    constants = parameters(rng) | {"v": rng.normal(size=(CHANNELS, 16)).astype(np.float32)}
    nodes = [norm(), node("MatMul", ["normed", "w"], "y"), node("MatMul", ["normed", "v"], "z")]
    return make_model(nodes, {"x": ("batch", 6, CHANNELS)}, ["y", "z"], constants), ["normed"]


GRAPHS = {f.__name__: f for f in (plain, without_bias, moved, rolled, two_readers)}


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
def test_a_smoothed_graph_computes_the_same_with_flatter_activations(kind, alpha, rng):
    model, names = GRAPHS[kind](rng)
    feed = {"x": rng.normal(size=(2, 6, CHANNELS)).astype(np.float32)}
    untouched_bytes = model.SerializeToString()
    histograms = statistics(model, feed, *names)
    result, factors = smoothed(model, histograms, alpha)
    assert model.SerializeToString() == untouched_bytes
    onnx.checker.check_model(result, full_check=True)
    same(model, result, feed)
    assert set(factors) == set(names)
    for name in names:
        old, new = histograms[name].channels, statistics(result, feed, name)[name].channels
        np.testing.assert_allclose(new, old / factors[name], rtol=1e-3)
        # The loud channels stand out less among the others.
        before, after = old.max() / np.median(old), new.max() / np.median(new)
        assert after < min(2 * before ** (1 - alpha), 0.7 * before)
        assert factors[name].argmax() in LOUD
        assert factors[name].max() <= LIMIT and factors[name].min() >= 1 / LIMIT


def test_what_is_quantized_behind_it_loses_less(rng):
    model, _ = plain(rng)
    feed = {"x": rng.normal(size=(2, 6, CHANNELS)).astype(np.float32)}
    histograms = statistics(model, feed, "normed")
    exact, errors = run(model, feed), {}
    context = GraphContext(model, histograms, [(feed, exact)])
    for smooth in (False, True):
        result = run(context.quantized(QuantizationRecipe("minmax", smooth=smooth)), feed)
        errors[smooth] = np.square(result["y"] - exact["y"]).mean()
    assert errors[True] < 0.5 * errors[False]


def untouched(model: onnx.ModelProto, histograms: dict[str, HistogramObserver]) -> None:
    result, factors = smoothed(model, histograms)
    assert result == model and factors == {}


def test_a_norm_that_something_else_reads_is_not_changed(rng):
    others = node("Add", ["normed", "x"], "z"), node("Softmax", ["normed"], "z"), node("MatMul", ["normed", "square"], "z")
    for more in others:
        constants = parameters(rng) | ({"square": np.eye(CHANNELS, dtype=np.float32)[:, :4]} if "square" in more.input else {})
        model = make_model([norm(), node("MatMul", ["normed", "w"], "y"), more], {"x": (2, 6, CHANNELS)}, ["y", "z"], constants)
        untouched(model, statistics(model, {"x": rng.normal(size=(2, 6, CHANNELS)).astype(np.float32)}, "normed"))


def test_a_norm_that_is_an_output_is_not_changed(rng):
    nodes = [norm(), node("MatMul", ["normed", "w"], "y")]
    model = make_model(nodes, {"x": (2, 6, CHANNELS)}, ["y", "normed"], parameters(rng))
    untouched(model, statistics(model, {"x": rng.normal(size=(2, 6, CHANNELS)).astype(np.float32)}, "normed"))


def test_a_transposition_that_moves_the_channels_is_not_followed(rng):
    constants = parameters(rng) | {"v": rng.normal(size=(CHANNELS, 24)).astype(np.float32)}
    nodes = [norm(), node("Transpose", ["normed"], "turned", perm=[0, 2, 1]), node("MatMul", ["turned", "v"], "y")]
    model = make_model(nodes, {"x": (2, CHANNELS, CHANNELS)}, ["y"], constants)
    feed = {"x": rng.normal(size=(2, CHANNELS, CHANNELS)).astype(np.float32)}
    untouched(model, statistics(model, feed, "turned"))


def test_weights_or_parameters_that_are_shared_are_not_changed(rng):
    feed = {"x": rng.normal(size=(2, 6, CHANNELS)).astype(np.float32)}
    shared_norm = [norm("a"), node("MatMul", ["a", "w"], "y"), norm("b"), node("MatMul", ["b", "v"], "z")]
    constants = parameters(rng) | {"v": rng.normal(size=(CHANNELS, 24)).astype(np.float32)}
    model = make_model(shared_norm, {"x": (2, 6, CHANNELS)}, ["y", "z"], constants)
    untouched(model, statistics(model, feed, "a", "b"))
    shared_weight = [norm(), node("MatMul", ["normed", "w"], "y"), node("MatMul", ["x", "w"], "z")]
    model = make_model(shared_weight, {"x": (2, 6, CHANNELS)}, ["y", "z"], parameters(rng))
    untouched(model, statistics(model, feed, "normed"))


def test_without_statistics_nothing_is_smoothed(rng):
    model, _ = plain(rng)
    untouched(model, {})


def test_a_dead_channel_stays_finite(rng):
    constants = parameters(rng)
    constants["scale"][5] = constants["bias"][5] = 0
    constants["w"][9] = 0
    model = make_model([norm(), node("MatMul", ["normed", "w"], "y")], {"x": ("batch", 6, CHANNELS)}, ["y"], constants)
    feed = {"x": rng.normal(size=(2, 6, CHANNELS)).astype(np.float32)}
    result, factors = smoothed(model, statistics(model, feed, "normed"))
    assert np.isfinite(factors["normed"]).all() and (factors["normed"] > 0).all()
    same(model, result, feed)


def joined(rng) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The norm's output beside something that no norm scales, before one product."""
    nodes = [norm(), node("Concat", ["normed", "x"], "both", axis=1), node("MatMul", ["both", "w"], "y")]
    model = make_model(nodes, {"x": ("batch", 6, CHANNELS)}, ["y"], parameters(rng))
    return model, {"x": rng.normal(size=(2, 6, CHANNELS)).astype(np.float32)}


def test_smoothing_that_would_change_the_result_is_noticed(rng):
    def runner(data: bytes):
        return lambda inputs: run(onnx.load_from_string(data), inputs)

    for (model, feed), name, holds in ((joined(rng), "both", False), ((plain(rng)[0], joined(rng)[1]), "normed", True)):
        context = GraphContext(model, statistics(model, feed, name), [(feed, run(model, feed))])
        assert is_smoothing_exact(context, runner) is holds
    nothing = GraphContext(model, {}, [(feed, run(model, feed))])
    assert is_smoothing_exact(nothing, runner) is False


def test_a_smoothed_graph_can_be_quantized(rng):
    for kind in GRAPHS.values():
        model, names = kind(rng)
        feed = {"x": rng.normal(size=(2, 6, CHANNELS)).astype(np.float32)}
        result, _ = smoothed(model, statistics(model, feed, *names))
        constants = quantize(result, {"y": Choice(float(statistics(result, feed, *names)[names[0]].maximum))})
        onnx.checker.check_model(constants, full_check=True)
        exact = run(model, feed)["y"]
        assert np.linalg.norm(run(constants, feed)["y"] - exact) < 0.05 * np.linalg.norm(exact)
