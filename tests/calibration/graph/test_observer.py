"""Watching a graph changes nothing of what it gives, and what was seen can be remembered."""

from __future__ import annotations

import errno
import os
import resource

import numpy as np
import onnx
import pytest
from small_graphs import make_model, node, run

from mimo_calibration.graph import observer
from mimo_calibration.graph.observer import KEPT, Cache, ObservingEngine, key
from mimo_calibration.statistics.histogram import HistogramObserver
from mimo_runtime.engines import create_engine
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.model.graph_spec import GraphSpec, Tensor

CONTRACT = GraphSpec(
    "tower", (Tensor("x", "float32", ("batch", 32)), Tensor("scale", "float32", ("batch", 1))),
    (Tensor("y", "float32", ("batch", 16)), Tensor("h", "float32", ("batch", 24))),
)  # fmt: skip


def tower(rng: np.random.Generator) -> onnx.ModelProto:
    made = {"w": rng.normal(size=(32, 24)), "v": rng.normal(size=(24, 16)), "b": rng.normal(size=24)}
    nodes = [
        node("Div", ["x", "scale"], "scaled"), node("MatMul", ["scaled", "w"], "p"), node("Add", ["p", "b"], "q"),
        node("Relu", ["q"], "h"), node("MatMul", ["h", "v"], "y"),
    ]  # fmt: skip
    shapes = {"x": ("batch", 32), "scale": ("batch", 1)}
    return make_model(nodes, shapes, ["y", "h"], {k: v.astype(np.float32) for k, v in made.items()}, "tower")


def feed(rng, batch: int = 3) -> dict[str, np.ndarray]:
    return {"x": rng.normal(size=(batch, 32)).astype(np.float32), "scale": np.full((batch, 1), 0.5, np.float32)}


def test_it_gives_what_the_engine_gives(rng):
    model = tower(rng)
    plain = create_engine("onnxruntime", model.SerializeToString(), CONTRACT, threads=1)
    for every in (False, True):
        engine = ObservingEngine(model, CONTRACT, every=every, threads=1)
        assert (engine.name, engine.inputs, engine.outputs) == (plain.name, plain.inputs, plain.outputs)
        for batch in (1, 5):
            given = feed(rng, batch)
            wanted, found = plain.run(given), engine.run(given)
            assert list(found) == list(wanted)
            for name in wanted:
                assert found[name].dtype == wanted[name].dtype
                np.testing.assert_allclose(found[name], wanted[name], rtol=1e-6, atol=1e-6)


def test_it_sees_the_activations_of_the_points_and_on_demand_all(rng):
    model, given = tower(rng), feed(rng)
    engine = ObservingEngine(model, CONTRACT, threads=1)
    engine.run(given)
    assert set(engine.seen) == {"scaled", "h"}
    scaled = np.abs(given["x"] / given["scale"])
    assert engine.seen["scaled"].maximum == pytest.approx(scaled.max())
    np.testing.assert_allclose(engine.seen["scaled"].channels, scaled.max(0), rtol=1e-6)
    assert engine.seen["h"].maximum == pytest.approx(engine.run(given)["h"].max())
    assert engine.seen["h"].seen == 2 * 3 * 24
    everything = ObservingEngine(model, CONTRACT, every=True, threads=1)
    everything.run(given)
    assert set(everything.seen) == {"x", "scale", "scaled", "p", "q", "h", "y"}
    assert everything.seen["x"].maximum == np.abs(given["x"]).max()


def test_an_input_that_is_an_activation_and_a_tied_weight_are_seen(rng):
    nodes = [node("Transpose", ["table"], "turned", perm=[1, 0]), node("MatMul", ["x", "turned"], "y")]
    model = make_model(nodes, {"x": ("batch", 32)}, ["y"], {"table": np.ones((40, 32), np.float32)})
    contract = GraphSpec("tied", (Tensor("x", "float32", ("batch", 32)),), (Tensor("y", "float32", ("batch", 40)),))
    engine = ObservingEngine(model, contract, threads=1)
    engine.run({"x": np.full((2, 32), -3, np.float32)})
    assert engine.seen["x"].maximum == 3.0


