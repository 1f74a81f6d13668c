"""Outlines hold exactly the pixels of their mask."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mimo_runtime.clinical.outlines import outlines_of


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_signed_areas_sum_to_the_pixels_and_no_point_is_superfluous(seed, density) -> None:  # noqa: ANN001
    mask = np.random.default_rng(seed).random((9, 11)) < density
    polygons = outlines_of(mask)
    assert sum(area(p) for p in polygons) == mask.sum()
    for polygon in polygons:
        edges = np.roll(polygon, -1, 0) - polygon
        assert ((edges == 0).sum(1) == 1).all()
        turned = np.roll(edges, -1, 0)
        assert (edges[:, 0] * turned[:, 1] - edges[:, 1] * turned[:, 0] != 0).all()


def test_a_part_with_a_hole_has_two_borders_of_opposite_direction() -> None:
    mask = np.zeros((10, 12), bool)
    mask[2:8, 3:10] = True
    mask[4:6, 5:7] = False
    outer, hole = sorted(outlines_of(mask), key=area, reverse=True)
    assert (area(outer), area(hole)) == (42, -4) and len(outer) == 4
    assert {tuple(p) for p in outer} == {(3, 2), (10, 2), (10, 8), (3, 8)}
    drawn = Image.new("1", (24, 20))
    ImageDraw.Draw(drawn).polygon([(2 * x, 2 * y) for x, y in outer], fill=1)
    assert np.asarray(drawn)[9, 13]


def test_corners_that_touch_are_separate_parts() -> None:
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = mask[1, 1] = True
    assert sorted(area(p) for p in outlines_of(mask)) == [1, 1] and outlines_of(np.zeros((3, 3), bool)) == []
