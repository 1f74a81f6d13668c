"""The engines for NVIDIA GPUs, without one: against ``gpu_fakes``, and against the real libraries as far as they go here."""

from __future__ import annotations

import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import fakes
import gpu_fakes
import numpy as np
import pytest
from gpu_fakes import CPU, CUDA, FakeDriver, FakeOnnxRuntime, FakeTensorRt

from mimo_runtime import engines
from mimo_runtime.compiler import Facts, Options, build_engine
from mimo_runtime.engines import base, create_engine, cuda, ort_cuda, tensorrt_library
from mimo_runtime.engines.tensorrt import TensorRtEngine, TensorRtRtxEngine
from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import GraphSpec, Tensor, graph_specs, static_cache_spec
from mimo_runtime.text.generation import TextDecoder

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
CONTRACTS = graph_specs(fakes.CONFIG)
DECODER = CONTRACTS["text_decoder"]


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that must be left as it was found: no memory, no stream, no context, and nothing done wrong in between."""
    fake = FakeDriver()
    monkeypatch.setattr(cuda, "driver", lambda: cuda.Cuda(fake))
    yield fake
    assert (fake.problems, fake.memory, fake.streams, getattr(fake.contexts, "stack", [])) == ([], {}, {}, [])


def graph_bytes(name):
    return onnx_bundle.model_bytes(CONTRACTS[name], fakes.CONFIG)


def feed(spec, batch=1, past=2, seed=0):
    """Inputs with another value in every place, such that a step reads past and position, too."""
    rng = np.random.default_rng(seed)
    shapes = {t: t.concrete(batch=batch, past=past) for t in spec.inputs}
    return {t.name: rng.integers(0, 3, shape).astype(t.dtype) for t, shape in shapes.items()}


def same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


# -- the GPU itself ----------------------------------------------------------------------------------------------------


def test_without_a_driver_it_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-that-is-not-there.so.1")
    cuda.driver.cache_clear()
    with pytest.raises(EngineError, match="no NVIDIA driver here: libcuda-that.*does not load.*--gpus all"):
        cuda.driver()


def test_without_a_gpu_the_drivers_own_words_are_told():
    fake = FakeDriver()
    fake.fails["cuInit"] = 100
    with pytest.raises(EngineError, match=r"no CUDA-capable device is detected \(cuInit, CUDA error 100\)"):
        cuda.Cuda(fake)


def test_a_driver_that_lacks_a_function_is_too_old():
    with pytest.raises(EngineError, match="driver is too old.*cuInit"):
        cuda.Cuda(SimpleNamespace())


def test_what_a_graph_changes_in_its_place_is_copied_again_unless_it_comes_from_there(gpu):
    device = cuda.driver()
    with device.current():
        memory = cuda.Memory(device)
        first = np.arange(8, dtype=np.float32)
        first.setflags(write=False)

        def copies(array):
            before = len(gpu.uploads)
            memory.put("cache", array, changes=True)
            found = memory.get("cache", (8,), "float32", keep=True)
            memory.wait()
            return len(gpu.uploads) - before, found

        count, second = copies(first)
        assert count == 1 and not second.flags.writeable and second.base is None
        assert copies(first)[0] == 1  # what came back since then is not this one
        _, third = copies(second)
        assert copies(third)[0] == 0
        memory.close()


def test_memory_is_used_again_grows_and_is_given_back(gpu):
    device = cuda.driver()
    with device.current():
        memory = cuda.Memory(device)
        first = memory.reserve("x", 1000)
        assert memory.reserve("x", 10) == memory.reserve("x", 1000) == first
        assert memory.reserve("y", 0) != first  # an empty tensor has an address, too
        memory.reserve("x", 1001)
        assert sorted(map(len, gpu.memory.values())) == [256, 2000]
        array = np.arange(12, dtype=np.float32).reshape(3, 4)
        memory.put("x", array)
        found = memory.get("x", (3, 4), "float32")
        memory.wait()
        np.testing.assert_array_equal(found, array)
        memory.close()
        memory.close()


def test_running_out_of_memory_says_so(gpu):
    device = cuda.driver()
    with device.current():
        memory = cuda.Memory(device)
        gpu.fails["cuMemAlloc_v2"] = 2
        with pytest.raises(EngineError, match=r"out of memory \(cuMemAlloc_v2, CUDA error 2\). Close other programs"):
            memory.reserve("x", 1)
        memory.close()


def test_only_an_array_that_cannot_change_is_copied_once(gpu):
    device = cuda.driver()
    with device.current():
        memory = cuda.Memory(device)

        def copies(array):
            before = len(gpu.uploads)
            memory.put("x", array)
            memory.wait()
            return len(gpu.uploads) - before

        frozen, open_ = np.ones(8, np.float32), np.ones(8, np.float32)
        frozen.setflags(write=False)
        view = open_[:]
        view.setflags(write=False)  # its memory can still be written through the other one
        assert [copies(frozen), copies(frozen), copies(frozen)] == [1, 0, 0]
        assert [copies(open_), copies(open_), copies(view), copies(view)] == [1, 1, 1, 1]
        assert [copies(frozen), copies(frozen)] == [1, 0]  # the others were in its place
        other = frozen.copy()
        other.setflags(write=False)
        assert [copies(other), copies(other), copies(frozen)] == [1, 0, 1]
        memory.reserve("x", 4096)  # moves it
        assert copies(frozen) == 1
        memory.close()


def test_inputs_are_compared_with_each_other_too():
    tensors = {t.name: t for t in (Tensor("a", "int32", ("batch", 2)), Tensor("b", "int32", ("batch", "past")))}
    a, b = np.zeros((3, 2), np.int32), np.zeros((3, 5), np.int32)
    assert base.check_inputs(tensors, {"b": b, "a": a})[1] == {"batch": 3, "past": 5}
    with pytest.raises(ValueError, match=r"input b is int32 \[4, 5\] instead of int32 \['batch', 'past'\] \(batch is 3"):
        base.check_inputs(tensors, {"a": a, "b": np.zeros((4, 5), np.int32)})


# -- ONNX Runtime's CUDA provider ----------------------------------------------------------------------------------------


@pytest.fixture
def ort(gpu, monkeypatch):
    fake = FakeOnnxRuntime(gpu)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return fake


def ort_engine(name="text_decoder", spec=None, **options):
    return ort_cuda.OrtCudaEngine(graph_bytes(name), spec or CONTRACTS[name], **options)


def reference(name, inputs):
    import onnxruntime

    real = getattr(onnxruntime, "real", onnxruntime)
    session = real.InferenceSession(graph_bytes(name), providers=[CPU])
    names = [t.name for t in CONTRACTS[name].outputs]
    return dict(zip(names, session.run(names, inputs)))


@pytest.mark.parametrize("name", CONTRACTS)
def test_ort_computes_what_the_cpu_computes_at_any_size_in_any_order(ort, name):
    engine = ort_engine(name)
    assert engine.not_replayed == ""
    for seed, (batch, past) in enumerate([(1, 0), (3, 2), (1, 3), (1, 20), (2, 0), (1, 3), (4, 40), (1, 1)]):
        inputs = feed(CONTRACTS[name], batch, past, seed)
        before = {name: value.copy() for name, value in inputs.items()}
        same(engine.run(inputs), reference(name, inputs))
        same(inputs, before)
    engine.close()


def test_ort_replays_the_graph_where_all_shapes_are_known_and_only_there(ort):
    vision, decoder = ort_engine("vision_encoder"), ort_engine()
    assert [s.settings["enable_cuda_graph"] for s in ort.sessions] == ["1", "0"]
    assert all(s.settings["use_tf32"] == "0" for s in ort.sessions)
    assert ort.sessions[0].runs == ["-1", "1", "1"]  # the proof: another input, a first replay, and the other input again
    for batch in (1, 2, 1):
        vision.run(feed(CONTRACTS["vision_encoder"], batch))
    assert ort.sessions[0].runs[3:] == ["1", "-1", "1"]
    decoder.run(feed(DECODER))
    assert ort.sessions[1].runs == ["-1"]
    vision.close()
    decoder.close()


def test_ort_whose_replay_ignores_new_inputs_does_not_replay(ort):
    ort.replays = False
    engine = ort_engine("prompt_encoder")
    assert engine.not_replayed == "the replay gives another result than the graph itself"
    assert [s.settings["enable_cuda_graph"] for s in ort.sessions] == ["1", "0"]
    for seed in range(3):
        inputs = feed(CONTRACTS["prompt_encoder"], seed=seed)
        same(engine.run(inputs), reference("prompt_encoder", inputs))
    assert ort.sessions[1].runs == ["-1"] * 3
    engine.close()


def test_ort_that_cannot_capture_a_graph_runs_it_without(ort):
    ort.captures = False
    engine = ort_engine("mask_decoder")
    assert engine.not_replayed == "This session cannot use the graph capture feature as requested by the user"
    inputs = feed(CONTRACTS["mask_decoder"])
    same(engine.run(inputs), reference("mask_decoder", inputs))
    engine.close()


@pytest.mark.parametrize("gives", [[CPU], [CPU, CUDA], []])
def test_ort_that_would_silently_run_elsewhere_is_refused(ort, gives):
    ort.gives = gives
    with pytest.raises(EngineError, match=f"would run graph fusion on .* instead of {CUDA}: .*providers_shared") as caught:
        ort_engine("fusion")
    assert "onnxruntime-gpu[cuda,cudnn]" in caught.value.remedy and "\n" not in str(caught.value)
    # The default logger is silent only while a session is made.
    assert ort.severities[::2] == [4] * (len(ort.severities) // 2) and set(ort.severities[1::2]) == {2}


def test_ort_that_would_run_products_on_the_cpu_is_refused(ort):
    ort.on_cpu = [("Shape", "s"), ("MatMulNBits", "layer.3"), ("FusedConv", "c")]
    with pytest.raises(EngineError, match="run 2 operators of graph fusion on the CPU, first MatMulNBits layer.3"):
        ort_engine("fusion")
    ort.on_cpu = [("Shape", "s"), ("Gather", "g")]  # sizes belong there
    ort_engine("fusion").close()


def test_the_real_onnxruntime_tells_where_its_operators_run():
    import onnxruntime
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy")
    nodes = [helper.make_node("MatMul", ["x", "x"], ["p"], name="product"), helper.make_node("Sin", ["p"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(data, options, providers=[CPU])
    known = hasattr(session, "get_provider_graph_assignment_info")
    assert ort_cuda.on_the_cpu(session) == (["MatMul product"] if known else [])


def test_ort_without_a_cuda_provider_says_how_to_change_wheels(ort):
    ort.lists = [CPU]
    with pytest.raises(
        EngineError, match="no CUDA provider: it is the wheel for CPUs.*pip uninstall onnxruntime onnxruntime-gpu"
    ):
        ort_engine()


def test_loading_ort_prints_nothing(ort, capsys):
    ort_cuda.load_library()
    assert capsys.readouterr() == ("", "")


def test_the_real_cpu_wheel_is_refused(monkeypatch):
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("the GPU wheel is installed")
    with pytest.raises(
        EngineError, match="onnxruntime-cuda is not installed. pip uninstall onnxruntime onnxruntime-gpu, then pip"
    ):
        create_engine("onnxruntime-cuda", b"", DECODER)
    # As if both wheels were installed, and the one for CPUs last.
    monkeypatch.setattr(engines, "installed_version", lambda name: "1.31.1")
    with pytest.raises(EngineError, match=rf"onnxruntime {onnxruntime.__version__} has no CUDA provider"):
        create_engine("onnxruntime-cuda", b"", DECODER)
    assert "no CUDA provider" in engines.why_not("onnxruntime-cuda")


def test_a_provider_that_does_not_load_is_told_by_its_missing_library(ort, monkeypatch):
    done = SimpleNamespace(returncode=0, stdout="libcudnn.so.9: cannot open shared object file", stderr="")
    monkeypatch.setattr(ort_cuda.subprocess, "run", lambda *args, **options: done)
    monkeypatch.setattr(engines, "installed_version", lambda name: "1.31.1")
    assert engines.obstacle("onnxruntime-cuda") == (
        "installed, but the CUDA provider does not load: libcudnn.so.9: cannot open shared object file", ort_cuda.LIBRARIES
    )  # fmt: skip
    done.stdout = ""
    assert engines.obstacle("onnxruntime-cuda") is None
    done.returncode, done.stderr = -11, ""
    assert "exit code -11" in engines.why_not("onnxruntime-cuda")


def test_ort_refuses_bytes_that_are_no_graph_and_another_spec(ort):
    with pytest.raises(EngineError, match="onnxruntime-cuda cannot load graph text_decoder"):
        ort_cuda.OrtCudaEngine(b"no graph", DECODER)
    with pytest.raises(EngineError, match="text_decoder does not fit its specification: its inputs are"):
        ort_engine(spec=dataclasses.replace(DECODER, inputs=DECODER.inputs[1:]))


def test_ort_takes_slices_of_an_input_from_one_buffer(ort):
    from onnx import TensorProto, helper

    slices = [helper.make_tensor_value_info(f"keys.{k}", TensorProto.FLOAT, ["batch", "past"]) for k in range(3)]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "past"])
    nodes = [helper.make_node("Sub", ["keys.0", "keys.2"], ["d"]), helper.make_node("Mul", ["d", "keys.1"], ["y"])]
    graph = helper.make_graph(nodes, "g", slices, [y])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    spec = GraphSpec("g", (Tensor("keys", "float32", (3, "batch", "past")),), (Tensor("y", "float32", ("batch", "past")),))
    engine = ort_cuda.OrtCudaEngine(data, spec)
    keys = np.random.default_rng(0).random((3, 2, 5), np.float32)
    before = len(ort.driver.uploads)
    np.testing.assert_allclose(engine.run({"keys": keys})["y"], (keys[0] - keys[2]) * keys[1])
    assert ort.driver.uploads[before:] == [keys.nbytes]
    engine.close()


# -- what both have in common ------------------------------------------------------------------------------------------


def compute(inputs):
    """A text decoder in numpy: the cache grows by the token, and the logits tell everything that was read."""
    token, position, past = inputs["token"], inputs["position"], inputs["past_keys"]
    batch = len(token)
    logits = np.zeros((batch, 1, fakes.CONFIG.vocab_size), np.float32)
    logits[:, 0, 0], logits[:, 0, 1], logits[:, 0, 2] = token[:, 0], position[:, 0], past.sum((0, 2, 3, 4))
    logits[:, 0, 3] = inputs["cross_keys"].sum((0, 2, 3, 4)) + inputs["memory_valid"].sum(1)
    new = np.broadcast_to(token[None, :, None, None].astype(np.float32), (*past.shape[:3], 1, past.shape[4]))
    keys, values = (np.concatenate([inputs[name], new], 3) for name in ("past_keys", "past_values"))
    return {"logits": logits, "keys": keys, "values": values}


def trt(gpu, release="10.3.0"):
    return FakeTensorRt(gpu, release, DECODER, compute)


@pytest.fixture(params=["onnxruntime-cuda", "tensorrt"])
def decoder(request, gpu, monkeypatch):
    """A text decoder on the GPU, and what it computes."""
    if request.param == "tensorrt":
        engine, expected = TensorRtEngine(b"a plan", DECODER, trt=trt(gpu)), compute
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", FakeOnnxRuntime(gpu))
        engine, expected = ort_engine(), lambda inputs: reference("text_decoder", inputs)
    yield engine, expected
    engine.close()


def test_an_answer_token_by_token(decoder):
    engine, expected = decoder
    for _ in range(2):
        inputs = feed(DECODER, past=0)
        for position in range(12):
            inputs["position"][:] = position
            out = engine.run(inputs)
            same(out, expected(inputs))
            assert out["keys"].shape[3] == position + 1
            inputs = {**inputs, "past_keys": out["keys"], "past_values": out["values"], "token": inputs["token"] + 1}


def test_outputs_belong_to_the_caller(decoder):
    engine, expected = decoder
    inputs = feed(DECODER)
    first = engine.run(inputs)
    kept = {name: value.copy() for name, value in first.items()}
    for seed in range(3):
        engine.run(feed(DECODER, past=9, seed=seed))
    same(first, kept)
    for value in first.values():
        assert value.flags.writeable and value.flags.c_contiguous and value.base is None
        value[...] = np.nan
    same(engine.run(inputs), expected(inputs))


def test_what_the_caller_changes_between_runs_is_read_again(decoder):
    engine, expected = decoder
    inputs = feed(DECODER)
    for value in range(3):
        inputs["token"][:] = inputs["position"][:] = value
        inputs["past_keys"][:] = value
        same(engine.run(inputs), expected(inputs))


def test_inputs_may_be_read_only_or_strided(decoder):
    engine, expected = decoder
    inputs = feed(DECODER)
    strided = {name: np.repeat(value, 2, axis=-1)[..., ::2] for name, value in inputs.items()}
    same(engine.run(strided), expected(inputs))
    for value in inputs.values():
        value.setflags(write=False)
    for _ in range(2):
        same(engine.run(inputs), expected(inputs))


def test_constant_inputs_stay_on_the_gpu(decoder, gpu):
    engine, expected = decoder
    inputs = feed(DECODER)
    for name in ("cross_keys", "cross_values", "memory_valid"):
        inputs[name].setflags(write=False)
    engine.run(inputs)
    before = len(gpu.uploads)
    same(engine.run(inputs), expected(inputs))
    assert sum(gpu.uploads[before:]) == sum(inputs[n].nbytes for n in ("token", "position", "past_keys", "past_values"))


def test_several_threads_at_once(decoder):
    engine, expected = decoder
    inputs = [feed(DECODER, past=past, seed=past) for past in (1, 30, 2, 17) * 3]
    with ThreadPoolExecutor(4) as pool:
        for given, found in zip(inputs, pool.map(engine.run, inputs)):
            same(found, expected(given))


@pytest.mark.parametrize(
    "change",
    [
        {"token": np.zeros((1, 5), np.int32)},
        {"token": np.zeros((1, 1), np.int64)},
        {"token": np.zeros((2, 1), np.int32)},
        {"token": None},
        {"tokens": np.zeros((1, 1), np.int32)},
    ],
    ids=["shape", "dtype", "another batch", "missing", "unknown"],
)
def test_wrong_inputs_name_the_graph_and_harm_no_later_run(decoder, change):
    engine, expected = decoder
    right = feed(DECODER)
    wrong = {name: value for name, value in {**right, **change}.items() if value is not None}
    with pytest.raises(EngineError, match=f"{engine.name} failed in graph text_decoder: .*(token|batch is 2)"):
        engine.run(wrong)
    same(engine.run(right), expected(right))


def test_a_gpu_that_fails_is_told_in_one_line(decoder, gpu):
    engine, expected = decoder
    gpu.fails["cuStreamSynchronize"] = 700
    with pytest.raises(EngineError, match=f"{engine.name} failed in graph text_decoder: the GPU fails: .*CUDA error 700"):
        engine.run(feed(DECODER))
    gpu.fails.clear()
    same(engine.run(feed(DECODER)), expected(feed(DECODER)))


def test_a_closed_engine_holds_nothing_and_does_not_run(decoder, gpu):
    engine, _ = decoder
    engine.run(feed(DECODER))
    assert gpu.memory and gpu.streams
    engine.close()
    engine.close()
    assert (gpu.memory, gpu.streams) == ({}, {})
    with pytest.raises(EngineError, match="failed in graph text_decoder: the engine is closed"):
        engine.run(feed(DECODER))


# -- TensorRT ----------------------------------------------------------------------------------------------------------


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


def test_sizes_outside_of_every_profile_are_told_with_the_ranges(gpu):
    engine = TensorRtEngine(b"", DECODER, trt=trt(gpu))
    with pytest.raises(EngineError, match=r"token of \[5, 1\] is outside .* \[1, 1\] to \[4, 1\]"):
        engine.run(feed(DECODER, batch=5))
    with pytest.raises(EngineError, match=r"past_keys of .*41.* is outside of what the plan was compiled for") as caught:
        engine.run(feed(DECODER, past=41))
    assert "larger ranges" in caught.value.remedy
    engine.close()


def test_a_plan_of_another_release_is_refused_before_it_is_read(gpu):
    fake = trt(gpu, "10.16.1.11")
    told = "compiled by TensorRT 10.3.0, this machine has 10.16.1.11. Build the bundle again.*or install TensorRT 10.3.0"
    with pytest.raises(EngineError, match=told):
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


def test_a_plan_that_is_not_taken_is_told_with_the_librarys_last_error(gpu):
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


def test_a_run_that_fails_is_told_with_the_librarys_last_error(gpu):
    fake = trt(gpu)
    engine = TensorRtEngine(b"", DECODER, trt=fake)
    fake.executes = False
    with pytest.raises(EngineError, match="tensorrt failed in graph text_decoder: it does not run: illegal memory access"):
        engine.run(feed(DECODER))
    fake.executes = True
    same(engine.run(feed(DECODER)), compute(feed(DECODER)))
    for method, told in (
        ("set_input_shape", r"it refuses token of \[1, 1\]"),
        ("set_tensor_address", "it refuses the memory of token"),
    ):
        for context in fake.of("IExecutionContext"):
            getattr(context, method).side_effect = lambda *args: False
        with pytest.raises(EngineError, match=told):
            engine.run(feed(DECODER))
        for context in fake.of("IExecutionContext"):
            context.set_input_shape.side_effect = lambda *args: True
    engine.close()


@pytest.mark.parametrize("version", ["8.6.1", "12.0", ""])
def test_releases_that_are_not_known_are_not_tried(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
    told = rf"TensorRT {version} is installed; this program knows 10.3 to 11.x" if version else "without its bindings"
    with pytest.raises(EngineError, match=told):
        TensorRtEngine(b"", DECODER)


def test_a_broken_tensorrt_is_an_engine_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="TensorRT is not installed for this Python"):
        TensorRtEngine(b"", DECODER)


def test_tensorrt_on_a_jetson_comes_with_jetpack(monkeypatch):
    assert engines.KINDS["tensorrt"].install == "pip install 'mimo-edge[tensorrt]'"
    monkeypatch.setattr(engines, "architecture", lambda: "aarch64")
    assert "JetPack" in engines.KINDS["tensorrt"].install and "--system-site-packages" in engines.KINDS["tensorrt"].install


# -- the real TensorRT for RTX -----------------------------------------------------------------------------------------


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


# -- answers whose cache stays on the GPU ------------------------------------------------------------------------------


def decode(engine, tokens, constant):
    """The logits of every step of one answer."""
    decoding = engine.decoding(constant)
    steps = list(map_steps(decoding, tokens))
    decoding.close()
    assert all(set(step) == {"logits"} for step in steps)
    return [step["logits"] for step in steps]


def constant_inputs(seed=0):
    return {n: v for n, v in feed(DECODER, past=0, seed=seed).items() if n in ("cross_keys", "cross_values", "memory_valid")}


def by_runs(engine, tokens, constant):
    """The same through ``run``."""
    return [step["logits"] for step in map_steps(base.Decoding(engine, constant), tokens)]


def map_steps(decoding, tokens):
    for k, token in enumerate(tokens):
        yield decoding.step({"token": np.array([[token]], np.int32), "position": np.array([[k]], np.int32)})


def test_a_cache_that_stays_there_gives_the_same_answer(decoder, gpu):
    engine, _ = decoder
    for seed in range(3):  # the memory of a finished answer serves the next one
        constant, tokens = constant_inputs(seed), [5, 3, 8, 1, 9, 2, 7]
        for found, wanted in zip(decode(engine, tokens, constant), by_runs(engine, tokens, constant), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert len(engine._spare) == 1


def test_a_step_moves_nothing_but_its_token(decoder, gpu):
    engine, _ = decoder
    decoding = engine.decoding(constant_inputs())
    steps = map_steps(decoding, range(1, 9))
    next(steps)
    before = len(gpu.uploads), gpu.downloaded
    logits = next(steps)["logits"]
    assert gpu.uploads[before[0] :] == [4, 4] and gpu.downloaded - before[1] == logits.nbytes
    decoding.close()


def test_answers_take_turns(decoder):
    engine, _ = decoder
    constants = [constant_inputs(seed) for seed in range(4)]
    tokens = [[5, 3, 8], [1, 1, 2], [9, 4, 4], [6, 6, 6]]
    wanted = [by_runs(engine, t, c) for t, c in zip(tokens, constants)]
    open_ones = [engine.decoding(c) for c in constants]
    for k in range(3):
        for answer, decoding in enumerate(open_ones):
            changing = {"token": np.array([[tokens[answer][k]]], np.int32), "position": np.array([[k]], np.int32)}
            np.testing.assert_allclose(decoding.step(changing)["logits"], wanted[answer][k], atol=1e-6)
    for decoding in open_ones:
        decoding.close()
        decoding.close()
    assert len(engine._spare) == 2 and not engine._lent


def test_an_answer_ends_with_its_engine(decoder, gpu):
    engine, _ = decoder
    decoding = engine.decoding(constant_inputs())
    next(map_steps(decoding, [1]))
    engine.close()
    assert (gpu.memory, gpu.streams) == ({}, {})
    with pytest.raises(EngineError, match="failed in graph text_decoder: the engine is closed"):
        next(map_steps(decoding, [1]))
    decoding.close()
    with pytest.raises(ValueError, match="closed"):
        engine.decoding(constant_inputs())


def test_a_wrong_step_is_told_and_harms_no_later_one(decoder):
    engine, _ = decoder
    constant = constant_inputs()
    decoding = engine.decoding(constant)
    first = next(map_steps(decoding, [4]))["logits"]
    with pytest.raises(EngineError, match=f"{engine.name} failed in graph text_decoder: .*token"):
        decoding.step({"token": np.zeros((1, 2), np.int32), "position": np.zeros((1, 1), np.int32)})
    second = decoding.step({"token": np.array([[6]], np.int32), "position": np.array([[1]], np.int32)})["logits"]
    decoding.close()
    for found, wanted in zip((first, second), by_runs(engine, [4, 6], constant), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
