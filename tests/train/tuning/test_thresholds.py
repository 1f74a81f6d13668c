"""Temperature and thresholds on numbers with a known optimum."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mimo_runtime.evaluation.summary import Overlap, Presence
from mimo_runtime.model.config import MimoConfig
from mimo_train.tuning.thresholds import TEMPERATURES, best_temperature, best_threshold, choose_thresholds


def test_temperature_undoes_a_known_overconfidence():
    rng = np.random.default_rng(0)
    true_logits = rng.normal(0, 2, 20000)
    present = rng.random(20000) < 1 / (1 + np.exp(-true_logits))
    assert best_temperature(3.0 * true_logits, present) == pytest.approx(3.0, rel=0.08)
    assert best_temperature(true_logits, present) == pytest.approx(1.0, rel=0.08)


def test_threshold_separates_what_can_be_separated():
    p = np.array([0.05, 0.1, 0.2, 0.25, 0.3, 0.4])
    present = np.array([False, False, False, True, True, True])
    assert 0.2 < best_threshold(p, present) < 0.25


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def test_scores_are_those_of_the_new_temperature_and_masks_those_of_the_new_threshold():
    """A model whose logits are twice too large: the temperature 2 halves them, and with them the scores."""
    rng = np.random.default_rng(0)
    true_logits = rng.normal(0, 2, 4000)
    there = rng.random(4000) < 1 / (1 + np.exp(-true_logits))
    presences = [Presence("a", "present" if t else "within", True, sigmoid(2 * x)) for t, x in zip(there, true_logits)]
    # Findings from sure to unsure; the last is not present after calibration, so its fine mask will not be drawn.
    logits = (4.0, 2.0, -6.0)
    overlaps = [
        Overlap("a", "x", "box", str(k), dice, dice, score=0.0, presence=sigmoid(x), predicted_iou=0.8, drawn=True)
        for k, (x, dice) in enumerate(zip(logits, (1.0, 0.8, 1.0)))
    ]
    overlaps.append(Overlap("a", "x", "ellipse", "0", 0.0, 0.0))
    chosen = choose_thresholds(overlaps, presences, risk=0.15)
    assert chosen.presence_temperature == pytest.approx(2, rel=0.1) and chosen.presence_threshold == pytest.approx(0.5, abs=0.1)
    scores = [0.8 * sigmoid(x / chosen.presence_temperature) for x in logits]
    assert scores[2] < chosen.abstention.threshold <= scores[1] and chosen.findings == 3
    assert (chosen.abstention.coverage, chosen.abstention.risk) == pytest.approx((2 / 3, 0.1)) and chosen.abstention.reached
    assert choose_thresholds(overlaps, presences, risk=0.5).abstention.threshold == 0
    # The third one is as good as not drawn: of all three the risk is 0.4.
    assert choose_thresholds(overlaps, presences, risk=0.5).abstention.risk == pytest.approx(0.4)


def test_a_risk_out_of_reach_is_reported():
    presences = [Presence("a", "present", True, 0.9), Presence("a", "within", False, 0.1)]
    overlaps = [Overlap("a", "x", "box", "0", 0.3, 0.2, score=0.5, presence=0.9, predicted_iou=0.6, drawn=True)]
    chosen = choose_thresholds(overlaps, presences, risk=0.1)
    assert not chosen.abstention.reached and chosen.to_dict()["risk_reached"] is False
    assert chosen.to_dict()["risk"] == pytest.approx(0.7) and chosen.to_dict()["coverage"] == 1
    assert "No threshold that keeps half of the findings reaches 0.1" in chosen.sentences(0.1)
    assert "No threshold" not in choose_thresholds(overlaps, presences, risk=0.8).sentences(0.8)


OVERLAPS = [Overlap("a", "x", "box", "0", 0.9, 0.8, score=0.8, presence=0.9, predicted_iou=0.9, drawn=True)]


def test_only_present_targets_keep_the_defaults():
    """Without absent targets the likelihood is largest at the edge of the range, which means nothing."""
    presences = [Presence("a", "present", True, p) for p in (0.7, 0.9, 0.95)]
    chosen = choose_thresholds(OVERLAPS, presences, 0.1, [(0.7, True), (0.9, True)])
    new = MimoConfig()
    assert (
        (chosen.presence_temperature, chosen.presence_threshold)
        == (new.presence_temperature, new.presence_threshold)
        == (1, 0.5)
    )
    assert chosen.entity_threshold == new.entity_threshold
    (note,) = chosen.to_dict()["notes"]
    assert (
        "keep the defaults, 0.5 and 1" in note
        and "add images without the target (classes {}), or a data set of other classes" in note
    )
    assert note in chosen.sentences(0.1) and json.loads(json.dumps(chosen.to_dict()))["notes"] == [note]


def test_a_temperature_at_the_edge_of_the_range_is_noted():
    presences = [
        Presence("a", kind, True, p) for kind, p in (("present", 0.9), ("present", 0.8), ("within", 0.1), ("across", 0.2))
    ]
    entities = [(0.9, True), (0.1, False)]
    sure = choose_thresholds(OVERLAPS, presences, 0.1, entities)
    assert sure.presence_temperature == TEMPERATURES[0] and len(sure.notes) == 1
    assert "the best temperature, 0.25, is the edge of the range (0.25 to 8)" in sure.sentences(0.1)
    mixed = [*presences, Presence("a", "within", True, 0.85), Presence("a", "present", True, 0.15)]
    chosen = choose_thresholds(OVERLAPS, mixed, 0.1, entities)
    assert (
        TEMPERATURES[0] < chosen.presence_temperature < TEMPERATURES[-1]
        and chosen.notes == ()
        and "Note" not in chosen.sentences(0.1)
    )


def test_the_entity_threshold_separates_present_from_absent():
    present, absent = np.random.default_rng(0).uniform((0.7, 0.0), (1.0, 0.65), (200, 2)).T
    entities = [*((p, True) for p in present), *((p, False) for p in absent)]
    overlaps = [
        Overlap("a", "x", "box", "1", 0.9, 0.8, 0, 0.1, "ct", {}, "1")._replace(score=0.9, presence=0.9, predicted_iou=0.9)
    ]
    presences = [Presence("a", "present", True, 0.9), Presence("a", "within", False, 0.1)]
    chosen = choose_thresholds(overlaps, presences, 0.1, entities)
    low, high = (sigmoid(np.log(p / (1 - p)) / chosen.presence_temperature) for p in (0.65, 0.7))
    assert low <= chosen.entity_threshold <= high
    assert choose_thresholds(overlaps, presences, 0.1).entity_threshold == MimoConfig().entity_threshold
