from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier

import fakes
import numpy as np
import pytest

from mimo_runtime import engines
from mimo_runtime.engines import base, create_engine
from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import GraphSpec, Tensor, graph_specs

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
CONTRACTS = graph_specs(fakes.CONFIG)
ENGINES = ["onnxruntime", "openvino"]


@pytest.fixture(params=ENGINES)
def kind(request):
    """The name of every engine that a machine without a GPU can have."""
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return request.param


def load(kind, name="text_decoder", spec=None, threads=1, **options):
    data = onnx_bundle.model_bytes(CONTRACTS[name], fakes.CONFIG)
    return create_engine(kind, data, spec or CONTRACTS[name], threads=threads, **options)


def feed(name, batch=1, past=2):
    rng = np.random.default_rng(0)
    return {t.name: rng.integers(0, 3, t.concrete(batch=batch, past=past)).astype(t.dtype) for t in CONTRACTS[name].inputs}


def same(found, expected, tolerance=1e-5):
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


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


def changed(spec, role, index, **changes):
    tensors = list(getattr(spec, role))
    tensors[index] = dataclasses.replace(tensors[index], **changes)
    return dataclasses.replace(spec, **{role: tuple(tensors)})


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


# -- whose memory it is ------------------------------------------------------------------------------------------------


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


# -- OpenVINO beside ONNX Runtime --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTRACTS)
def test_openvino_computes_what_onnxruntime_computes(name):
    pytest.importorskip("openvino")
    ort, openvino = load("onnxruntime", name), load("openvino", name)
    for batch, past in [(2, 0), (1, 3), (3, 1), (1, 0), (2, 20)]:
        inputs = feed(name, batch, past)
        same(openvino.run(inputs), ort.run(inputs))


def test_openvino_takes_integers_as_they_are():
    pytest.importorskip("openvino")
    ids = Tensor("ids", "int32", ("batch", 2))
    results = Tensor("real", "float32", ("batch", 2)), Tensor("row", "float32", ("batch", 2, 1))
    spec = GraphSpec("ids", (ids,), results)
    nodes = [("Cast", ["ids"], ["real"], {"to": 1}), ("Abs", ["ids"], ["place"]), ("Gather", ["table", "place"], ["row"])]
    data = graph(nodes, spec, {"table": np.arange(70000, dtype=np.float32)[:, None]})
    values = np.array([[69999, -65537], [0, -1]], np.int32)
    engine = create_engine("openvino", data, spec, threads=1)
    (requests,) = engine._pools.values()
    assert requests._compiled.inputs[0].element_type.get_type_name() == "i32"
    out = engine.run({"ids": values})
    np.testing.assert_array_equal(out["real"], values)
    np.testing.assert_array_equal(out["row"][..., 0], np.abs(values))


