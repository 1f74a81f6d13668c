"""TensorRT and TensorRT for RTX: contexts, plans, releases and caches."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import fakes
import gpu_fakes
import numpy as np
import pytest
from gpu_cases import CONTRACTS, DECODER, compute, feed, graph_bytes, same, trt
from gpu_fakes import FakeTensorRt

from mimo_runtime import engines
from mimo_runtime.compiler import Facts, Options, build_engine
from mimo_runtime.engines import create_engine, tensorrt_library
from mimo_runtime.engines.tensorrt import TensorRtEngine, TensorRtRtxEngine
from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import static_cache_spec
from mimo_runtime.text.generation import TextDecoder

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


@pytest.mark.parametrize("release", gpu_fakes.INVENTORY)
def test_tensorrt_touches_nothing_that_a_release_lacks(gpu, release):
    fake = trt(gpu, release)
    engine = TensorRtEngine(b"a plan", DECODER, trt=fake, built_with=release)
    for seed, (batch, past) in enumerate([(1, 0), (2, 5), (4, 40), (4, 0), (1, 1)]):
        inputs = feed(DECODER, batch, past, seed)
        same(engine.run(inputs), compute(inputs))
    engine.close()
    assert fake.wrong_calls() == []
    (runtime,) = fake.of("Runtime")
    runtime.deserialize_cuda_engine.assert_called_once_with(b"a plan")


IN_PLACE = static_cache_spec(fakes.CONFIG, "float16")


CACHES = [tensor.name for tensor in IN_PLACE.outputs[1:]]


def step_in_place(inputs):
    """A text decoder in numpy that writes its token into a cache of a fixed size; the logits tell what lies in it so far."""
    position = int(inputs["position"][0, 0])
    out = {name: inputs[f"past_{name}"].copy() for name in CACHES}
    for cache in out.values():
        cache[:, :, position] = inputs["token"][0, 0]
    logits = np.zeros((1, 1, fakes.CONFIG.vocab_size), np.float32)
    logits[0, 0, : position + 1] = out["values_0"][0, 0, : position + 1, 0]
    return {"logits": logits, **out}


def in_place_engine(gpu, release="10.16.1.11"):
    fake = FakeTensorRt(gpu, release, IN_PLACE, step_in_place)
    fake.profiles, fake.aliases = [{"batch": (1, 4)}], {name: f"past_{name}" for name in CACHES}
    return TensorRtEngine(b"a plan", IN_PLACE, trt=fake), fake


def decoders(engine, count=1):
    memory = {name: np.ones(engine.inputs[name].concrete(batch=1), np.float32)
              for name in ("cross_keys", "cross_values", "memory_valid")}  # fmt: skip
    for value in memory.values():
        value.setflags(write=False)
    return [TextDecoder(engine, fakes.CONFIG, memory, fakes.CONFIG.vocab_size, ()) for _ in range(count)]


def test_a_cache_is_updated_where_it_is_and_copied_there_once(gpu):
    engine, fake = in_place_engine(gpu)
    (decoder,) = decoders(engine)
    for position, token in enumerate((7, 9, 4, 8)):
        before = len(gpu.uploads)
        logits = decoder.step(token)
        assert logits[: position + 1].tolist() == [7, 9, 4, 8][: position + 1]
        assert position == 0 or gpu.uploads[before:] == [4, 4]  # token and position
    engine.close()
    assert fake.wrong_calls() == []


def test_answers_that_take_turns_have_a_cache_each(gpu):
    engine, _ = in_place_engine(gpu)
    both = decoders(engine, 2)
    for position, tokens in enumerate(((7, 1), (9, 2), (4, 3))):
        logits = [decoder.step(token) for decoder, token in zip(both, tokens)]
        assert [row[position] for row in logits] == list(tokens)
    assert [row[:3].tolist() for row in logits] == [[7, 9, 4], [1, 2, 3]]
    engine.close()


def test_tensorrt_has_a_context_for_each_profile_and_takes_the_first_that_fits(gpu):
    fake = trt(gpu)
    engine = TensorRtEngine(b"", DECODER, trt=fake)
    contexts = fake.of("IExecutionContext")
    assert [c.set_optimization_profile_async.call_args.args[0] for c in contexts] == [0, 1]
    for past in (0, 1, 0, 40, 2):
        engine.run(feed(DECODER, past=past))
    assert [c.execute_async_v3.call_count for c in contexts] == [2, 3]
    engine.close()


def test_sizes_outside_of_every_profile_are_reported_with_the_ranges(gpu):
    engine = TensorRtEngine(b"", DECODER, trt=trt(gpu))
    with pytest.raises(EngineError, match=r"token of \[5, 1\] is outside .* \[1, 1\] to \[4, 1\]"):
        engine.run(feed(DECODER, batch=5))
    with pytest.raises(EngineError, match=r"past_keys of .*41.* is outside of what the plan was compiled for") as caught:
        engine.run(feed(DECODER, past=41))
    assert "larger ranges" in caught.value.remedy
    engine.close()


def test_a_plan_of_another_release_is_refused_before_it_is_read(gpu):
    fake = trt(gpu, "10.16.1.11")
    message = "compiled by TensorRT 10.3.0, this machine has 10.16.1.11. Build the bundle again.*or install TensorRT 10.3.0"
    with pytest.raises(EngineError, match=message):
        TensorRtEngine(b"", DECODER, trt=fake, built_with="10.3.0")
    with pytest.raises(EngineError, match="this machine has 10.16.1.11"):
        TensorRtEngine(b"", DECODER, trt=fake, built_with="10.16.1.12")
    assert fake.made == []
    for same_release in ("10.16.1.11", "10.16.1", None):
        TensorRtEngine(b"", DECODER, trt=fake, built_with=same_release).close()


def test_create_engine_hands_on_what_compiled_the_plan(monkeypatch, gpu):
    monkeypatch.setattr(engines, "installed_version", lambda name: "10.3.0")
    monkeypatch.setitem(sys.modules, "tensorrt", trt(gpu))
    with pytest.raises(EngineError, match="graph text_decoder was compiled by TensorRT 10.9, this machine has 10.3.0"):
        create_engine("tensorrt", b"", DECODER, built_with="10.9")
    engine = create_engine("tensorrt", b"", DECODER, built_with="10.3.0")
    assert type(engine) is TensorRtEngine and engine.name == "tensorrt"
    engine.close()


def test_a_plan_that_is_not_taken_is_reported_with_the_librarys_last_error(gpu):
    fake = trt(gpu)
    fake.deserializes = False
    with pytest.raises(
        EngineError, match="tensorrt cannot load graph text_decoder: Version tag does not match. Build"
    ) as caught:
        TensorRtEngine(b"", DECODER, trt=fake)
    assert "\n" not in str(caught.value)
    fake.deserializes, fake.prepares = True, False
    with pytest.raises(EngineError, match="cannot prepare graph text_decoder"):
        TensorRtEngine(b"", DECODER, trt=fake)


def changed(tensors, which, change):
    made = [dict(zip(("name", "is_input", "dtype", "shape"), t)) for t in tensors]
    return [tuple({**t, **(change if t["name"] == which else {})}.values()) for t in made]


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("token", {"dtype": "INT64"}, "input token is int64 instead of int32"),
        ("token", {"shape": (1, 1)}, "input token has the shape"),
        ("token", {"name": "tokens"}, "its inputs are token, position.*tokens instead of"),
        ("keys", {"dtype": "BF16"}, "output keys is bf16 instead of float32"),
        ("logits", {"shape": (-1, 1, 7)}, "output logits has the shape"),
        ("logits", {"name": "scores"}, "its outputs are keys, values, scores instead of"),
    ],
)
def test_a_plan_that_differs_from_its_spec_is_refused(gpu, name, change, match):
    fake = trt(gpu)
    fake.tensors = changed(fake.tensors, name, change)
    with pytest.raises(EngineError, match=f"text_decoder does not fit its specification: {match}"):
        TensorRtEngine(b"", DECODER, trt=fake)


def test_an_input_that_the_plan_does_not_read_may_be_missing_in_it(gpu):
    fake = trt(gpu)
    fake.tensors = [t for t in fake.tensors if t[0] != "cross_values"]
    engine = TensorRtEngine(b"", DECODER, trt=fake)
    inputs = feed(DECODER, past=1)
    same(engine.run(inputs), compute(inputs))
    bound = {call.args[0] for call in fake.of("IExecutionContext")[1].set_tensor_address.call_args_list}
    assert bound == {t.name for t in (*DECODER.inputs, *DECODER.outputs)} - {"cross_values"}
    engine.close()


def test_an_output_that_does_not_fit_is_found_before_anything_is_written(gpu):
    fake = trt(gpu)
    engine = TensorRtEngine(b"", DECODER, trt=fake)
    for context in fake.of("IExecutionContext"):
        context.get_tensor_shape.side_effect = lambda name: (9, 9)
    with pytest.raises(EngineError, match=r"it gives logits of \[9, 9\] instead of \[1, 1, "):
        engine.run(feed(DECODER))
    assert not any(context.execute_async_v3.called for context in fake.of("IExecutionContext"))
    engine.close()


def test_a_run_that_fails_is_reported_with_the_librarys_last_error(gpu):
    fake = trt(gpu)
    engine = TensorRtEngine(b"", DECODER, trt=fake)
    fake.executes = False
    with pytest.raises(EngineError, match="tensorrt failed in graph text_decoder: it does not run: illegal memory access"):
        engine.run(feed(DECODER))
    fake.executes = True
    same(engine.run(feed(DECODER)), compute(feed(DECODER)))
    for method, message in (
        ("set_input_shape", r"it refuses token of \[1, 1\]"),
        ("set_tensor_address", "it refuses the memory of token"),
    ):
        for context in fake.of("IExecutionContext"):
            getattr(context, method).side_effect = lambda *args: False
        with pytest.raises(EngineError, match=message):
            engine.run(feed(DECODER))
        for context in fake.of("IExecutionContext"):
            context.set_input_shape.side_effect = lambda *args: True
    engine.close()


@pytest.mark.parametrize("version", ["8.6.1", "12.0", ""])
def test_releases_that_are_not_known_are_not_tried(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
    message = rf"TensorRT {version} is installed; this program knows 10.3 to 11.x" if version else "without its bindings"
    with pytest.raises(EngineError, match=message):
        TensorRtEngine(b"", DECODER)


def test_a_broken_tensorrt_is_an_engine_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="TensorRT is not installed for this Python"):
        TensorRtEngine(b"", DECODER)


def test_tensorrt_on_a_jetson_comes_with_jetpack(monkeypatch):
    assert engines.KINDS["tensorrt"].install == "pip install 'mimo-edge[tensorrt]'"
    monkeypatch.setattr(engines, "architecture", lambda: "aarch64")
    assert "JetPack" in engines.KINDS["tensorrt"].install and "--system-site-packages" in engines.KINDS["tensorrt"].install


def test_tensorrt_rtx_without_its_libraries_says_which(monkeypatch):
    tensorrt_library.load_rtx_library.cache_clear()
    monkeypatch.setattr(tensorrt_library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        EngineError, match=r"package onnxruntime_ep_nv_tensorrt_rtx is not installed.*mimo-edge\[tensorrt-rtx\]"
    ):
        tensorrt_library.load_rtx_library()


@pytest.mark.rtx
def test_the_real_tensorrt_rtx_reads_the_plan_and_says_what_it_lacks(gpu):
    """Without a GPU, it loads, looks at the plan, and refuses in its own words; nothing is left behind."""
    if tensorrt_library.missing_rtx_package():
        pytest.skip("the extra tensorrt-rtx is not installed")
    from mimo_runtime.hardware.nvidia import find_gpus

    if find_gpus().usable:
        pytest.skip("there is a GPU here")
    spec = CONTRACTS["vision_encoder"]
    options = Options({"batch": (1, 1, 2)}, split_past=False)
    plan = build_engine(graph_bytes("vision_encoder"), spec, options, Facts({"fp32": 1}), api="tensorrt-rtx").plan
    tensorrt_library.load_rtx_library.cache_clear()
    version = str(tensorrt_library.load_rtx_library().__version__)
    with pytest.raises(EngineError, match="tensorrt-rtx cannot load graph vision_encoder: .*CUDA") as caught:
        TensorRtRtxEngine(plan, spec, built_with=version)
    assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match=f"compiled by TensorRT-RTX 1.0.0, this machine has {version}"):
        TensorRtRtxEngine(plan, spec, built_with="1.0.0")
