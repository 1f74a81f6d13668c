"""Temperature and threshold on numbers whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from mimo_train.calibrate import best_temperature, best_threshold


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
