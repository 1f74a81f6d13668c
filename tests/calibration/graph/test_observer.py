"""Observing a graph does not change its outputs, and statistics can be cached."""

from __future__ import annotations

import errno
import os
import resource

import numpy as np
import onnx
import pytest
from small_graphs import make_model, node, run

from mimo_calibration.graph import observer
from mimo_calibration.graph.observer import KEPT, GraphStatistics, ObservingEngine, StatisticsCache, statistics_key
from mimo_calibration.statistics.histogram import HistogramObserver
from mimo_runtime.engines import create_engine
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.model.graph_spec import GraphSpec, Tensor

CONTRACT = GraphSpec(
    "tower", (Tensor("x", "float32", ("batch", 32)), Tensor("scale", "float32", ("batch", 1))),
    (Tensor("y", "float32", ("batch", 16)), Tensor("h", "float32", ("batch", 24))),
)  # fmt: skip


def tower(rng: np.random.Generator) -> onnx.ModelProto:
    constants = {"w": rng.normal(size=(32, 24)), "v": rng.normal(size=(24, 16)), "b": rng.normal(size=24)}
    nodes = [
        node("Div", ["x", "scale"], "scaled"), node("MatMul", ["scaled", "w"], "p"), node("Add", ["p", "b"], "q"),
        node("Relu", ["q"], "h"), node("MatMul", ["h", "v"], "y"),
    ]  # fmt: skip
    shapes = {"x": ("batch", 32), "scale": ("batch", 1)}
    return make_model(nodes, shapes, ["y", "h"], {k: v.astype(np.float32) for k, v in constants.items()}, "tower")


def feed(rng, batch: int = 3) -> dict[str, np.ndarray]:
    return {"x": rng.normal(size=(batch, 32)).astype(np.float32), "scale": np.full((batch, 1), 0.5, np.float32)}


def test_an_observed_graph_gives_what_the_engine_gives(rng):
    model = tower(rng)
    plain = create_engine("onnxruntime", model.SerializeToString(), CONTRACT, threads=1)
    for every in (False, True):
        engine = ObservingEngine(model, CONTRACT, every=every, threads=1)
        assert (engine.name, engine.inputs, engine.outputs) == (plain.name, plain.inputs, plain.outputs)
        for batch in (1, 5):
            inputs = feed(rng, batch)
            expected, outputs = plain.run(inputs), engine.run(inputs)
            assert list(outputs) == list(expected)
            for name in expected:
                assert outputs[name].dtype == expected[name].dtype
                np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-6, atol=1e-6)


def test_activations_of_quantizable_nodes_are_observed_and_on_demand_all(rng):
    model, inputs = tower(rng), feed(rng)
    engine = ObservingEngine(model, CONTRACT, threads=1)
    engine.run(inputs)
    assert set(engine.histograms) == {"scaled", "h"}
    scaled = np.abs(inputs["x"] / inputs["scale"])
    assert engine.histograms["scaled"].maximum == pytest.approx(scaled.max())
    np.testing.assert_allclose(engine.histograms["scaled"].channels, scaled.max(0), rtol=1e-6)
    assert engine.histograms["h"].maximum == pytest.approx(engine.run(inputs)["h"].max())
    assert engine.histograms["h"].count == 2 * 3 * 24
    everything = ObservingEngine(model, CONTRACT, every=True, threads=1)
    everything.run(inputs)
    assert set(everything.histograms) == {"x", "scale", "scaled", "p", "q", "h", "y"}
    assert everything.histograms["x"].maximum == np.abs(inputs["x"]).max()


def test_an_input_that_is_an_activation_and_a_tied_weight_are_observed(rng):
    nodes = [node("Transpose", ["table"], "turned", perm=[1, 0]), node("MatMul", ["x", "turned"], "y")]
    model = make_model(nodes, {"x": ("batch", 32)}, ["y"], {"table": np.ones((40, 32), np.float32)})
    spec = GraphSpec("tied", (Tensor("x", "float32", ("batch", 32)),), (Tensor("y", "float32", ("batch", 40)),))
    engine = ObservingEngine(model, spec, threads=1)
    engine.run({"x": np.full((2, 32), -3, np.float32)})
    assert engine.histograms["x"].maximum == 3.0


