"""Histograms of activations, added up run by run."""

from __future__ import annotations

import numpy as np
import pytest

from mimo_calibration.statistics import histogram as histogram_module
from mimo_calibration.statistics.histogram import BINS, SAMPLED, HistogramObserver


def observed(*arrays: np.ndarray) -> HistogramObserver:
    histogram = HistogramObserver()
    for values in arrays:
        histogram.add(values)
    return histogram


def counts_of(values: np.ndarray, limit: float) -> np.ndarray:
    return np.histogram(np.abs(values), bins=BINS, range=(0, limit))[0]


def test_one_array_is_its_histogram(rng):
    values = rng.normal(size=(50, 40)).astype(np.float32)
    histogram = observed(values)
    assert histogram.limit == np.abs(values).max() == histogram.maximum
    # Float32 may put a value that lies on the edge of two bins into the other one.
    assert np.abs(histogram.counts - counts_of(values, histogram.limit)).sum() <= 4
    assert histogram.counts.sum() == histogram.count == values.size
    assert histogram.energy == pytest.approx(np.square(values, dtype=np.float64).sum(), rel=1e-9)
    np.testing.assert_array_equal(histogram.channels, np.abs(values).max(0))


def test_streaming_equals_one_shot(rng):
    values = rng.standard_t(3, size=(12, 7, 16)).astype(np.float32)
    first = values[np.abs(values).max((1, 2)).argsort()][::-1]  # the largest comes first: the limit is the same
    whole, streamed = observed(first), observed(*first)
    np.testing.assert_array_equal(streamed.counts, whole.counts)
    np.testing.assert_array_equal(streamed.channels, whole.channels)
    assert (streamed.limit, streamed.maximum, streamed.count) == (whole.limit, whole.maximum, whole.count)
    assert streamed.energy == pytest.approx(whole.energy, rel=1e-9)


def test_a_larger_value_doubles_the_limit_and_keeps_every_count(rng):
    small, large = rng.uniform(0, 1, 1000).astype(np.float32), rng.uniform(0, 11, 1000).astype(np.float32)
    small[0], large[0] = 1.0, 11.0
    histogram = observed(small, large)
    assert histogram.limit == 16.0 and histogram.maximum == 11.0
    assert histogram.counts.sum() == 2000
    # The same as if the limit had been 16 from the beginning, but for values on an edge: 1 is the last of its bin.
    expected = counts_of(np.concatenate((small, large)), 16.0)
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 2
    assert histogram.largest == [1.0, 11.0]


@pytest.mark.parametrize("factor", [1.0, 3.0, 1e-3, 1e6])
def test_order_matters_only_for_the_width_of_the_bins(rng, factor):
    a, b = rng.normal(size=500).astype(np.float32), (factor * rng.normal(size=500)).astype(np.float32)
    one, two = observed(a, b), observed(b, a)
    assert one.maximum == two.maximum and one.counts.sum() == two.counts.sum() == 1000
    for histogram in (one, two):
        assert histogram.maximum <= histogram.limit < 2 * max(histogram.maximum, histogram.largest[0]) * 1.001
        quarter = np.quantile(np.abs(np.concatenate((a, b))), 0.25)
        assert np.interp(250, np.cumsum(histogram.counts), histogram.centres()) == pytest.approx(
            quarter, abs=3 * histogram.limit / BINS
        )


def test_memory_does_not_grow_with_the_number_of_runs(rng):
    few, many = (observed(*rng.normal(size=(n, 4, 8)).astype(np.float32)) for n in (2, 300))
    for name, array in many.to_arrays("p").items():
        if name != "p/largest":  # one number per run
            assert array.shape == few.to_arrays("p")[name].shape
    assert many.counts.shape == (BINS,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_leaves_no_trace(bad):
    histogram = observed(np.ones((2, 3), np.float32))
    before = {k: v.copy() for k, v in histogram.to_arrays("p").items()}
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        histogram.add(np.array([[1, bad, 2]], np.float32))
    for name, array in histogram.to_arrays("p").items():
        np.testing.assert_array_equal(array, before[name])


def test_nothing_is_added_by_an_empty_array():
    histogram = observed(np.zeros((0, 4), np.float32))
    assert histogram.count == 0 and histogram.largest == [] and histogram.maximum == 0.0 and histogram.channels is None


@pytest.mark.parametrize("tiny", [0.0, 1e-40, 1e-30], ids=str)
def test_zeros_and_what_is_next_to_zero_are_counted(tiny, rng):
    later = rng.uniform(0, 1, 100).astype(np.float32)
    histogram = observed(np.full(7, tiny, np.float32), later)
    assert histogram.counts.sum() == 107 and histogram.maximum == later.max()
    assert histogram.counts[0] >= 7


def test_round_trip_through_arrays(rng):
    for histogram in (
        observed(*rng.normal(size=(5, 3, 8)).astype(np.float32)),
        observed(np.ones(4, np.float32)),
        HistogramObserver(),
    ):
        arrays = histogram.to_arrays("s0")
        again = HistogramObserver.from_arrays("s0", arrays)
        assert all(np.array_equal(a, arrays[name]) for name, a in again.to_arrays("s0").items())
        assert (again.largest, again.count, again.limit, again.energy) == (
            histogram.largest,
            histogram.count,
            histogram.limit,
            histogram.energy,
        )
        assert (again.channels is None) == (histogram.channels is None)
        again.add(np.full((1, 8), 9, np.float32))  # it goes on
        assert again.maximum == 9.0


def test_the_largest_value_per_channel_is_that_of_the_last_axis(rng):
    a, b = (rng.normal(size=(2, 3, 5)).astype(np.float32) for _ in range(2))
    np.testing.assert_array_equal(observed(a, b).channels, np.abs(np.concatenate((a, b))).max((0, 1)))
    # A tensor whose last axis changes (attention over a growing past) has no channels: those of the first run stay.
    np.testing.assert_array_equal(observed(a, b[..., :4]).channels, np.abs(a).max((0, 1)))


@pytest.mark.parametrize("shape", [(4096, 48), (2, 64, 64, 96), (1, 3, 256, 256), (SAMPLED + 1,), (7, 160, 160)], ids=str)
def test_a_sample_of_a_large_tensor_sees_every_channel_and_counts_for_all(shape, rng):
    size, channels = int(np.prod(shape)), shape[-1]
    values = np.zeros(shape, np.float32)
    # Channel c holds c + 1 throughout: the histogram must show each as often as the next.
    values[:] = np.arange(1, channels + 1)
    histogram = observed(values)
    assert histogram.count == size and histogram.counts.sum() == pytest.approx(size)
    assert histogram.maximum == channels
    if channels < BINS:
        filled = histogram.counts[histogram.counts > 0]
        assert len(filled) == channels
        np.testing.assert_allclose(filled, size / channels, rtol=0.02)
    assert histogram.energy == pytest.approx(np.square(values, dtype=np.float64).sum(), rel=0.02)


def test_every_run_weighs_by_its_size(monkeypatch):
    monkeypatch.setattr(histogram_module, "SAMPLED", 100)
    histogram = observed(np.full(10_000, 2.0, np.float32), np.full(50, 1.0, np.float32))
    assert histogram.counts[-1] == pytest.approx(10_000) and histogram.counts[:-1].sum() == pytest.approx(50)
