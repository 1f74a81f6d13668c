"""Selective prediction against numbers made by hand, and against a slow definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.evaluation import confidence
from mimo_runtime.evaluation.confidence import at_threshold, choose_threshold, correlation, ranks, risk_curve, set_weights
from mimo_runtime.evaluation.summary import Overlap

EQUAL = np.full(4, 0.25)
SCORES = np.array([0.9, 0.2, 0.6, 0.8])
DICES = np.array([1.0, 0.0, 0.6, 0.8])


def row(score: float | None, dice: float, set_name: str = "a", prompt: str = "box", **more: object) -> Overlap:
    return Overlap(set_name, "polyp", prompt, "1", dice, dice / (2 - dice), score=score, **more)


def test_curve_by_hand() -> None:
    curve = risk_curve(SCORES, DICES, EQUAL)
    np.testing.assert_allclose(curve.scores, [0.9, 0.8, 0.6, 0.2])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.risk, [0, 0.1, 0.2, 0.4])
    assert curve.aurc == pytest.approx((0 + 0.1 + 0.2 + 0.4) / 4)


def test_equal_scores_are_accepted_together_whatever_their_order() -> None:
    for dices in ([1.0, 0.0, 0.5], [0.0, 1.0, 0.5]):
        curve = risk_curve(np.array([0.7, 0.7, 0.1]), np.array(dices), np.full(3, 1 / 3))
        np.testing.assert_allclose(curve.coverage, [2 / 3, 1])
        np.testing.assert_allclose(curve.risk, [0.5, 0.5])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 10), st.sampled_from("ab")), min_size=1, max_size=30))
def test_curve_is_what_the_thresholds_say(found: list[tuple[int, int, str]]) -> None:
    scores, dices = np.array([s / 8 for s, _, _ in found]), np.array([d / 10 for _, d, _ in found])
    weights = set_weights([name for *_, name in found])
    curve = risk_curve(scores, dices, weights)
    assert curve.coverage[-1] == pytest.approx(1) and weights.sum() == pytest.approx(1)
    for threshold, coverage, risk in zip(*curve):
        assert at_threshold(scores, dices, weights, threshold) == pytest.approx((coverage, risk))


def test_every_set_has_the_same_weight() -> None:
    weights = set_weights(["a", "a", "a", "b"])
    np.testing.assert_allclose(weights, [1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_the_smallest_threshold_that_keeps_the_risk_is_chosen() -> None:
    chosen = choose_threshold(SCORES, DICES, EQUAL, 0.2)
    assert 0.2 < chosen.threshold <= 0.6 and chosen.reached
    assert (chosen.coverage, chosen.risk) == pytest.approx((0.75, 0.2))
    # Risk need not rise with coverage: a high score that is wrong does not hide the rest.
    chosen = choose_threshold(SCORES, np.array([0.0, 1.0, 1.0, 1.0]), EQUAL, 0.26)
    assert chosen.threshold == 0 and chosen.coverage == 1 and chosen.reached


def test_without_a_threshold_that_keeps_half_the_least_risk_is_taken() -> None:
    chosen = choose_threshold(SCORES, DICES, EQUAL, 0.05)  # only the best quarter has less
    assert not chosen.reached and (chosen.coverage, chosen.risk) == pytest.approx((0.5, 0.1))
    assert 0.6 < chosen.threshold <= 0.8


def test_a_threshold_of_few_digits_still_accepts_what_it_was_chosen_for() -> None:
    scores = np.array([0.50000005, 0.5])
    chosen = choose_threshold(scores, np.array([1.0, 0.0]), np.full(2, 0.5), 0.1)
    # No six digits part the two, so both are kept, and the risk that was asked for is not promised.
    assert chosen.coverage == 1 and chosen.risk == 0.5 and not chosen.reached


def test_correlation_and_ranks() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    equal = np.full(50, 1 / 50)
    assert correlation(a, a + b, equal) == pytest.approx(np.corrcoef(a, a + b)[0, 1])
    assert correlation(a, -3 * a, equal) == pytest.approx(-1)
    assert correlation(a, np.ones(50), equal) is None
    np.testing.assert_allclose(ranks(np.array([3.0, 1, 3, 2])), [3.5, 1, 3.5, 2])
    # A weight counts like so many copies.
    copies = np.repeat(np.arange(50), 1 + np.arange(50) % 3)
    weights = (1 + np.arange(50) % 3) / len(copies)
    assert correlation(a, a + b, weights) == pytest.approx(np.corrcoef(a[copies], (a + b)[copies])[0, 1])


def test_summary_of_predicted_iou_leaves_out_what_was_not_drawn() -> None:
    rows = [
        row(0.8, 0.8, predicted_iou=0.7, presence=1.0, drawn=True),
        row(0.5, 0.5, predicted_iou=0.4, presence=1.0, drawn=True),
        row(0.1, 0.0, predicted_iou=0.9, presence=0.1, drawn=False),
        row(None, 0.9, prompt="ellipse"),
    ]
    found = confidence.summarise_confidence(rows, 0.3)
    assert set(found) == {"box", "all"} and found["box"] == found["all"]
    true = np.array([0.8, 0.5]) / (2 - np.array([0.8, 0.5]))
    assert found["all"]["iou_mae"] == pytest.approx(np.abs(true - [0.7, 0.4]).mean())
    assert found["all"]["iou_pearson"] == found["all"]["iou_spearman"] == pytest.approx(1)
    assert (found["all"]["n"], found["all"]["n_drawn"]) == (3, 2)
    assert found["all"]["coverage_at_threshold"] == pytest.approx(2 / 3)
    assert found["all"]["risk_at_threshold"] == pytest.approx(0.35)
    nothing = confidence.summarise_confidence(rows[2:3], 0.3)["box"]
    assert nothing["iou_mae"] is nothing["iou_pearson"] is nothing["risk_at_threshold"] is None
    assert confidence.summarise_confidence(rows[3:], 0.3) == {}


def test_curves_have_about_twenty_points() -> None:
    rng = np.random.default_rng(0)
    rows = [row(float(s), float(d)) for s, d in rng.random((500, 2))]
    curve = confidence.summarise_confidence(rows, None)["all"]["risk_coverage"]
    np.testing.assert_allclose(curve["coverage"], np.arange(1, 21) / 20, atol=1e-9)
    assert len(curve["risk"]) == 20 and curve["risk"][-1] == pytest.approx(1 - np.mean([r.dice for r in rows]))
    few = confidence.summarise_confidence(rows[:3], None)["all"]["risk_coverage"]
    assert few["coverage"] == pytest.approx([1 / 3, 2 / 3, 1])
