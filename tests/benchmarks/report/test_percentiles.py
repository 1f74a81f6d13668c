from __future__ import annotations

import pytest

from mimo_benchmarks.engine_trace import covered
from mimo_benchmarks.report.percentiles import percentiles


def test_percentiles_of_a_ramp():
    assert percentiles(range(101)) == {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0}


def test_percentiles_of_one_sample():
    assert percentiles([3.25]) == {"p50_ms": 3.25, "p90_ms": 3.25, "p99_ms": 3.25}


@pytest.mark.parametrize(
    ("spans", "length"),
    [
        ([], 0),
        ([(1, 3)], 2),
        ([(5, 6), (1, 3)], 3),  # in any order
        ([(1, 4), (2, 3)], 3),  # one inside the other
        ([(1, 3), (2, 5)], 4),  # overlapping
        ([(1, 3), (1, 3), (3, 4)], 3),  # equal, and touching
    ],
)
def test_time_covered_by_spans_counts_overlaps_once(spans: list[tuple[float, float]], length: float):
    assert covered(spans) == length
