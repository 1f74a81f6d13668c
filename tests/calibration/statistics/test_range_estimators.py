"""Range estimators: known answers and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mimo_calibration.statistics.histogram import BINS, HistogramObserver
from mimo_calibration.statistics.range_estimators import CANDIDATES, METHODS, PERCENTILE, amax


def observed(values: np.ndarray) -> HistogramObserver:
    histogram = HistogramObserver()
    histogram.add(np.asarray(values, np.float32))
    return histogram


def quantization_error(values: np.ndarray, limit: float) -> float:
    step = limit / 127
    return float(np.mean((np.clip(np.round(values / step), -127, 127) * step - values) ** 2))


DATA = {
    "normal": lambda rng: rng.normal(size=60_000),
    "uniform": lambda rng: rng.uniform(-1, 1, 60_000),
    "heavy": lambda rng: rng.standard_t(2.5, size=60_000),
    "laplace": lambda rng: rng.laplace(size=60_000),
    "outlier": lambda rng: np.append(rng.normal(size=60_000), 80.0),
    "relu": lambda rng: np.maximum(rng.normal(size=60_000), 0),
    "tiny": lambda rng: 1e-6 * rng.normal(size=60_000),
}


@pytest.fixture(params=DATA)
def values(request, rng) -> np.ndarray:
    return DATA[request.param](rng).astype(np.float32)


def test_minmax_is_the_largest_magnitude(values):
    assert amax(observed(values), "minmax") == pytest.approx(np.abs(values).max(), rel=1e-7)


def test_percentile_is_that_of_the_values_within_a_bin(values):
    histogram = observed(values)
    expected = np.sort(np.abs(values))[math.ceil(PERCENTILE * values.size) - 1]
    assert amax(histogram, "percentile") == pytest.approx(expected, abs=1.01 * histogram.limit / BINS)


def test_percentile_ignores_a_lone_outlier():
    histogram = observed(np.append(np.ones(100_000), 1000.0))
    assert amax(histogram, "percentile") < 2.0 and amax(histogram, "minmax") == 1000.0


def test_mse_is_nearly_the_best_of_its_candidates(values):
    histogram = observed(values)
    real = {share: quantization_error(values.astype(np.float64), share * histogram.maximum) for share in CANDIDATES}
    assert quantization_error(values.astype(np.float64), amax(histogram, "mse")) <= 1.05 * min(real.values())


def test_mse_counts_values_that_round_to_zero():
    """Nearly all values are less than half a step of the largest: kept whole, the range would round them all away."""
    values = np.append(np.full(60_000, 3.4e-3), 1.0)
    histogram = observed(values)
    best = min(quantization_error(values, share * histogram.maximum) for share in CANDIDATES)
    assert quantization_error(values, amax(histogram, "mse")) < min(
        2 * best, 0.7 * quantization_error(values, amax(histogram, "minmax"))
    )


@pytest.mark.parametrize("name", ["normal", "heavy", "laplace", "outlier"])
def test_mse_is_better_than_minmax_where_tails_are_long(name, rng):
    values = DATA[name](rng)
    histogram = observed(values)
    assert quantization_error(values, amax(histogram, "mse")) < quantization_error(values, amax(histogram, "minmax"))


def test_mse_keeps_the_range_of_a_uniform_tensor():
    histogram = observed(np.linspace(-3, 3, 50_000))
    assert amax(histogram, "mse") == pytest.approx(3.0, rel=0.02)


def test_entropy_ignores_a_lone_outlier(rng):
    assert amax(observed(np.append(rng.normal(size=100_000), 40.0)), "entropy") < 10.0


@pytest.mark.parametrize("method", METHODS)
def test_amax_is_positive_and_never_beyond_the_largest_value(method, values):
    histogram = observed(values)
    assert 0 < amax(histogram, method) <= histogram.maximum * (1 + 1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [2.0, 0.25])
def test_scaled_data_scale_amax(method, values, factor):
    """Powers of two, which change no bin."""
    assert amax(observed(factor * values), method) == pytest.approx(factor * amax(observed(values), method), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_sign_does_not_matter(method, values):
    assert amax(observed(-values), method) == amax(observed(values), method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(100,), (4, 5), (2, 300, 300)], ids=str)
def test_a_tensor_of_zeros_still_has_a_scale(method, shape):
    assert 0 < amax(observed(np.zeros(shape)), method) <= 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_tensor_keeps_its_value(method):
    assert amax(observed(np.full(1000, 0.7)), method) == pytest.approx(0.7, rel=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_a_limit_beyond_the_largest_value_changes_little(method, rng):
    """A first small run makes the limit a power of two times its own maximum: up to twice the largest value."""
    values = rng.normal(size=60_000).astype(np.float32)
    streamed = HistogramObserver()
    streamed.add(values[np.abs(values) < 0.9][:10])
    streamed.add(values)
    assert streamed.limit > streamed.maximum
    assert METHODS[method](streamed) == pytest.approx(METHODS[method](observed(values)), rel=0.1)
    assert METHODS[method](streamed) <= streamed.maximum


@pytest.mark.parametrize("method", METHODS)
def test_the_edge_of_a_bin_is_not_beyond_the_largest_value(method):
    histogram = observed(np.full(10, 0.6))
    histogram.add(np.ones(100_000, np.float32))
    assert histogram.limit > 1.0 and amax(histogram, method) <= 1.0
