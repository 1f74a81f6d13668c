"""Latencies are measured side by side."""

from __future__ import annotations

import numpy as np
import pytest
from fake_clock import FakeClock

from mimo_calibration.search import latency
from mimo_calibration.search.latency import STEPS, graph_times, interleaved
from mimo_runtime.engines.base import Engine
from mimo_runtime.model.graph_spec import Tensor


@pytest.fixture
def clock(monkeypatch):
    """The clock of measurements."""
    fake = FakeClock()
    monkeypatch.setattr(latency, "time", fake)
    return fake


def test_contenders_take_turns_on_the_same_inputs():
    order: list[tuple[str, int]] = []
    runs = {name: lambda arrays, name=name: order.append((name, arrays["k"])) for name in ("a", "b", "c")}
    times = interleaved(runs, [{"k": 0}, {"k": 1}, {"k": 2}], seconds=0, least=6)
    assert set(times) == {"a", "b", "c"} and all(ms >= 0 for ms in times.values())
    measured = order[6:]  # two runs each to warm up
    rounds = [measured[k : k + 3] for k in range(0, len(measured), 3)]
    assert len(rounds) == 6
    for number, turn in enumerate(rounds):
        assert {name for name, _ in turn} == {"a", "b", "c"} and {k for _, k in turn} == {number % 3}
    # None is always the first.
    assert {turn[0][0] for turn in rounds} == {"a", "c"}


def test_the_median_is_in_milliseconds(clock):
    runs = iter(range(100))

    def sometimes(arrays):
        clock.now += 0.05 if next(runs) == 5 else 0.004

    times = interleaved({"fast": lambda arrays: None, "slow": sometimes}, [{}], seconds=0, least=9)
    assert times == {"fast": 0, "slow": pytest.approx(4)}


@pytest.mark.parametrize(("seconds", "runs"), [(0.0, 4), (0.2, 20)])
def test_it_ends_in_time_but_not_before_enough_runs(clock, seconds, runs):
    count = []

    def run(arrays):
        count.append(arrays)
        clock.now += 1 / 100

    interleaved({"a": run}, [{}], seconds=seconds, least=4)
    assert runs + 1 <= len(count) <= runs + 2  # one to warm up


class Steps(Engine):
    """An engine with a cache whose steps take 4 ms of a clock."""

    name = "steps"
    inputs = {
        "memory": Tensor("memory", "float32", (1, 3)),
        "past_keys": Tensor("past_keys", "float32", ("batch", "past", 2)),
        "token": Tensor("token", "int32", ("batch", 1)),
        "position": Tensor("position", "int32", ("batch", 1)),
    }
    outputs = {
        "logits": Tensor("logits", "float32", ("batch", 1, 5)),
        "keys": Tensor("keys", "float32", ("batch", "past_plus_one", 2)),
    }

    def __init__(self, clock):
        self.positions, self.clock = [], clock

    def run(self, inputs):
        past = inputs["past_keys"].shape[1]
        assert inputs["position"][0, 0] == past and (inputs["memory"] == 7).all()
        self.positions.append(past)
        self.clock.now += 0.004
        return {"logits": np.zeros((1, 1, 5), np.float32), "keys": np.zeros((1, past + 1, 2), np.float32)}


def test_a_graph_with_a_cache_is_timed_per_step_of_an_answer(clock):
    engine = Steps(clock)
    call = {
        "memory": np.full((1, 3), 7, np.float32), "past_keys": np.zeros((1, 9, 2), np.float32),
        "token": np.ones((1, 1), np.int32), "position": np.full((1, 1), 9, np.int32),
    }  # fmt: skip
    times = graph_times({"a": engine}, [call], seconds=0)
    assert times["a"] == pytest.approx(4)
    assert engine.positions[:STEPS] == list(range(STEPS)) and call["position"][0, 0] == 9


class TokenSteps(Steps):
    """As :class:`Steps`, of a graph that takes several tokens a step and the bias of its self-attention."""

    inputs = {**Steps.inputs, "causal_bias": Tensor("causal_bias", "float32", ("batch", "tokens", "past_plus_tokens"))}

    def run(self, inputs):
        past = inputs["past_keys"].shape[1]
        assert inputs["causal_bias"].shape == (1, 1, past + 1) and not inputs["causal_bias"].any()
        return super().run(inputs)


def test_a_step_of_a_graph_that_takes_several_tokens_gets_the_bias_of_its_length(clock):
    engine = TokenSteps(clock)
    call = {
        "memory": np.full((1, 3), 7, np.float32), "past_keys": np.zeros((1, 9, 2), np.float32),
        "token": np.ones((1, 4), np.int32), "position": np.full((1, 4), 9, np.int32),
        "causal_bias": np.full((1, 4, 13), -1, np.float32),
    }  # fmt: skip
    assert graph_times({"a": engine}, [call], seconds=0)["a"] == pytest.approx(4)
    assert engine.positions[:STEPS] == list(range(STEPS))
