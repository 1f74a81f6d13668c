from __future__ import annotations

import dataclasses
import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from engine_cases import CONTRACTS, changed, decoder, feed, graph, load, same, step

from mimo_runtime import engines
from mimo_runtime.engines import base, create_engine
from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import GraphSpec, Tensor

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_have_the_specs_names_dtypes_and_shapes(kind, name, batch):
    engine = load(kind, name)
    out = engine.run(feed(name, batch))
    assert list(out) == [t.name for t in CONTRACTS[name].outputs] == list(engine.outputs)
    for tensor in CONTRACTS[name].outputs:
        assert out[tensor.name].shape == tensor.concrete(batch=batch, past=2)
        assert out[tensor.name].dtype == tensor.dtype


def test_onnxruntime_runs_on_the_cpu_provider_with_the_threads_asked_for():
    engine = load("onnxruntime", threads=3, spinning=False)
    assert engine._session.get_providers() == ["CPUExecutionProvider"]
    options = engine._session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_concurrent_runs_give_what_single_runs_give(kind):
    engine = load(kind, "mask_decoder")
    inputs = [{**feed("mask_decoder"), "reference_map": np.full((1, 6, 16, 16), i, np.float32)} for i in range(8)]
    expected = [engine.run(x)["masks"].copy() for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = [out["masks"] for out in pool.map(engine.run, inputs)]
    for a, b in zip(expected, found):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(expected[0], expected[1])


@pytest.mark.parametrize("name", CONTRACTS)
def test_outputs_of_every_graph_belong_to_the_caller(kind, name):
    """No later run writes over them, and what the caller does with them changes no later run."""
    engine = load(kind, name)
    inputs = [{k: np.full_like(v, i) for k, v in feed(name).items()} for i in range(3)]
    runs = [engine.run(x) for x in inputs]
    kept = [{k: v.copy() for k, v in out.items()} for out in runs]
    for out, copies in zip([engine.run(x) for x in inputs], kept):
        same(out, copies, tolerance=0)
        for value in out.values():
            assert value.flags.writeable
            value.fill(99)
    for out, copies, x in zip(runs, kept, inputs):
        same(out, copies, tolerance=0)
        same(engine.run(x), copies, tolerance=0)


@pytest.mark.parametrize(
    ("role", "change", "match"),
    [
        ("inputs", {"name": "tokens"}, "its inputs are token, position"),
        ("inputs", {"dtype": "int64"}, "input token is int32 instead of int64"),
        ("inputs", {"shape": ("batch", 2)}, r"input token has the shape \['.+', 1\] instead of \['batch', 2\]"),
        ("inputs", {"shape": (1, 1)}, "input token has the shape"),
        ("outputs", {"shape": ("batch", 1, 511)}, "output logits has the shape"),
        ("outputs", {"shape": ("batch", 1)}, "output logits has the shape"),
    ],
)
def test_a_graph_that_differs_from_its_spec_is_refused(kind, role, change, match):
    with pytest.raises(EngineError, match=match) as caught:
        load(kind, spec=changed(CONTRACTS["text_decoder"], role, 0, **change))
    assert "text_decoder" in str(caught.value) and "mimo-export build" in str(caught.value)


def test_names_of_dynamic_axes_do_not_matter():
    base.check_spec(GraphSpec("g", (Tensor("a", "float32", ("batch", 3)),), ()), [Tensor("a", "float32", ("N", 3))], [])


@pytest.mark.parametrize("data", [b"", b"not a model", b"\0" * 100], ids=["empty", "text", "zeros"])
def test_bytes_that_are_no_graph_are_refused_in_one_line(kind, data):
    with pytest.raises(EngineError, match=f"{kind} cannot load graph fusion") as caught:
        create_engine(kind, data, CONTRACTS["fusion"], threads=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"token": np.zeros((1, 5), np.int32)},
        {"token": np.zeros((1, 1, 1), np.int32)},
        {"token": np.zeros((1, 1), np.int64)},
        {"token": np.zeros((1, 1), np.float32)},
        {"token": None},
        {"tokens": np.zeros((1, 1), np.int32)},
    ],
    ids=["shape", "rank", "int64", "float32", "missing", "unknown"],
)
def test_a_run_that_fails_names_the_graph_and_harms_no_later_run(kind, change):
    engine, right = load(kind), feed("text_decoder")
    expected = engine.run(right)
    wrong = {name: value for name, value in {**right, **change}.items() if value is not None}
    with pytest.raises(EngineError, match=f"{kind} failed in graph text_decoder") as caught:
        engine.run(wrong)
    assert "\n" not in str(caught.value)
    same(engine.run(right), expected)