@pytest.mark.parametrize("calls", [1, KEPT, 3 * KEPT, 700])
def test_it_keeps_a_bounded_number_of_calls_spread_over_the_run(calls, rng):
    model = tower(rng)
    engine = ObservingEngine(model, CONTRACT, threads=1)
    given = feed(rng, 1)
    for k in range(calls):
        given["x"][:] = k  # one buffer, as a caller may use it again
        engine.run(given)
    kept = [int(inputs["x"][0, 0]) for inputs, _ in engine.calls]
    assert kept == sorted(set(kept)) and min(calls, KEPT // 2) <= len(kept) <= 2 * KEPT
    assert kept[0] == 0 and max(np.diff([*kept, calls])) <= max(1, calls / 3)
    assert engine.count == calls
    for inputs, outputs in engine.calls:
        assert set(inputs) == {"x", "scale"} and set(outputs) == {"y", "h"}
        np.testing.assert_allclose(run(model, inputs)["y"], outputs["y"], rtol=1e-5, atol=1e-4)


def test_what_is_not_finite_is_told_with_tensor_and_graph(rng):
    engine = ObservingEngine(tower(rng), CONTRACT, threads=1)
    given = feed(rng)
    given["scale"][1] = 0
    with pytest.raises(EngineError, match="NaN or infinity in tensor scaled of graph tower") as caught:
        engine.run(given)
    assert caught.value.exit_code == 1 and "checkpoint" in caught.value.remedy


# -- remembering -----------------------------------------------------------------------------------------------------


def statistics(rng, *names: str) -> dict[str, HistogramObserver]:
    found = {}
    for name in names:
        found[name] = HistogramObserver()
        for _ in range(3):
            found[name].add(rng.normal(size=(4, 6)).astype(np.float32))
    return found


def made_once(rng):
    """A function to make statistics, and how often it was called."""
    calls = []
    inputs = {"x": rng.normal(size=(1, 3)).astype(np.float32), "token_ids": np.arange(4, dtype=np.int32)}
    seen = statistics(rng, "b/c.d", "a")
    kept = [(inputs, {"y": np.ones((2, 2), np.float32)}), (inputs, {"y": np.zeros(1, np.float32)})]

    def make():
        calls.append(1)
        return seen, kept

    return make, calls, seen, kept


def same(found, seen, kept, wanted_kept):
    assert list(sorted(found)) == sorted(seen)
    for name, value in seen.items():
        for part, array in value.to_arrays("p").items():
            np.testing.assert_array_equal(found[name].to_arrays("p")[part], array)
    assert len(kept) == len(wanted_kept)
    for (inputs, outputs), (wanted_inputs, wanted_outputs) in zip(kept, wanted_kept):
        for mine, wanted in ((inputs, wanted_inputs), (outputs, wanted_outputs)):
            assert list(mine) == list(wanted)
            for name, array in wanted.items():
                assert mine[name].dtype == array.dtype
                np.testing.assert_array_equal(mine[name], array)


def test_a_second_time_nothing_is_made(rng, tmp_path):
    make, calls, seen, kept = made_once(rng)
    cache = Cache(tmp_path / "deep" / "cache")
    for remembered in (False, True, True):
        found, found_kept, known = cache.get("k", make)
        assert known is remembered
        same(found, seen, found_kept, kept)
    assert len(calls) == 1
    assert [p.name for p in (tmp_path / "deep" / "cache").iterdir()] == ["k.npz"]
    _, _, known = cache.get("other", make)
    assert not known and len(calls) == 2


def test_many_calls_stay_apart(rng, tmp_path):
    calls = [({"x": np.full(2, k, np.float32)}, {"y": np.full(1, -k, np.float32)}) for k in range(24)]
    cache = Cache(tmp_path)
    cache.get("k", lambda: ({}, calls))
    _, found, known = cache.get("k", lambda: pytest.fail("made again"))
    assert known and [int(given["x"][0]) for given, _ in found] == list(range(24))
    assert [int(got["y"][0]) for _, got in found] == [-k for k in range(24)]


def test_without_a_folder_nothing_is_kept(rng):
    make, calls, seen, kept = made_once(rng)
    for _ in range(2):
        found, found_kept, known = Cache(None).get("k", make)
        assert found is seen and found_kept is kept and not known
    assert len(calls) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"", lambda data: b"no archive", lambda data: data[: len(data) // 2], lambda data: data[:4],
        lambda data: data[: len(data) // 2] + b"\0" * 64 + data[len(data) // 2 + 64 :], lambda data: data[:-22] + b"\0" * 22,
    ],
    ids=["empty", "text", "half", "start", "middle", "end"],
)  # fmt: skip
def test_a_damaged_file_is_made_anew(damage, rng, tmp_path):
    make, calls, seen, kept = made_once(rng)
    cache = Cache(tmp_path)
    cache.get("k", make)
    path = tmp_path / "k.npz"
    path.write_bytes(damage(path.read_bytes()))
    found, found_kept, known = cache.get("k", make)
    assert not known and len(calls) == 2
    same(found, seen, found_kept, kept)
    assert cache.get("k", make)[2]


def test_a_file_of_another_version_is_made_anew(rng, tmp_path):
    make, calls, _, _ = made_once(rng)
    np.savez(tmp_path / "k.npz", names=np.array(["a"]), calls=np.array(0))
    assert not Cache(tmp_path).get("k", make)[2] and len(calls) == 1


def test_a_run_that_fails_leaves_nothing(tmp_path):
    def make():
        raise EngineError("it broke")

    with pytest.raises(EngineError):
        Cache(tmp_path).get("k", make)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("room", [0, 500, 3000])
def test_a_disk_that_is_full_at_any_moment_is_told(rng, tmp_path, room):
    """A limit to the size of files fails like a full disk: while the archive is written, and once more when it is closed."""
    make, calls, _, _ = made_once(rng)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        with pytest.raises(RequestError) as caught:
            Cache(tmp_path / "cache").get("k", make)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value).startswith(f"cache {tmp_path / 'cache'} cannot be written: File too large. Make room or choose")
    assert not list((tmp_path / "cache").iterdir()) and len(calls) == 1


