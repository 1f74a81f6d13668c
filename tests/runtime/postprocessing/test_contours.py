"""Contours: nested, larger with the parameter, exact discs, and fast enough to be read with every answer."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.model.calibrated import (
    ContourCalibration,
    PresenceCalibration,
    absent_below,
    contours_for,
)
from mimo_runtime.postprocessing.contours import dilate, erode, inner_and_outer


def blobs(seed: int, side: int = 40) -> np.ndarray:
    """A few ellipses, which may touch the border; bool ``[H, W]``, not empty."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(6, side, 2)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(rng.integers(1, 4)):
        (cy, cx), (ry, rx) = rng.uniform(0, (height, width)), rng.uniform(1, side / 3, 2)
        mask |= ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
    mask[rng.integers(height), rng.integers(width)] = True
    return mask


def dilated_by_pairs(mask: np.ndarray, radius: float) -> np.ndarray:
    """All pairs of pixels: slow and plain."""
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    return (((y[..., None] - rows) ** 2 + (x[..., None] - columns) ** 2) <= radius**2).any(-1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 60))
def test_dilation_and_erosion_are_those_of_a_disc(seed: int, radius: float) -> None:
    mask = blobs(seed, 24)
    np.testing.assert_array_equal(dilate(mask, radius), dilated_by_pairs(mask, radius))
    np.testing.assert_array_equal(erode(mask, radius), mask & ~dilated_by_pairs(~mask, radius))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 100), st.floats(0, 100), st.floats(0, 3), st.floats(0, 3))
def test_contours_are_nested_and_grow_with_their_parameters(
    seed: int, inner: float, outer: float, less: float, more: float
) -> None:
    mask = blobs(seed)
    before = mask.copy()
    small, large = inner_and_outer(mask, ContourCalibration("", "box", inner, outer, 20))
    assert small.dtype == large.dtype == bool and small.shape == large.shape == mask.shape
    assert not (small & ~mask).any() and not (mask & ~large).any()
    smaller, larger = inner_and_outer(mask, ContourCalibration("", "box", inner + less, outer + more, 20))
    assert not (smaller & ~small).any() and not (large & ~larger).any()
    np.testing.assert_array_equal(mask, before)


def test_parameters_of_zero_give_the_mask_and_large_ones_nothing_and_everything() -> None:
    mask = blobs(3)
    for contour in inner_and_outer(mask, ContourCalibration("", "box", 0.0, 0.0, 20)):
        np.testing.assert_array_equal(contour, mask)
    inner, outer = inner_and_outer(mask, ContourCalibration("", "box", 100.0, 100.0, 20))
    assert not inner.any() and outer.all()


def test_an_empty_mask_has_empty_contours() -> None:
    inner, outer = inner_and_outer(np.zeros((5, 7), bool), ContourCalibration("", "box", 1.0, 1.0, 20))
    assert not inner.any() and not outer.any()


def test_the_border_of_the_image_does_not_erode() -> None:
    mask = np.zeros((40, 40), bool)
    mask[:, :20] = True
    inner = erode(mask, 5.0)
    assert inner[:, :15].all() and not inner[:, 15:].any()


def test_contours_of_a_usual_image_take_milliseconds() -> None:
    y, x = np.mgrid[:256, :256]
    mask = ((y - 120) / 70) ** 2 + ((x - 140) / 50) ** 2 <= 1
    entry = ContourCalibration("", "box", 0.1, 0.15, 20)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        inner_and_outer(mask, entry)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.004  # 0.5 ms on a free core


ENTRIES = (ContourCalibration("", "box", 0.1, 0.2, 90), ContourCalibration("liver", "box", 0.3, 0.4, 30))


@pytest.mark.parametrize(
    ("name", "prompt", "inner"),
    [("liver", "box", 0.3), ("spleen", "box", 0.1), (None, "box", 0.1), ("liver", "point", None)],
)
def test_a_structure_without_an_entry_has_that_of_all_structures(name: str | None, prompt: str, inner: float | None) -> None:
    entry = contours_for(ENTRIES, name, prompt)
    assert (entry and entry.inner) == inner


def test_exclusion_by_structure() -> None:
    entries = (PresenceCalibration("", 0.1, 90), PresenceCalibration("liver", 0.3, 30))
    assert absent_below(entries, "liver") == 0.3 and absent_below(entries, "spleen") == absent_below(entries, None) == 0.1
    assert absent_below((), "liver") is None and absent_below(entries[1:], "spleen") is None