def test_a_closed_engine_does_not_run(kind):
    engine = load(kind)
    engine.close()
    with pytest.raises(EngineError, match="failed in graph text_decoder"):
        engine.run(feed("text_decoder"))
    engine.close()


def test_unknown_engine_is_refused():
    with pytest.raises(EngineError, match="no engine 'npu'.*onnxruntime"):
        create_engine("npu", b"", CONTRACTS["fusion"])


def test_missing_engine_says_what_to_install(monkeypatch):
    monkeypatch.setattr(engines, "installed_version", lambda name: None)
    with pytest.raises(EngineError, match=r"onnxruntime is not installed. pip install 'mimo-edge\[cpu\]'"):
        create_engine("onnxruntime", b"", CONTRACTS["fusion"])
    assert "not installed" in engines.why_not("onnxruntime")


def test_broken_engine_says_why(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(EngineError, match=f"{kind} does not load"):
        load(kind)
    assert "does not load" in engines.why_not(kind)


def test_working_engine_has_no_complaint(kind):
    assert engines.why_not(kind) is None
    assert engines.installed_version(kind)


def test_outputs_belong_to_the_caller(kind):
    engine = decoder(kind)
    first = engine.run(step(5, seed=1))
    kept = {name: value.copy() for name, value in first.items()}
    for seed in range(2, 6):
        engine.run(step(5, seed=seed))
        engine.run(step(9, seed=seed))
    same(first, kept, tolerance=0)
    for value in first.values():
        assert value.flags.writeable and value.flags.c_contiguous
        value[...] = np.nan  # must not come back in the next answer
    same(engine.run(step(5, seed=1)), kept)
    engine.close()
    del engine
    gc.collect()
    assert all(np.isnan(value).all() for value in first.values())


def test_outputs_share_no_memory_with_inputs_or_each_other(kind):
    # Both outputs are the input itself, which an engine could hand out again.
    data = graph([("Identity", ["x"], ["a"]), ("Relu", ["x"], ["b"]), ("Identity", ["x"], ["c"])])
    x = Tensor("x", "float32", ("batch", 4))
    spec = GraphSpec("plain", (x,), tuple(dataclasses.replace(x, name=name) for name in "abc"))
    engine = create_engine(kind, data, spec, threads=1)
    given = np.arange(8, dtype=np.float32).reshape(2, 4)
    found = engine.run({"x": given})
    arrays = [given, *found.values()]
    for k, one in enumerate(arrays):
        np.testing.assert_array_equal(one, np.arange(8).reshape(2, 4))
        assert not any(np.shares_memory(one, other) for other in arrays[k + 1 :])


def test_inputs_are_neither_changed_nor_kept(kind):
    engine = decoder(kind)
    inputs = step(7, seed=1)
    before = {name: value.copy() for name, value in inputs.items()}
    expected = engine.run(inputs)
    same(inputs, before, tolerance=0)
    # What the caller does with the arrays after the run is nothing to the engine.
    for value in inputs.values():
        value[...] = 3
    same(engine.run(before), expected)
    same(engine.run(inputs), engine.run({name: np.full_like(value, 3) for name, value in before.items()}))
    references = [weakref.ref(value) for value in inputs.values()]
    del inputs, value
    gc.collect()
    assert [reference() for reference in references] == [None] * len(references)


def test_openvino_holds_no_address_of_an_input_after_a_run():
    pytest.importorskip("openvino")
    engine = decoder("openvino")
    engine.run(step(7))
    (requests,) = engine._pools.values()
    ((request, _),) = requests._idle
    assert [request.get_input_tensor(k).size for k in range(len(engine.inputs))] == [0, 0, 0]


def test_inputs_may_be_read_only_unaligned_or_strided(kind):
    engine, inputs = decoder(kind), step(7, seed=1)
    expected = engine.run(inputs)
    frozen = {name: value.copy() for name, value in inputs.items()}
    for value in frozen.values():
        value.setflags(write=False)
    same(engine.run(frozen), expected)
    shifted = {name: np.insert(value.ravel(), 0, 0)[1:].reshape(value.shape) for name, value in inputs.items()}
    assert all(value.ctypes.data % 8 for value in shifted.values())
    same(engine.run(shifted), expected)
    strided = {name: np.repeat(value, 2, axis=-1)[..., ::2] for name, value in inputs.items()}
    same(engine.run(strided), expected)