def test_a_disk_that_is_full_at_the_end_is_told(rng, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    make, _, _, _ = made_once(rng)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match=f"cache {tmp_path} cannot be written: No space left on device.*Make room"):
        Cache(tmp_path).get("k", make)


def test_an_error_that_is_not_the_caches_stays_what_it_is(tmp_path):
    with pytest.raises(RequestError, match="nothing to do with it"), observer.writing(tmp_path):
        raise RequestError("nothing to do with it")


def test_whatever_statistics_depend_on_changes_the_key(rng):
    model = tower(np.random.default_rng(0))
    base = key(model, "data", ["up"], {"every": False})
    assert base == key(tower(np.random.default_rng(0)), "data", ["up"], {"every": False})
    changed = tower(np.random.default_rng(1))
    others = [
        key(changed, "data", ["up"], {"every": False}), key(model, "data2", ["up"], {"every": False}),
        key(model, "data", ["up", "up2"], {"every": False}), key(model, "data", [], {"every": False}),
        key(model, "data", ["up"], {"every": True}), key(model, "data", ["up"], {"every": False, "more": 1}),
    ]  # fmt: skip
    assert len({base, *others}) == 1 + len(others)
    assert key(model, "data", ["b", "a"], {}) == key(model, "data", ["a", "b"], {})
    assert observer.KEPT == KEPT and base.isalnum()
