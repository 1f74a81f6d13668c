from __future__ import annotations

import dataclasses

import fakes
import numpy as np
import pytest

from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import PromptError
from mimo_runtime.model.graph_spec import allowed_specs, graph_specs, static_cache_spec
from mimo_runtime.text.generation import SamplingParams, TextDecoder, generate, sample_token

END = 9


def counting_step(token):
    """The next token is one more than the last."""
    logits = np.zeros(10, np.float32)
    logits[token + 1] = 1
    return logits


def run(step=counting_step, **options):
    tokens, generator = [], generate(step, **{"bos": 1, "eos": END, "max_tokens": 100, **options})
    while True:
        try:
            tokens.append(next(generator))
        except StopIteration as end:
            return tokens, end.value


def test_greedy_runs_to_the_end_token():
    assert run() == ([2, 3, 4, 5, 6, 7, 8], "stop")


def test_maximum_counts_tokens_without_bos_and_eos():
    assert run(max_tokens=3) == ([2, 3, 4], "length")
    assert run(max_tokens=7) == ([2, 3, 4, 5, 6, 7, 8], "length")
    assert run(max_tokens=8) == ([2, 3, 4, 5, 6, 7, 8], "stop")


def test_cancel_is_asked_before_every_step_and_costs_no_step():
    steps, answers = [], iter([False, False, True])
    tokens = run(lambda token: steps.append(token) or counting_step(token), should_stop=lambda: next(answers))
    assert tokens == ([2, 3], "cancelled")
    assert steps == [1, 2]


def test_same_seed_same_tokens_other_seed_other_tokens():
    def flat(_):
        return np.linspace(0, 1, 50, dtype=np.float32)

    runs = [run(flat, eos=99, max_tokens=30, sampling=SamplingParams(temperature=1.0, seed=seed))[0] for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def draws(logits, sampling, count=4000):
    rng = np.random.default_rng(0)
    logits = np.asarray(logits, np.float32)
    return np.bincount([sample_token(logits, sampling, rng) for _ in range(count)], minlength=len(logits)) / count


def test_temperature_one_draws_from_the_softmax():
    logits = np.log([0.5, 0.3, 0.2])
    np.testing.assert_allclose(draws(logits, SamplingParams(temperature=1.0)), [0.5, 0.3, 0.2], atol=0.03)


def test_temperature_sharpens_and_flattens():
    logits = np.log([0.6, 0.4])
    expected = np.array([0.6, 0.4]) ** 2
    np.testing.assert_allclose(draws(logits, SamplingParams(temperature=0.5)), expected / expected.sum(), atol=0.03)


def test_top_k_keeps_the_k_most_probable():
    frequencies = draws([0, 3, 2, 1], SamplingParams(temperature=1.0, top_k=2))
    assert frequencies[0] == frequencies[3] == 0
    np.testing.assert_allclose(frequencies[1:3], np.exp([3, 2]) / np.exp([3, 2]).sum(), atol=0.03)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    assert (draws(logits, SamplingParams(temperature=1.0, top_p=0.7)) > 0).tolist() == [True, True, False, False]
    assert (draws(logits, SamplingParams(temperature=1.0, top_p=0.81)) > 0).tolist() == [True, True, True, False]
    assert (draws(logits, SamplingParams(temperature=1.0, top_p=1e-9)) > 0).tolist() == [True, False, False, False]


def test_forbidden_tokens_are_never_drawn():
    assert draws([0, -np.inf, 0], SamplingParams(temperature=5.0))[1] == 0
    assert sample_token(np.array([-np.inf, 1, 0], np.float32), SamplingParams(), np.random.default_rng(0)) == 1


def test_huge_logits_do_not_overflow():
    with np.errstate(over="raise", invalid="raise"):
        assert (
            sample_token(np.array([1e30, -1e30, 0], np.float32), SamplingParams(temperature=1e-3), np.random.default_rng(0))
            == 0
        )


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"seed": -1},
    ],
)
def test_sampling_outside_its_range_is_refused(options):
    with pytest.raises(PromptError, match=next(iter(options))):
        SamplingParams(**options)


CONFIG = fakes.CONFIG
MEMORY = {name: np.zeros(1, np.float32) for name in ("cross_keys", "cross_values", "memory_valid")}


