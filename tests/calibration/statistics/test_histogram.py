"""Histograms of activations, added up run by run."""

from __future__ import annotations

import numpy as np
import pytest

from mimo_calibration.statistics import histogram
from mimo_calibration.statistics.histogram import BINS, SAMPLED, HistogramObserver


def observed(*arrays: np.ndarray) -> HistogramObserver:
    seen = HistogramObserver()
    for values in arrays:
        seen.add(values)
    return seen


def counts_of(values: np.ndarray, limit: float) -> np.ndarray:
    return np.histogram(np.abs(values), bins=BINS, range=(0, limit))[0]


def test_one_array_is_its_histogram(rng):
    values = rng.normal(size=(50, 40)).astype(np.float32)
    seen = observed(values)
    assert seen.limit == np.abs(values).max() == seen.maximum
    # Float32 may put a value that lies on the edge of two bins into the other one.
    assert np.abs(seen.counts - counts_of(values, seen.limit)).sum() <= 4
    assert seen.counts.sum() == seen.seen == values.size
    assert seen.energy == pytest.approx(np.square(values, dtype=np.float64).sum(), rel=1e-9)
    np.testing.assert_array_equal(seen.channels, np.abs(values).max(0))


def test_streaming_equals_one_shot(rng):
    values = rng.standard_t(3, size=(12, 7, 16)).astype(np.float32)
    first = values[np.abs(values).max((1, 2)).argsort()][::-1]  # the largest comes first: the limit is the same
    whole, streamed = observed(first), observed(*first)
    np.testing.assert_array_equal(streamed.counts, whole.counts)
    np.testing.assert_array_equal(streamed.channels, whole.channels)
    assert (streamed.limit, streamed.maximum, streamed.seen) == (whole.limit, whole.maximum, whole.seen)
    assert streamed.energy == pytest.approx(whole.energy, rel=1e-9)


def test_a_larger_value_doubles_the_limit_and_keeps_every_count(rng):
    small, large = rng.uniform(0, 1, 1000).astype(np.float32), rng.uniform(0, 11, 1000).astype(np.float32)
    small[0], large[0] = 1.0, 11.0
    seen = observed(small, large)
    assert seen.limit == 16.0 and seen.maximum == 11.0
    assert seen.counts.sum() == 2000
    # The same as if the limit had been 16 from the beginning, but for values on an edge: 1 is the last of its bin.
    wanted = counts_of(np.concatenate((small, large)), 16.0)
    assert np.abs(np.cumsum(seen.counts) - np.cumsum(wanted)).max() <= 2
    assert seen.largest == [1.0, 11.0]


@pytest.mark.parametrize("factor", [1.0, 3.0, 1e-3, 1e6])
def test_order_matters_only_for_the_width_of_the_bins(rng, factor):
    a, b = rng.normal(size=500).astype(np.float32), (factor * rng.normal(size=500)).astype(np.float32)
    one, two = observed(a, b), observed(b, a)
    assert one.maximum == two.maximum and one.counts.sum() == two.counts.sum() == 1000
    for seen in (one, two):
        assert seen.maximum <= seen.limit < 2 * max(seen.maximum, seen.largest[0]) * 1.001
        quarter = np.quantile(np.abs(np.concatenate((a, b))), 0.25)
        assert np.interp(250, np.cumsum(seen.counts), seen.centres()) == pytest.approx(quarter, abs=3 * seen.limit / BINS)


def test_memory_does_not_grow_with_the_number_of_runs(rng):
    few, many = (observed(*rng.normal(size=(n, 4, 8)).astype(np.float32)) for n in (2, 300))
    for name, array in many.to_arrays("p").items():
        if name != "p/largest":  # one number per run
            assert array.shape == few.to_arrays("p")[name].shape
    assert many.counts.shape == (BINS,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_leaves_no_trace(bad):
    seen = observed(np.ones((2, 3), np.float32))
    before = {k: v.copy() for k, v in seen.to_arrays("p").items()}
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        seen.add(np.array([[1, bad, 2]], np.float32))
    for name, array in seen.to_arrays("p").items():
        np.testing.assert_array_equal(array, before[name])


def test_nothing_is_added_by_an_empty_array():
    seen = observed(np.zeros((0, 4), np.float32))
    assert seen.seen == 0 and seen.largest == [] and seen.maximum == 0.0 and seen.channels is None


@pytest.mark.parametrize("tiny", [0.0, 1e-40, 1e-30], ids=str)
def test_zeros_and_what_is_next_to_zero_are_counted(tiny, rng):
    later = rng.uniform(0, 1, 100).astype(np.float32)
    seen = observed(np.full(7, tiny, np.float32), later)
    assert seen.counts.sum() == 107 and seen.maximum == later.max()
    assert seen.counts[0] >= 7


def test_round_trip_through_arrays(rng):
    for seen in (
        observed(*rng.normal(size=(5, 3, 8)).astype(np.float32)),
        observed(np.ones(4, np.float32)),
        HistogramObserver(),
    ):
        arrays = seen.to_arrays("s0")
        again = HistogramObserver.from_arrays("s0", arrays)
        assert all(np.array_equal(a, arrays[name]) for name, a in again.to_arrays("s0").items())
        assert (again.largest, again.seen, again.limit, again.energy) == (seen.largest, seen.seen, seen.limit, seen.energy)
        assert (again.channels is None) == (seen.channels is None)
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
    seen = observed(values)
    assert seen.seen == size and seen.counts.sum() == pytest.approx(size)
    assert seen.maximum == channels
    if channels < BINS:
        found = seen.counts[seen.counts > 0]
        assert len(found) == channels
        np.testing.assert_allclose(found, size / channels, rtol=0.02)
    assert seen.energy == pytest.approx(np.square(values, dtype=np.float64).sum(), rel=0.02)


def test_every_run_weighs_by_its_size(monkeypatch):
    monkeypatch.setattr(histogram, "SAMPLED", 100)
    seen = observed(np.full(10_000, 2.0, np.float32), np.full(50, 1.0, np.float32))
    assert seen.counts[-1] == pytest.approx(10_000) and seen.counts[:-1].sum() == pytest.approx(50)
