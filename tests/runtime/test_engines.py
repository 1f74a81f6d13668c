from __future__ import annotations

import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor

import fakes
import numpy as np
import pytest

from mimo_runtime import engines
from mimo_runtime.contracts import GraphContract, Tensor, graph_contracts
from mimo_runtime.engines import base, create_engine
from mimo_runtime.errors import EngineError

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
CONTRACTS = graph_contracts(fakes.CONFIG)


def load(name="text_decoder", contract=None, threads=1, **options):
    data = onnx_bundle.model_bytes(CONTRACTS[name], fakes.CONFIG)
    return create_engine("onnxruntime", data, contract or CONTRACTS[name], threads=threads, **options)


def feed(name, batch=1, past=2):
    rng = np.random.default_rng(0)
    return {
        t.name: rng.integers(0, 3, t.concrete(batch=batch, past=past)).astype(t.dtype)
        for t in CONTRACTS[name].inputs
    }


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_have_the_contracts_names_dtypes_and_shapes(name, batch):
    engine = load(name)
    out = engine.run(feed(name, batch))
    assert list(out) == [t.name for t in CONTRACTS[name].outputs] == list(engine.outputs)
    for tensor in CONTRACTS[name].outputs:
        assert out[tensor.name].shape == tensor.concrete(batch=batch, past=2)
        assert out[tensor.name].dtype == tensor.dtype


def test_it_runs_on_the_cpu_provider_with_the_threads_asked_for():
    engine = load(threads=3, spinning=False)
    assert engine._session.get_providers() == ["CPUExecutionProvider"]
    options = engine._session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_concurrent_runs_give_what_single_runs_give():
    engine = load("mask_decoder")
    inputs = [{**feed("mask_decoder"), "reference_map": np.full((1, 4, 16, 16), i, np.float32)} for i in range(8)]
    expected = [engine.run(x)["masks"].copy() for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = [out["masks"] for out in pool.map(engine.run, inputs)]
    for a, b in zip(expected, found):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(expected[0], expected[1])


def changed(contract, role, index, **changes):
    tensors = list(getattr(contract, role))
    tensors[index] = dataclasses.replace(tensors[index], **changes)
    return dataclasses.replace(contract, **{role: tuple(tensors)})


@pytest.mark.parametrize(
    ("role", "change", "match"),
    [
        ("inputs", {"name": "tokens"}, "its inputs are token, position"),
        ("inputs", {"dtype": "int64"}, "input token is int32 instead of int64"),
        ("inputs", {"shape": ("batch", 2)}, r"input token has the shape \['batch', 1\] instead of \['batch', 2\]"),
        ("inputs", {"shape": (1, 1)}, "input token has the shape"),
        ("outputs", {"shape": ("batch", 1, 511)}, "output logits has the shape"),
        ("outputs", {"shape": ("batch", 1)}, "output logits has the shape"),
    ],
)
def test_a_graph_that_differs_from_its_contract_is_refused(role, change, match):
    with pytest.raises(EngineError, match=match) as caught:
        load(contract=changed(CONTRACTS["text_decoder"], role, 0, **change))
    assert "text_decoder" in str(caught.value) and "mimo-export build" in str(caught.value)


def test_names_of_dynamic_axes_do_not_matter():
    base.check_contract(
        GraphContract("g", (Tensor("a", "float32", ("batch", 3)),), ()), [Tensor("a", "float32", ("N", 3))], []
    )


@pytest.mark.parametrize("data", [b"", b"not a model", b"\0" * 100], ids=["empty", "text", "zeros"])
def test_bytes_that_are_no_graph_are_refused_in_one_line(data):
    with pytest.raises(EngineError, match="cannot load graph fusion") as caught:
        create_engine("onnxruntime", data, CONTRACTS["fusion"], threads=1)
    assert "\n" not in str(caught.value)


def test_a_run_that_fails_names_the_graph():
    with pytest.raises(EngineError, match="failed in graph text_decoder"):
        load().run({**feed("text_decoder"), "token": np.zeros((1, 5), np.int32)})
    with pytest.raises(EngineError, match="failed in graph text_decoder"):
        load().run({"token": np.zeros((1, 1), np.int32)})


def test_unknown_engine_is_refused():
    with pytest.raises(EngineError, match="no engine 'npu'.*onnxruntime"):
        create_engine("npu", b"", CONTRACTS["fusion"])


def test_missing_engine_says_what_to_install(monkeypatch):
    monkeypatch.setattr(engines, "installed_version", lambda name: None)
    with pytest.raises(EngineError, match=r"onnxruntime is not installed. pip install 'mimo-edge\[cpu\]'"):
        create_engine("onnxruntime", b"", CONTRACTS["fusion"])
    assert "not installed" in engines.why_not("onnxruntime")


def test_broken_engine_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="onnxruntime does not load"):
        load()
    assert "does not load" in engines.why_not("onnxruntime")


def test_working_engine_has_no_complaint():
    assert engines.why_not("onnxruntime") is None
    assert engines.installed_version("onnxruntime")
