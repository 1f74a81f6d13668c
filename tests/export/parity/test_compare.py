"""The comparison finds what it must find."""

from __future__ import annotations

import numpy as np
import pytest

from mimo_export.parity.compare import LIMITS, Limits, Parity, ShadowedEngine, limits_of, parity_failures, relative_l2
from mimo_export.parity.samples import Sample
from mimo_runtime.model.graph_spec import GraphSpec, Tensor
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.results.answer import Answer, Finding

CONTRACT = GraphSpec(
    "fusion",
    (Tensor("x", "float32", ("batch", 2)), Tensor("keys", "float32", (3, "batch", "past"))),
    (Tensor("y", "float32", ("batch", 2)), Tensor("z", "float32", (3, "batch", "past_plus_one"))),
)


class FakeEngine:
    """y = 2 x, z = keys with a one appended, and whatever a test makes of them."""

    name = "fake"
    inputs = {t.name: t for t in CONTRACT.inputs}
    outputs = {t.name: t for t in CONTRACT.outputs}

    def __init__(self, change=lambda outputs: outputs):
        self.change, self.batches = change, []

    def run(self, inputs):
        self.batches.append(len(inputs["x"]))
        keys = inputs["keys"]
        return self.change({"y": inputs["x"] * 2, "z": np.concatenate((keys, np.ones((*keys.shape[:2], 1), np.float32)), 2)})

    def close(self):
        pass


