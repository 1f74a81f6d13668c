"""Metrics against their definitions and hand-made numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.evaluation import metrics


def test_dice_and_iou_by_hand() -> None:
    a, b = np.zeros((2, 4, 4), bool)
    a[0], b[0, :2], b[1, :2] = True, True, True  # 4 and 4 pixels, 2 in common
    assert metrics.dice(a, b) == 0.5 and metrics.iou(a, b) == pytest.approx(1 / 3)
    assert metrics.dice(a, a) == metrics.iou(a, a) == 1
    empty = np.zeros((4, 4), bool)
    assert metrics.dice(a, empty) == metrics.iou(a, empty) == 0
    assert metrics.dice(empty, empty) == metrics.iou(empty, empty) == 1


def test_ellipse_fills_its_box() -> None:
    mask = metrics.ellipse_in_box((10, 20, 110, 80), 100, 120)
    assert mask.sum() == pytest.approx(np.pi / 4 * 100 * 60, rel=0.01)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (20, 79, 10, 109)
    assert metrics.ellipse_in_box((3, 3, 4, 4), 8, 8).sum() == 1


def test_precision_recall_f1_by_hand() -> None:
    truth, said = [1, 1, 1, 0, 0], [1, 0, 0, 1, 0]
    assert metrics.precision_recall_f1(truth, said) == pytest.approx((1 / 2, 1 / 3, 2 / 5))
    assert metrics.precision_recall_f1([0, 0], [0, 0]) == (None, None, None)
    assert metrics.precision_recall_f1([1, 1], [0, 0]) == (None, 0, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_auc_is_the_chance_of_the_right_order(pairs: list[tuple[bool, int]]) -> None:
    positives, negatives = [s for t, s in pairs if t], [s for t, s in pairs if not t]
    found = metrics.auc([t for t, _ in pairs], [s for _, s in pairs])
    if not positives or not negatives:
        assert found is None
    else:
        assert found == pytest.approx(np.mean([(p > n) + 0.5 * (p == n) for p in positives for n in negatives]))


def test_ece_by_hand() -> None:
    assert metrics.ece([], []) is None
    assert metrics.ece([True, False], [1.0, 0.0]) == 0
    assert metrics.ece([False, True], [1.0, 0.0]) == 1
    # One bin: mean probability 0.72, three of four right; the other: 0.1 against none.
    assert metrics.ece([1, 1, 1, 0, 0], [0.72] * 4 + [0.1], bins=2) == pytest.approx((4 * 0.03 + 0.1) / 5)


def test_reliability_by_hand() -> None:
    first, last = metrics.reliability([1, 0, 1, 1], [0.2, 0.1, 1.0, 0.8], bins=3)
    assert first == {"low": 0, "high": 1 / 3, "mean_probability": pytest.approx(0.15), "rate": 0.5, "n": 2}
    assert last == {"low": 2 / 3, "high": 1, "mean_probability": pytest.approx(0.9), "rate": 1, "n": 2}
    assert metrics.reliability([], []) == []


def test_the_bootstrap_interval_has_the_width_of_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 400)
    low, high = metrics.bootstrap_ci(values, seed=1)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)
    assert metrics.bootstrap_ci(values, seed=1) == [low, high] != metrics.bootstrap_ci(values, seed=2)
    assert metrics.bootstrap_ci([0.5]) == [0.5, 0.5]
    with pytest.raises(ValueError):
        metrics.bootstrap_ci([])


def test_sets_have_the_same_weight_and_are_resampled_alone() -> None:
    values, groups = {"a": [0.0, 1.0] * 20, "b": [0.5]}, {"a": list(range(40)), "b": ["x"]}
    mean, (low, high) = metrics.mean_over_sets(values, groups, seed=3)
    assert mean == 0.5 and 0.5 - 0.1 < low < 0.5 < high < 0.5 + 0.1  # half as wide as that of "a" alone
    assert metrics.mean_over_sets(dict(reversed(values.items())), groups, seed=3) == (mean, [low, high])
    one_case = metrics.mean_over_sets(values, {"a": ["x"] * 40, "b": ["x"]})
    assert one_case == (0.5, [0.5, 0.5])


def test_bootstrap_knows_that_objects_of_one_image_belong_together() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 50)
    single = np.diff(metrics.bootstrap_ci(values))
    repeated, images = np.repeat(values, 10), np.repeat(np.arange(50), 10)
    assert np.diff(metrics.bootstrap_ci(repeated, images)) == pytest.approx(single, rel=1e-6)
    assert np.diff(metrics.bootstrap_ci(repeated)) < 0.5 * single  # what ignoring it would claim