@pytest.mark.parametrize("calls", [1, KEPT, 3 * KEPT, 700])
def test_it_keeps_a_bounded_number_of_calls_spread_over_the_run(calls, rng):
    model = tower(rng)
    engine = ObservingEngine(model, CONTRACT, threads=1)
    inputs = feed(rng, 1)
    for k in range(calls):
        inputs["x"][:] = k  # one buffer, as a caller may use it again
        engine.run(inputs)
    kept = [int(inputs["x"][0, 0]) for inputs, _ in engine.calls]
    assert kept == sorted(set(kept)) and min(calls, KEPT // 2) <= len(kept) <= 2 * KEPT
    assert kept[0] == 0 and max(np.diff([*kept, calls])) <= max(1, calls / 3)
    assert engine.count == calls
    for inputs, outputs in engine.calls:
        assert set(inputs) == {"x", "scale"} and set(outputs) == {"y", "h"}
        np.testing.assert_allclose(run(model, inputs)["y"], outputs["y"], rtol=1e-5, atol=1e-4)


def test_what_is_not_finite_is_an_error_that_names_tensor_and_graph(rng):
    engine = ObservingEngine(tower(rng), CONTRACT, threads=1)
    inputs = feed(rng)
    inputs["scale"][1] = 0
    with pytest.raises(EngineError, match="NaN or infinity in tensor scaled of graph tower") as caught:
        engine.run(inputs)
    assert caught.value.exit_code == 1 and "checkpoint" in caught.value.remedy


# -- cache -----------------------------------------------------------------------------------------------------------


class Collects:
    """Makes statistics, and counts how often."""

    def __init__(self, rng: np.random.Generator) -> None:
        histograms = {name: HistogramObserver() for name in ("b/c.d", "a")}
        for histogram in histograms.values():
            for _ in range(3):
                histogram.add(rng.normal(size=(4, 6)).astype(np.float32))
        inputs = {"x": rng.normal(size=(1, 3)).astype(np.float32), "token_ids": np.arange(4, dtype=np.int32)}
        calls = [(inputs, {"y": np.ones((2, 2), np.float32)}), (inputs, {"y": np.zeros(1, np.float32)})]
        self.statistics, self.count = GraphStatistics(histograms, calls), 0

    def __call__(self) -> GraphStatistics:
        self.count += 1
        return self.statistics


def same(result: GraphStatistics, expected: GraphStatistics) -> None:
    assert sorted(result.histograms) == sorted(expected.histograms)
    for name, value in expected.histograms.items():
        for part, array in value.to_arrays("p").items():
            np.testing.assert_array_equal(result.histograms[name].to_arrays("p")[part], array)
    assert len(result.calls) == len(expected.calls)
    for call, expected_call in zip(result.calls, expected.calls):
        for arrays, expected_arrays in zip(call, expected_call):
            assert list(arrays) == list(expected_arrays)
            for name, array in expected_arrays.items():
                assert arrays[name].dtype == array.dtype
                np.testing.assert_array_equal(arrays[name], array)


def test_a_second_time_nothing_is_collected(rng, tmp_path):
    collect = Collects(rng)
    cache = StatisticsCache(tmp_path / "deep" / "cache")
    for cached in (False, True, True):
        result, known = cache.get("k", collect)
        assert known is cached
        same(result, collect.statistics)
    assert collect.count == 1
    assert [p.name for p in (tmp_path / "deep" / "cache").iterdir()] == ["k.npz"]
    assert not cache.get("other", collect)[1] and collect.count == 2


def test_many_calls_stay_apart(tmp_path):
    calls = [({"x": np.full(2, k, np.float32)}, {"y": np.full(1, -k, np.float32)}) for k in range(24)]
    cache = StatisticsCache(tmp_path)
    cache.get("k", lambda: GraphStatistics({}, calls))
    result, known = cache.get("k", lambda: pytest.fail("collected again"))
    assert known and [int(inputs["x"][0]) for inputs, _ in result.calls] == list(range(24))
    assert [int(outputs["y"][0]) for _, outputs in result.calls] == [-k for k in range(24)]


def test_without_a_folder_nothing_is_kept(rng):
    collect = Collects(rng)
    for _ in range(2):
        result, known = StatisticsCache(None).get("k", collect)
        assert result is collect.statistics and not known
    assert collect.count == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"", lambda data: b"no archive", lambda data: data[: len(data) // 2], lambda data: data[:4],
        lambda data: data[: len(data) // 2] + b"\0" * 64 + data[len(data) // 2 + 64 :], lambda data: data[:-22] + b"\0" * 22,
    ],
    ids=["empty", "text", "half", "start", "middle", "end"],
)  # fmt: skip
def test_a_damaged_file_is_written_anew(damage, rng, tmp_path):
    collect = Collects(rng)
    cache = StatisticsCache(tmp_path)
    cache.get("k", collect)
    path = tmp_path / "k.npz"
    path.write_bytes(damage(path.read_bytes()))
    result, known = cache.get("k", collect)
    assert not known and collect.count == 2
    same(result, collect.statistics)
    assert cache.get("k", collect)[1]


def test_a_file_of_another_version_is_written_anew(rng, tmp_path):
    collect = Collects(rng)
    np.savez(tmp_path / "k.npz", names=np.array(["a"]), calls=np.array(0))
    assert not StatisticsCache(tmp_path).get("k", collect)[1] and collect.count == 1


def test_a_run_that_fails_leaves_nothing(tmp_path):
    def collect():
        raise EngineError("it broke")

    with pytest.raises(EngineError):
        StatisticsCache(tmp_path).get("k", collect)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("room", [0, 500, 3000])
def test_a_disk_that_is_full_at_any_moment_is_an_error(rng, tmp_path, room):
    """A limit to the size of files fails like a full disk: while the archive is written, and once more when it is closed."""
    collect = Collects(rng)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        with pytest.raises(RequestError) as caught:
            StatisticsCache(tmp_path / "cache").get("k", collect)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value).startswith(f"cache {tmp_path / 'cache'} cannot be written: File too large. Make room or choose")
    assert not list((tmp_path / "cache").iterdir()) and collect.count == 1