def call(engine: ShadowedEngine, seed: int, past: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return engine.run({"x": rng.random((1, 2), np.float32), "keys": rng.random((3, 1, past), np.float32)})


def test_relative_l2_is_the_error_over_the_norm_of_the_reference():
    wanted = np.array([3.0, 4.0])
    assert relative_l2(wanted, wanted) == 0
    assert relative_l2(wanted * 1.01, wanted) == pytest.approx(0.01)
    assert relative_l2(np.zeros(2), np.zeros(2)) == 0
    assert relative_l2(np.full(2, 1e-9), np.zeros(2)) == np.inf
    assert relative_l2(np.array([3.0, np.nan]), wanted) == np.inf
    assert relative_l2(np.array([3.0, np.inf]), np.array([3.0, np.inf])) == np.inf
    assert relative_l2(np.zeros(3), wanted) == np.inf


def test_the_reference_goes_on_and_the_candidate_is_measured():
    def worse(outputs):
        return {**outputs, "z": outputs["z"] * np.float32(1.5)}

    engine = ShadowedEngine(CONTRACT, FakeEngine(), FakeEngine(worse))
    handed_on = call(engine, 0)
    assert handed_on["z"][0, 0, -1] == 1
    assert (engine.worst_output, engine.calls) == ("z", 1)
    assert engine.worst == pytest.approx(0.5, rel=1e-5)


def test_an_error_for_batches_alone_is_found():
    def broken(outputs):
        # As a graph whose batch was frozen: the first item is repeated.
        return {
            name: np.repeat(v.take([0], 0 if name == "y" else 1), v.shape[0 if name == "y" else 1], 0 if name == "y" else 1)
            for name, v in outputs.items()
        }

    good, bad = (ShadowedEngine(CONTRACT, FakeEngine(), FakeEngine(change)) for change in (lambda o: o, broken))
    for engine in (good, bad):
        call(engine, 0)
        assert engine.worst == 0 and engine.batches == 0
        call(engine, 1)
        assert engine.batches == 1
        assert engine.candidate.batches == [1, 1, 2] and engine.reference.batches == [1, 1]
    assert good.worst == 0
    assert bad.worst > 0.1


def test_only_calls_of_the_same_shapes_are_joined():
    engine = ShadowedEngine(CONTRACT, FakeEngine(), FakeEngine())
    for past in range(20):
        call(engine, past, past)
    assert engine.batches == 0
    assert len(engine._waiting) < 20  # bounded, whatever the length of an answer
    call(engine, 99, 0)
    assert engine.batches == 1


@pytest.mark.parametrize("which", ["reference", "candidate"])
def test_nan_is_never_parity(which: str):
    def nan(outputs):
        return {**outputs, "y": outputs["y"] * np.float32("nan")}

    sides = {"reference": FakeEngine(), "candidate": FakeEngine()}
    sides[which] = FakeEngine(nan)
    engine = ShadowedEngine(CONTRACT, **sides)
    call(engine, 0)
    parity = Parity({"fusion": engine})
    assert engine.worst == np.inf
    assert any("fusion gives NaN" in problem for problem in parity.failures())
    assert parity.summary().to_dict()["fusion"]["relative_l2"] is None  # JSON has no infinity


def test_a_graph_that_never_ran_fails():
    problems = Parity({"fusion": ShadowedEngine(CONTRACT, FakeEngine(), FakeEngine())}).failures()
    assert problems == ["fusion ran 0 times, but never as a batch of 2 (more samples are needed)"]


SAMPLE = Sample("phantom", "box", np.zeros((8, 8, 3), np.uint8), Prompt("x"))


def answer(text: str = "a", **masks: np.ndarray) -> Answer:
    findings = (
        Finding("p", mask, None, 0.5, float(mask.any()), bool(mask.any()), int(mask.sum()), int(query[1:]), 1.0)
        for query, mask in masks.items()
    )
    return Answer(text, tuple(findings), {}, "stop")


FULL, EMPTY = np.ones((4, 4), bool), np.zeros((4, 4), bool)
HALF = np.arange(16).reshape(4, 4) < 8


@pytest.mark.parametrize(
    ("reference", "candidate", "failing"),
    [
        (answer(q0=FULL), answer(q0=FULL), []),
        (answer(q0=FULL), answer(q0=HALF), ["masks_dice"]),
        (answer(q0=FULL), answer(), ["masks_dice"]),
        (answer(q0=FULL), answer(q1=FULL), ["masks_dice"]),
        (answer(), answer(q0=FULL), ["masks_dice"]),
        (answer(q0=FULL), answer(q0=EMPTY), ["masks_dice", "presence_agreement"]),
        (answer("a", q0=FULL), answer("b", q0=FULL), ["text_agreement"]),
    ],
)
def test_answers_are_held_against_each_other(reference: Answer, candidate: Answer, failing: list[str]):
    parity = Parity({})
    parity.add(SAMPLE, reference, candidate, 0.5)
    assert [problem.split()[0] for problem in parity.failures()] == failing
    assert len(parity.differing) == ("text_agreement" in failing)


def test_text_may_differ_in_one_of_two_hundred():
    parity = Parity({})
    for k in range(200):
        parity.add(SAMPLE, answer("a", q0=FULL), answer("a" if k else "b", q0=FULL), 0.5)
    assert parity.failures() == []
    parity.add(SAMPLE, answer("a", q0=FULL), answer("b", q0=FULL), 0.5)
    assert [p.split()[0] for p in parity.failures()] == ["text_agreement"]


def test_limits_are_those_of_the_project():
    full = LIMITS["fp32"]
    assert full["relative_l2"] == 1e-3 and full["masks_dice"] == 0.999 and full["text_agreement"] == 0.995


def delivered(**counts: int) -> dict[str, int]:
    return {"int8": 0, "fp16": 0, "fp32": 3, **counts}


def test_every_graph_has_the_limit_of_what_it_delivers():
    graphs = {
        "vision_encoder": delivered(int8=2), "text_decoder": delivered(int8_weights=2), "fusion": delivered(),
        "mask_decoder": delivered(fp16=1),
    }  # fmt: skip
    limits = limits_of(graphs)
    assert {name: limits.of(name) for name in graphs} == {
        "vision_encoder": 0.3, "text_decoder": 0.3, "fusion": 1e-3, "mask_decoder": 0.05,
    }  # fmt: skip
    assert limits.answers == LIMITS["int8"]  # an answer has been through all of them
    assert limits_of({"fusion": delivered(), "mask_decoder": delivered(fp16=1)}).answers == LIMITS["fp16"]
    assert limits_of({"fusion": delivered()}).answers == LIMITS["fp32"]
    assert limits_of({"fusion": delivered(int4=1)}).of("fusion") == 0.3


def shadow(error: float) -> ShadowedEngine:
    """Measured in two calls, as one of batch 2 too."""
    engine = ShadowedEngine(CONTRACT, FakeEngine(), FakeEngine(lambda o: {**o, "y": o["y"] * np.float32(1 + error)}))
    call(engine, 0)
    call(engine, 1)
    return engine


def test_a_graph_in_full_precision_keeps_its_limit_beside_an_int8_graph():
    limits = limits_of({"fusion": delivered(), "vision_encoder": delivered(int8=2)})
    parity = Parity({"fusion": shadow(0.05), "vision_encoder": shadow(0.05)}, limits)
    assert [problem.split()[0] for problem in parity.failures()] == ["fusion"]
    report = parity.summary().to_dict()
    assert (report["fusion"]["limit"], report["vision_encoder"]["limit"]) == (1e-3, 0.3)
    assert report["limits"] == LIMITS["int8"] and report["missed"] == parity.failures()


def test_force_lets_through_what_reduced_precision_misses_and_nothing_else():
    limits = Limits(LIMITS["int8"], {"vision_encoder": 0.3, "fusion": 1e-3})
    lost = Parity({"vision_encoder": shadow(0.5), "fusion": shadow(0.0)}, limits)
    lost.add(SAMPLE, answer("a", q0=FULL), answer("b", q0=EMPTY), 0.5)
    assert [problem.split()[0] for problem in parity_failures(lost, forced=False)] == [
        "vision_encoder", "masks_dice", "text_agreement", "presence_agreement"
    ]  # fmt: skip
    assert parity_failures(lost, forced=True) == []
    for error, words in ((0.01, "fusion differs"), (np.nan, "fusion gives NaN"), (np.inf, "fusion gives NaN")):
        problems = parity_failures(Parity({"vision_encoder": shadow(0.5), "fusion": shadow(error)}, limits), forced=True)
        assert len(problems) == 1 and problems[0].startswith(words)
    unseen = ShadowedEngine(CONTRACT, FakeEngine(), FakeEngine())
    assert "never as a batch of 2" in parity_failures(Parity({"vision_encoder": unseen}, limits), forced=True)[0]
