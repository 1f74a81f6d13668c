"""The engines for NVIDIA GPUs, without one: against ``gpu_fakes``, and against the real libraries as far as they go here."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from gpu_cases import DECODER, feed, same
from gpu_fakes import FakeDriver

from mimo_runtime.engines import base, cuda
from mimo_runtime.errors import EngineError
from mimo_runtime.model.graph_spec import Tensor

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


def test_without_a_driver_it_is_reported_what_to_do(monkeypatch):
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-that-is-not-there.so.1")
    cuda.driver.cache_clear()
    with pytest.raises(EngineError, match="no NVIDIA driver here: libcuda-that.*does not load.*--gpus all"):
        cuda.driver()


def test_without_a_gpu_the_message_of_the_driver_is_reported():
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


def test_a_gpu_that_fails_is_reported_in_one_line(decoder, gpu):
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


def test_a_wrong_step_is_reported_and_harms_no_later_one(decoder):
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
