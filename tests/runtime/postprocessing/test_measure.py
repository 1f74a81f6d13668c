"""Areas and lengths of masks against shapes whose true measures are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.postprocessing.measure import area_of, ellipse_of, longest_diameter, perimeter_of, short_axis


def ellipse(a: float, b: float, angle: float, spacing: tuple[float, float], size: int = 160) -> np.ndarray:
    """An ellipse with semi-axes in mm around the middle, drawn by pixel centres."""
    y, x = (np.mgrid[:size, :size] + 0.5 - size / 2 - 0.21).astype(float)
    x, y = x * spacing[1], y * spacing[0]
    u, v = x * math.cos(angle) + y * math.sin(angle), -x * math.sin(angle) + y * math.cos(angle)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


@pytest.mark.parametrize("diameter", [6, 10, 15, 20, 30, 40])
@pytest.mark.parametrize("pixel", [0.4, 0.7, 1.0])
def test_discs_measure_within_half_a_pixel(diameter: float, pixel: float) -> None:
    disc = ellipse(diameter / 2, diameter / 2, 0, (pixel, pixel))
    long = longest_diameter(disc, (pixel, pixel))
    assert abs(long.length - diameter) <= pixel / 2
    assert abs(short_axis(disc, long, (pixel, pixel)).length - diameter) <= pixel
    assert perimeter_of(disc, (pixel, pixel)) == pytest.approx(math.pi * diameter, rel=0.03)


@settings(max_examples=60, deadline=None)
@given(st.floats(10, 30), st.floats(0.4, 1), st.floats(0, math.pi), st.floats(0.5, 0.9), st.floats(0.5, 0.9))
def test_turned_ellipses_with_pixels_that_are_not_square(a, ratio, angle, row, column) -> None:  # noqa: ANN001
    spacing, b = (row, column), a * ratio
    mask = ellipse(a, b, angle, spacing)
    long = longest_diameter(mask, spacing)
    assert long.length == pytest.approx(2 * a, abs=1.2 * max(spacing))
    if ratio < 0.8:
        assert short_axis(mask, long, spacing).length == pytest.approx(2 * b, rel=0.08, abs=1.5 * max(spacing))
    fitted = ellipse_of(mask, spacing)
    assert (fitted.semi_major, fitted.semi_minor) == (pytest.approx(a, rel=0.03), pytest.approx(b, rel=0.03))
    h = ((a - b) / (a + b)) ** 2
    assert fitted.circumference == pytest.approx(math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h))), rel=0.02)
    assert area_of(mask, spacing) == pytest.approx(math.pi * a * b, rel=0.04)
    assert perimeter_of(mask, spacing) == pytest.approx(fitted.circumference, rel=0.06)


@pytest.mark.parametrize(("a", "b"), [(7.0, 5.5), (16.0, 12.0), (30.0, 24.0), (55.0, 42.0)])
@pytest.mark.parametrize("degrees", [0, 17, 45, 73, 90, 121])
@pytest.mark.parametrize("pixel", [0.16, 0.38, 0.6])
def test_the_circumference_of_a_head_is_right_within_half_a_percent(a: float, b: float, degrees: int, pixel: float) -> None:
    """Heads of the size of HC18, of 40 to 310 mm."""
    size = int(2.2 * a / pixel) + 4
    mask = ellipse(a, b, math.radians(degrees), (pixel, pixel), size)
    h = ((a - b) / (a + b)) ** 2
    true = math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
    assert ellipse_of(mask, (pixel, pixel)).circumference == pytest.approx(true, rel=0.005)


def test_an_ellipse_with_a_hole_measures_as_one_without_and_stays_where_it_is() -> None:
    mask = np.zeros((60, 90), bool)
    mask[5:45, 20:70] = ellipse(20, 14, 0.4, (1.0, 1.0), 50)[5:45]
    hollow = (
        mask & ~np.roll(mask, 3, 0) | mask & ~np.roll(mask, -3, 0) | mask & ~np.roll(mask, 3, 1) | mask & ~np.roll(mask, -3, 1)
    )
    assert hollow.sum() < mask.sum() / 2
    assert ellipse_of(hollow) == ellipse_of(mask)
    rows, columns = np.nonzero(mask)
    assert ellipse_of(mask).center == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_an_ellipse_has_the_area_of_its_mask(seed) -> None:  # noqa: ANN001
    from mimo_runtime.postprocessing.connected_components import label_components

    labels, _ = label_components(np.random.default_rng(seed).random((14, 17)) > 0.7)
    mask = labels == 1 if (labels == 1).any() else np.ones((3, 4), bool)
    fitted = ellipse_of(mask, (0.5, 2.0))
    filled = math.pi * fitted.semi_major * fitted.semi_minor
    assert filled >= area_of(mask, (0.5, 2.0)) - 1e-9 and filled == pytest.approx(round(filled))


def test_the_ends_of_a_diameter_are_pixels_of_the_mask() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:7, 3:23] = True
    long = longest_diameter(mask)
    assert long.length == pytest.approx(math.hypot(19, 2) + 0.25, abs=0.01)
    for x, y in (long.start, long.end):
        assert mask[int(y), int(x)] and (x % 1, y % 1) == (0.5, 0.5)
    assert short_axis(mask, long).length == pytest.approx(2.25, abs=0.5)


def test_a_single_pixel_has_the_size_of_a_pixel() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    long = longest_diameter(mask, (2.0, 0.5))
    assert (long.length, long.start) == (0.5, (4.5, 4.5)) and short_axis(mask, long, (2.0, 0.5)).length <= 0.5
    assert area_of(mask, (2.0, 0.5)) == 1.0 and ellipse_of(mask).semi_minor == pytest.approx(1 / math.sqrt(math.pi))


def test_a_line_and_an_empty_mask() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 1:8] = True
    assert longest_diameter(mask, (1.0, 0.5)).length == pytest.approx(3.125)
    with pytest.raises(ValueError, match="empty"):
        longest_diameter(np.zeros((9, 9), bool))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_longest_diameter_is_that_of_all_pairs(seed) -> None:  # noqa: ANN001
    mask = np.random.default_rng(seed).random((12, 12)) > 0.8
    mask[3, 4] = True
    points = np.argwhere(mask) * (0.7, 1.3)
    farthest = float(np.sqrt(((points[:, None] - points) ** 2).sum(-1)).max())
    long = longest_diameter(mask, (0.7, 1.3))
    ends = np.subtract(long.end, long.start) * (1.3, 0.7)
    assert float(np.linalg.norm(ends)) == pytest.approx(farthest)
    assert max(0.7, farthest + 0.1) <= long.length <= max(0.7, farthest + 0.4)