class Recorder(Engine):
    """An engine that keeps what it was fed; its logits count."""

    def __init__(self, spec):
        self.inputs, self.outputs = {t.name: t for t in spec.inputs}, {t.name: t for t in spec.outputs}
        self.seen = []

    def run(self, inputs):
        token, position = (int(inputs[name][0, 0]) for name in ("token", "position"))
        self.seen.append((token, position, {k: v.copy() for k, v in inputs.items() if k.startswith("past_")}))
        return {"logits": np.arange(CONFIG.vocab_size, dtype=np.float32)[None, None], **self.caches(inputs)}


class DynamicCache(Recorder):
    def caches(self, inputs):
        past = inputs["past_keys"]
        new = np.full((*past.shape[:3], 1, past.shape[4]), inputs["token"][0, 0], np.float32)
        keys = np.concatenate((past, new), axis=3)
        return {"keys": keys, "values": -keys}


class StaticCache(Recorder):
    def caches(self, inputs):
        found = {name.removeprefix("past_"): inputs[name].copy() for name in self.inputs if name.startswith("past_")}
        for name, cache in found.items():
            cache[:, :, inputs["position"][0, 0]] = inputs["token"][0, 0] * (-1 if name.startswith("values") else 1)
        return found


def test_text_decoder_feeds_the_cache_that_it_got():
    engine = DynamicCache(graph_specs(CONFIG)["text_decoder"])
    decoder = TextDecoder(engine, CONFIG, MEMORY, size=100, suppress_tokens=(0, 99))
    logits = [decoder.step(token) for token in (1, 7, 8)]
    shape = (CONFIG.text_decoder.layers, 1, CONFIG.text_decoder.heads)
    for position, (token, step, past) in enumerate(engine.seen):
        assert (token, step) == ((1, 7, 8)[position], position)
        assert past["past_keys"].shape == past["past_values"].shape == (*shape, position, CONFIG.dim // shape[2])
        assert past["past_keys"][0, 0, 0, :, 0].tolist() == [1, 7, 8][:position]
        assert past["past_values"][0, 0, 0, :, 0].tolist() == [-1, -7, -8][:position]
    assert logits[0].shape == (100,)
    assert logits[0][0] == logits[0][99] == -np.inf
    assert logits[0].argmax() == 98


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_text_decoder_feeds_a_cache_of_fixed_size(dtype):
    config = dataclasses.replace(CONFIG, text_decoder=dataclasses.replace(CONFIG.text_decoder, layers=2))
    engine = StaticCache(static_cache_spec(config, dtype))
    decoder = TextDecoder(engine, config, MEMORY, size=100, suppress_tokens=())
    for token in (1, 7, 8):
        decoder.step(token)
    for position, (token, step, past) in enumerate(engine.seen):
        assert (token, step) == ((1, 7, 8)[position], position)
        assert sorted(past) == ["past_keys_0", "past_keys_1", "past_values_0", "past_values_1"]
        for name, cache in past.items():
            assert cache.shape == engine.inputs[name].concrete(batch=1) and cache.dtype == dtype
            sign = 1 if "keys" in name else -1
            assert cache[0, 0, :4, 0].tolist() == [*(sign * t for t in (1, 7, 8)[:position]), *[0] * (4 - position)]


@pytest.mark.parametrize("spec", allowed_specs(CONFIG)["text_decoder"])
def test_text_decoder_does_not_go_beyond_the_positions_of_the_model(spec):
    engine = (DynamicCache if any("past" in t.shape for t in spec.inputs) else StaticCache)(spec)
    decoder = TextDecoder(engine, CONFIG, MEMORY, size=100, suppress_tokens=())
    for _ in range(CONFIG.text_decoder.max_length):
        decoder.step(1)
    with pytest.raises(ValueError, match=f"the model has {CONFIG.text_decoder.max_length} positions"):
        decoder.step(1)
    assert len(engine.seen) == CONFIG.text_decoder.max_length


def test_a_tiny_temperature_is_the_greedy_choice():
    sampling = SamplingParams(temperature=1e-320)
    assert sample_token(np.array([3.0, 7.0, 5.0]), sampling, np.random.default_rng(0)) == 1