def test_a_disk_that_is_full_at_the_end_is_an_error(rng, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    collect = Collects(rng)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match=f"cache {tmp_path} cannot be written: No space left on device.*Make room"):
        StatisticsCache(tmp_path).get("k", collect)


def test_an_error_that_is_not_the_caches_stays_what_it_is(tmp_path):
    with pytest.raises(RequestError, match="nothing to do with it"), observer.writable_folder(tmp_path):
        raise RequestError("nothing to do with it")


def test_whatever_statistics_depend_on_changes_the_key(rng):
    model = tower(np.random.default_rng(0))
    base = statistics_key(model, "data", ["up"], {"every": False})
    assert base == statistics_key(tower(np.random.default_rng(0)), "data", ["up"], {"every": False})
    changed = tower(np.random.default_rng(1))
    others = [
        statistics_key(changed, "data", ["up"], {"every": False}), statistics_key(model, "data2", ["up"], {"every": False}),
        statistics_key(model, "data", ["up", "up2"], {"every": False}), statistics_key(model, "data", [], {"every": False}),
        statistics_key(model, "data", ["up"], {"every": True}),
        statistics_key(model, "data", ["up"], {"every": False, "more": 1}),
    ]  # fmt: skip
    assert len({base, *others}) == 1 + len(others)
    assert statistics_key(model, "data", ["b", "a"], {}) == statistics_key(model, "data", ["a", "b"], {})
    assert base.isalnum()