def test_openvino_runs_on_the_cpu_in_the_graphs_own_precision_and_pins_no_thread():
    pytest.importorskip("openvino")
    usable = getattr(os, "sched_getaffinity", lambda _: None)
    before = usable(0)
    engine = load("openvino", threads=1)
    engine.run(feed("text_decoder"))
    wanted = {
        "EXECUTION_DEVICES": ["CPU"],
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    (requests,) = engine._pools.values()
    compiled = requests._compiled
    assert {name: compiled.get_property(name) for name in wanted} == wanted
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert usable(0) == before


@pytest.mark.parametrize(
    ("property", "value", "match"),
    [("EXECUTION_DEVICES", ["GPU"], "on GPU in f32"), ("INFERENCE_PRECISION_HINT", "bf16", "on CPU in bf16")],
)
def test_openvino_elsewhere_or_in_another_precision_is_refused(property, value, match, monkeypatch):
    openvino = pytest.importorskip("openvino")
    real = openvino.CompiledModel.get_property
    changed = {property: openvino.Type.bf16 if value == "bf16" else value}
    monkeypatch.setattr(openvino.CompiledModel, "get_property", lambda self, name: changed.get(name) or real(self, name))
    with pytest.raises(EngineError, match=f"openvino runs graph fusion {match}. It must be CPU in f32"):
        load("openvino", "fusion")


def test_openvino_starts_no_telemetry():
    # Of its own, `import openvino` reports to its vendor's server. A fresh process, since this one may have imported it before.
    pytest.importorskip("openvino")
    script = (
        "import sys, importlib; importlib.import_module('mimo_runtime.engines.openvino').load_library().Core();"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


# -- a cache that is empty at first ------------------------------------------------------------------------------------

HEADS, HEAD, VOCABULARY, STEPS = 2, 8, 32, 40


def graph(nodes, spec=None, constants=None):
    """An ONNX file of nodes ``(operator, inputs, outputs[, attributes])``; without a specification, of one input ``x``."""
    from onnx import TensorProto, checker, helper, numpy_helper

    if spec is None:
        results = [out for _, _, outs, *_ in nodes for out in outs]
        spec = GraphSpec(
            "g", (Tensor("x", "float32", ("batch", 4)),), tuple(Tensor(name, "float32", ("batch", 4)) for name in results)
        )
    types = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    ports = [
        [helper.make_tensor_value_info(t.name, types[t.dtype], t.shape) for t in role] for role in (spec.inputs, spec.outputs)
    ]
    made = helper.make_graph(
        [helper.make_node(kind, ins, outs, **(rest[0] if rest else {})) for kind, ins, outs, *rest in nodes],
        spec.name,
        *ports,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _cache(name, length):
    return Tensor(name, "float32", ("batch", HEADS, length, HEAD))


DECODER = GraphSpec(
    "text_decoder",
    (Tensor("token", "int32", ("batch", 1)), _cache("past_keys", "past"), _cache("past_values", "past")),
    (Tensor("logits", "float32", ("batch", 1, VOCABULARY)), _cache("keys", "past_plus_one"), _cache("values", "past_plus_one")),
)


@lru_cache(maxsize=1)
def decoder_bytes():
    """One layer of attention with random weights: the smallest graph whose answers OpenVINO got wrong."""
    rng = np.random.default_rng(0)
    width = HEADS * HEAD
    constants = {
        "table": rng.standard_normal((VOCABULARY, width)).astype(np.float32),
        "out": rng.standard_normal((width, VOCABULARY)).astype(np.float32),
        "split": np.array([0, 1, HEADS, HEAD]),
        "merge": np.array([0, 1, width]),
        "scale": np.float32(HEAD**-0.5),
    }
    nodes = [("Gather", ["table", "token"], ["x"])]
    for name in ("query", "key", "value"):
        constants[f"to_{name}"] = (rng.standard_normal((width, width)) / width**0.5).astype(np.float32)
        nodes += [
            ("MatMul", ["x", f"to_{name}"], [f"{name}_flat"]),
            ("Reshape", [f"{name}_flat", "split"], [f"{name}_split"]),
            ("Transpose", [f"{name}_split"], [name], {"perm": [0, 2, 1, 3]}),
        ]
    nodes += [
        ("Concat", ["past_keys", "key"], ["keys"], {"axis": 2}),
        ("Concat", ["past_values", "value"], ["values"], {"axis": 2}),
        ("Transpose", ["keys"], ["keys_across"], {"perm": [0, 1, 3, 2]}),
        ("MatMul", ["query", "keys_across"], ["products"]),
        ("Mul", ["products", "scale"], ["scores"]),
        ("Softmax", ["scores"], ["weights"], {"axis": -1}),
        ("MatMul", ["weights", "values"], ["mixed"]),
        ("Transpose", ["mixed"], ["mixed_split"], {"perm": [0, 2, 1, 3]}),
        ("Reshape", ["mixed_split", "merge"], ["mixed_flat"]),
        ("MatMul", ["mixed_flat", "out"], ["logits"]),
    ]
    return graph(nodes, DECODER, constants)


def decoder(kind, **options):
    return create_engine(kind, decoder_bytes(), DECODER, threads=1, **options)


def step(past, seed=0, batch=1):
    """Random inputs of one step of the decoder."""
    rng = np.random.default_rng(seed)
    keys, values = rng.standard_normal((2, batch, HEADS, past, HEAD)).astype(np.float32)
    token = rng.integers(0, VOCABULARY, (batch, 1)).astype(np.int32)
    return {"token": token, "past_keys": keys.copy(), "past_values": values.copy()}


def answer(run, begin, batch=1, steps=STEPS):
    """Yield the logits of every step of a greedy answer that starts with an empty cache."""
    token = np.full((batch, 1), begin, np.int32)
    keys = values = np.zeros((batch, HEADS, 0, HEAD), np.float32)
    for _ in range(steps):
        out = run({"token": token, "past_keys": keys, "past_values": values})
        keys, values, token = out["keys"], out["values"], out["logits"].argmax(-1).astype(np.int32)
        yield out["logits"]


def agree(run, begin, batch=1):
    expected = list(answer(decoder("onnxruntime").run, begin, batch))
    for k, (a, b) in enumerate(zip(answer(run, begin, batch), expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=f"step {k}")


@pytest.mark.parametrize("batch", [1, 3])
def test_every_step_of_an_answer_is_right_in_the_first_and_later_answers(kind, batch):
    engine = decoder(kind)
    for begin in range(4):
        agree(engine.run, begin, batch)
    agree(engine.run, 1, 4 - batch)
    agree(decoder(kind).run, 0)  # nothing is shared with an engine that is new


def test_lengths_and_batches_in_any_order(kind):
    engine, reference = decoder(kind), decoder("onnxruntime")
    rng = np.random.default_rng(0)
    for seed in range(60):
        inputs = step(int(rng.choice([0, 0, 1, 2, 14, 15, 16, 17, 31, 32, 33, 64])), seed, int(rng.integers(1, 4)))
        same(engine.run(inputs), reference.run(inputs), tolerance=1e-4)


def test_answers_that_are_interleaved(kind):
    engine = decoder(kind)
    expected = [list(answer(decoder("onnxruntime").run, begin)) for begin in range(3)]
    found = zip(*(answer(engine.run, begin) for begin in range(3)))
    for k, logits in enumerate(found):
        for begin in range(3):
            np.testing.assert_allclose(logits[begin], expected[begin][k], rtol=1e-4, atol=1e-4, err_msg=f"step {k}")


def test_answers_of_several_threads_at_once(kind):
    engine, together = decoder(kind), Barrier(3)
    expected = [list(answer(decoder("onnxruntime").run, begin)) for begin in range(3)]

    def one(begin):
        together.wait(60)
        return [list(answer(engine.run, begin)) for _ in range(5)]

    with ThreadPoolExecutor(3) as pool:
        for begin, answers in enumerate(pool.map(one, range(3))):
            for found in answers:
                np.testing.assert_allclose(found, expected[begin], rtol=1e-4, atol=1e-4)


def test_a_decoding_is_the_same_answer(kind):
    """Several answers at once, each with a cache that the engine keeps."""
    engine = decoder(kind)
    expected = [list(answer(decoder("onnxruntime").run, begin)) for begin in range(3)]
    for _ in range(2):
        decodings, tokens = [engine.decoding({}) for _ in range(3)], [np.full((1, 1), begin, np.int32) for begin in range(3)]
        for k in range(STEPS):
            for begin, decoding in enumerate(decodings):
                out = decoding.step({"token": tokens[begin]})
                assert set(out) == {"logits"}
                np.testing.assert_allclose(out["logits"], expected[begin][k], rtol=1e-4, atol=1e-4, err_msg=f"step {k}")
                tokens[begin] = out["logits"].argmax(-1).astype(np.int32)
        for decoding in decodings:
            decoding.close()


def test_decodings_of_several_threads_at_once(kind):
    engine, together = decoder(kind), Barrier(3)
    expected = [list(answer(decoder("onnxruntime").run, begin)) for begin in range(3)]

    def one(begin):
        together.wait(60)
        decoding, token, found = engine.decoding({}), np.full((1, 1), begin, np.int32), []
        for _ in range(STEPS):
            found.append(decoding.step({"token": token})["logits"])
            token = found[-1].argmax(-1).astype(np.int32)
        decoding.close()
        return found

    with ThreadPoolExecutor(3) as pool:
        for found, wanted in zip(pool.map(one, range(3)), expected):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_step_that_fails_names_the_graph_and_harms_no_later_one(kind):
    engine = decoder(kind)
    decoding = engine.decoding({})
    expected = list(answer(decoder("onnxruntime").run, 1))
    first = decoding.step({"token": np.full((1, 1), 1, np.int32)})["logits"]
    np.testing.assert_allclose(first, expected[0], rtol=1e-4, atol=1e-4)
    for wrong in (np.zeros((1, 2), np.int32), np.zeros((1, 1), np.int64)):
        with pytest.raises(EngineError, match=f"{kind} failed in graph text_decoder: "):
            decoding.step({"token": wrong})
    second = decoding.step({"token": first.argmax(-1).astype(np.int32)})["logits"]
    np.testing.assert_allclose(second, expected[1], rtol=1e-4, atol=1e-4)
    engine.close()
    with pytest.raises(EngineError, match=f"{kind} failed in graph text_decoder: "):
        decoding.step({"token": first.argmax(-1).astype(np.int32)})
    decoding.close()


def test_logits_of_a_step_belong_to_the_caller(kind):
    decoding = decoder(kind).decoding({})
    first = decoding.step({"token": np.full((1, 1), 1, np.int32)})["logits"]
    kept = first.copy()
    decoding.step({"token": np.full((1, 1), 2, np.int32)})
    np.testing.assert_array_equal(first, kept)
    first[...] = np.nan
    decoding.close()


def test_an_openvino_that_an_empty_cache_breaks_is_refused(monkeypatch):
    pytest.importorskip("openvino")
    from mimo_runtime.engines.openvino import OpenVinoEngine

    real, seen = OpenVinoEngine.run, []

    def broken(self, inputs):
        out = real(self, inputs)
        seen.append(inputs["past_keys"].shape[2])
        return {**out, "logits": out["logits"] + (0 in seen)}

    monkeypatch.setattr(OpenVinoEngine, "run", broken)
    with pytest.raises(EngineError, match="graph text_decoder wrongly once its cache was empty: logits changes"):
        decoder("openvino")
    assert seen[0] > 16 and seen[1:] == [0, seen[0]]


def test_bytes_are_multiplied_without_saturation_on_every_cpu():
    onnxruntime = pytest.importorskip("onnxruntime")
    from mimo_runtime.engines.ort import session_options

    options = session_options(onnxruntime, threads=1, spinning=False)
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
