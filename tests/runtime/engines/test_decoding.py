"""Answers step by step, with a cache that is empty at first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from engine_cases import HEAD, HEADS, STEPS, decoder, same, step
from waiting import PATIENCE_S

from mimo_runtime.errors import EngineError

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


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
        together.wait(PATIENCE_S)
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
        together.wait(PATIENCE_S)
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


def test_an_answer_in_buffers_of_an_earlier_one_is_the_same():
    """The earlier answer was longer than its first buffers, and ended with a step that failed."""
    engine = decoder("onnxruntime")
    expected = list(answer(engine.run, 1, steps=STEPS))
    long, token = engine.decoding({}), np.full((1, 1), 2, np.int32)
    for k, wanted in enumerate(answer(engine.run, 2, steps=150)):
        logits = long.step({"token": token})["logits"]
        np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4, err_msg=f"step {k}")
        token = logits.argmax(-1).astype(np.int32)
    with pytest.raises(EngineError, match="input token is"):
        long.step({"token": np.zeros((1, 2), np.int32)})
    long.close()
    (idle,) = engine._idle
    again, token = engine.decoding({}), np.full((1, 1), 1, np.int32)
    assert again._buffers is idle and not engine._idle
    for k, wanted in enumerate(expected):
        logits = again.step({"token": token})["logits"]
        np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4, err_msg=f"step {k}")
        token = logits.argmax(-1).astype(np.int32)


def test_a_shorter_cache_continues_as_if_the_later_tokens_had_not_been_read():
    engine = decoder("onnxruntime")
    decoding, other = engine.decoding({}), engine.decoding({})
    for token in (3, 4, 5, 6):
        decoding.step({"token": np.full((1, 1), token, np.int32)})
    decoding.keep(2)
    for token in (3, 4):
        other.step({"token": np.full((1, 1), token, np.int32)})
    for token in (7, 8):
        one, two = (d.step({"token": np.full((1, 1), token, np.int32)})["logits"] for d in (decoding, other))
        np.testing.assert_array_equal(one, two)
    decoding.close()
    with pytest.raises(EngineError, match="the answer is closed"):
        decoding.step({"token": np.zeros((1, 1), np.int32)})
    with pytest.raises(EngineError, match="the answer is closed"):
        decoding.keep(1)
