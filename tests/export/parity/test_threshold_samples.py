"""Golden samples lie on both sides of each threshold, and the answers to them change with it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mimo_export.parity.samples import Sample
from mimo_export.parity.threshold_samples import DECIDING, changes_the_answer, decision_values, sides_of, threshold_samples
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.preprocessing.prompts import Prompt

LIMITS = {"presence_threshold": 0.5, "entity_threshold": 0.7, "abstain_threshold": 0.4}


class Model:
    """Finds the target of a sample with the presence and IoU that its text names, or two entities for "describe"."""

    def __init__(self, config: MimoConfig) -> None:
        self.config = config

    def with_config(self, config: MimoConfig) -> Model:
        return Model(config)

    def open(self, pixels: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(ask=self._ask)

    def _ask(self, text: str, *_: object, text_answer: bool) -> SimpleNamespace:
        assert not text_answer
        least = self.config.entity_threshold if text.count(" ") > 2 else -1.0
        numbers = [float(word) for word in text.split()]
        findings = [self._finding(p, iou) for p, iou in zip(numbers[::2], numbers[1::2]) if p >= least]
        return SimpleNamespace(findings=findings)

    def _finding(self, presence: float, iou: float) -> SimpleNamespace:
        present = presence >= self.config.presence_threshold and iou > 0
        confident = presence * iou >= self.config.abstain_threshold
        return SimpleNamespace(phrase="x", presence=presence, score=presence * iou, present=present, confident=confident)


@pytest.fixture
def model() -> Model:
    return Model(MimoConfig.from_preset("micro", **LIMITS))


def sample(text: str) -> Sample:
    kind = "describe" if text.count(" ") > 2 else "name"
    return Sample("phantom", kind, np.zeros((8, 8, 3), np.uint8), Prompt(text))


SAMPLES = [sample(text) for text in ("0.9 0.9", "0.6 0.5", "0.49 1.0", "0.3 1.0", "0.45 0.0", "0.95 1.0 0.2 1.0 0.68 1.0")]


def test_values_of_targets_and_of_entities(model: Model) -> None:
    assert decision_values(model, SAMPLES[0]) == {"presence_threshold": [0.9], "abstain_threshold": [pytest.approx(0.81)]}
    assert decision_values(model, SAMPLES[2]) == {"presence_threshold": [0.49], "abstain_threshold": []}
    assert decision_values(model, SAMPLES[4])["presence_threshold"] == []  # its mask is empty at any threshold
    assert decision_values(model, SAMPLES[5])["entity_threshold"] == [0.95, 0.2, 0.68]


def test_the_closest_value_of_each_side_outside_the_margin(model: Model) -> None:
    chosen = threshold_samples(model, SAMPLES, 0.04)
    assert [(side.threshold, side.sample, pytest.approx(side.value)) for side in chosen] == [
        ("presence_threshold", 3, 0.3),
        ("presence_threshold", 1, 0.6),
        ("entity_threshold", 5, 0.2),
        ("entity_threshold", 5, 0.95),
        ("abstain_threshold", 1, 0.3),
        ("abstain_threshold", 0, 0.81),
    ]
    assert threshold_samples(model, SAMPLES, 0.005)[0].value == 0.49


def test_every_chosen_sample_changes_with_its_threshold(model: Model) -> None:
    for side in threshold_samples(model, SAMPLES, 0.04):
        assert changes_the_answer(model, SAMPLES[side.sample], side)
        assert str(side).endswith("above" if side.is_above else "below")
        assert not changes_the_answer(model, SAMPLES[4], replace(side, value=side.limit))


def test_sides_without_a_value_are_empty() -> None:
    sides = list(sides_of([{"presence_threshold": [0.9]}], LIMITS, 0.04))
    assert [len(side) for side in sides] == [0, 1, 0, 0, 0, 0] and tuple(LIMITS) == DECIDING
