"""Where activations are clipped: known answers, properties, and the definitions once more in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mimo_calibration.statistics import range_estimators
from mimo_calibration.statistics.histogram import BINS, HistogramObserver
from mimo_calibration.statistics.range_estimators import CANDIDATES, METHODS, PERCENTILE, amax


def observed(values: np.ndarray) -> HistogramObserver:
    seen = HistogramObserver()
    seen.add(np.asarray(values, np.float32))
    return seen


def quantisation_error(values: np.ndarray, limit: float) -> float:
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
    seen = observed(values)
    wanted = np.sort(np.abs(values))[math.ceil(PERCENTILE * values.size) - 1]
    assert amax(seen, "percentile") == pytest.approx(wanted, abs=1.01 * seen.limit / BINS)


def test_percentile_ignores_a_lone_outlier():
    seen = observed(np.append(np.ones(100_000), 1000.0))
    assert amax(seen, "percentile") < 2.0 and amax(seen, "minmax") == 1000.0


def test_mse_is_nearly_the_best_of_its_candidates(values):
    seen = observed(values)
    real = {share: quantisation_error(values.astype(np.float64), share * seen.maximum) for share in CANDIDATES}
    assert quantisation_error(values.astype(np.float64), amax(seen, "mse")) <= 1.05 * min(real.values())


def test_mse_counts_what_rounds_to_zero():
    """Nearly all values are less than half a step of the largest: kept whole, the range would round them all away."""
    values = np.append(np.full(60_000, 3.4e-3), 1.0)
    seen = observed(values)
    best = min(quantisation_error(values, share * seen.maximum) for share in CANDIDATES)
    assert quantisation_error(values, amax(seen, "mse")) < min(2 * best, 0.7 * quantisation_error(values, amax(seen, "minmax")))


@pytest.mark.parametrize("name", ["normal", "heavy", "laplace", "outlier"])
def test_mse_is_better_than_minmax_where_tails_are_long(name, rng):
    values = DATA[name](rng)
    seen = observed(values)
    assert quantisation_error(values, amax(seen, "mse")) < quantisation_error(values, amax(seen, "minmax"))


def test_mse_keeps_the_range_of_a_uniform_tensor():
    seen = observed(np.linspace(-3, 3, 50_000))
    assert amax(seen, "mse") == pytest.approx(3.0, rel=0.02)


def slow_entropy(counts: list[float], limit: float, largest: float) -> float:
    """Migacz' definition, one loop per sum."""
    best, least = largest, math.inf
    for share in CANDIDATES:
        bins = max(128, min(len(counts), round(share * largest / limit * len(counts))))
        p = list(counts[:bins])
        p[-1] += sum(counts[bins:])
        q = [0.0] * bins
        for group in range(128):
            low, high = int(group * (bins / 128)), int((group + 1) * (bins / 128))
            filled = [k for k in range(low, high) if counts[k] > 0]
            for k in filled:
                q[k] = sum(counts[low:high]) / len(filled)
        total_p, total_q = sum(p), sum(q)
        if not total_p:
            continue
        divergence = 0.0
        for a, b in zip(p, q):
            if a > 0:
                divergence += a / total_p * math.log(a / total_p / max(b / max(total_q, 1e-12), 1e-9))
        if divergence < least - 1e-12:
            best, least = bins * limit / len(counts), divergence
    return min(best, largest)


@pytest.mark.parametrize("name", ["normal", "heavy", "outlier", "relu"])
def test_entropy_is_the_published_definition(name, rng):
    seen = observed(DATA[name](rng)[-6000:])
    assert amax(seen, "entropy") == pytest.approx(slow_entropy(seen.counts.tolist(), seen.limit, seen.maximum), rel=1e-6)


def test_entropy_ignores_a_lone_outlier(rng):
    assert amax(observed(np.append(rng.normal(size=100_000), 40.0)), "entropy") < 10.0


@pytest.mark.parametrize("method", METHODS)
def test_a_clip_is_positive_and_never_beyond_the_largest_value(method, values):
    seen = observed(values)
    assert 0 < amax(seen, method) <= seen.maximum * (1 + 1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [2.0, 0.25])
def test_scaled_data_scale_the_clip(method, values, factor):
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
    seen = observed(np.full(10, 0.6))
    seen.add(np.ones(100_000, np.float32))
    assert seen.limit > 1.0 and amax(seen, method) <= 1.0


def test_the_constants_are_what_the_documentation_says():
    assert range_estimators.LEVELS == 2**7 - 1 and range_estimators.PERCENTILE == 0.99995
    assert range_estimators.CANDIDATES[-1] == 1.0  # minmax is always among them
