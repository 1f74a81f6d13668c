"""Outlines of COCO: run-length encoding and polygons."""

from __future__ import annotations

from typing import Any

import numpy as np
from coco_source import HEIGHT, WIDTH, box, compress_rle, rle_runs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mimo_train.data.importers.rle import decode
from mimo_train.data.importers.shapes import draw


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_rle_round_trip(mask: np.ndarray) -> None:
    runs = rle_runs(mask)
    np.testing.assert_array_equal(decode(runs, *mask.shape), mask)
    np.testing.assert_array_equal(decode(compress_rle(runs), *mask.shape), mask)


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=6))
def test_rle_of_long_runs(runs: list[int]) -> None:
    if sum(runs):
        np.testing.assert_array_equal(decode(compress_rle(runs), sum(runs), 1), decode(runs, sum(runs), 1))


@given(st.text(max_size=30))
def test_a_damaged_rle_is_refused_and_never_crashes(text: str) -> None:
    try:
        assert decode(text, 5, 6).shape == (5, 6)
    except ValueError as error:
        assert "RLE" in str(error)


def test_rle_as_pycocotools_writes_it() -> None:
    """Texts made with pycocotools 2.0.11."""
    two = np.zeros((9, 7), bool)
    two[2:5, 1:4] = two[7, 6] = True
    np.testing.assert_array_equal(decode(";36000g0NTO", 9, 7), two)
    np.testing.assert_array_equal(decode("0<", 3, 4), np.ones((3, 4), bool))
    y, x = np.mgrid[:50, :64]
    ring = ((y - 20.0) ** 2 + (x - 40.0) ** 2 < 15**2) & ~((y - 22.0) ** 2 + (x - 43.0) ** 2 < 5**2)
    text = "SY1;U14M2M4M2O0O2N2O0O2O000000A@L`03BL>3DL<4DL<4DL<4DL<4DL=4AL`05^OLc0`02N101N3L3N3Le="
    np.testing.assert_array_equal(decode(text, 50, 64), ring)


def test_a_polygon_holds_the_pixels_whose_centres_are_inside() -> None:
    def drawn(segmentation: Any) -> np.ndarray:
        shape, whole = draw(segmentation, HEIGHT, WIDTH), np.zeros((HEIGHT, WIDTH), bool)
        whole[shape.top : shape.top + shape.mask.shape[0], shape.left : shape.left + shape.mask.shape[1]] = shape.mask
        return whole

    polygon, mask = box(3, 5, 20, 11)
    points = [polygon[i : i + 2] for i in range(0, 8, 2)]
    for outline in ([polygon], polygon, points):
        np.testing.assert_array_equal(drawn(outline), mask)
    np.testing.assert_array_equal(drawn([box(-9, -4, 6, 300)[0]])[:, :6], True)
    assert drawn([box(-9, -4, 6, 300)[0]]).sum() == 6 * HEIGHT and not drawn([[-9, -9, -2, -9, -2, -2]]).any()
    # A ring drawn as one line that crosses itself is hollow; two polygons are united.
    ring = [0, 0, 10, 0, 10, 10, 0, 10, 0, 0, 3, 3, 3, 7, 7, 7, 7, 3, 3, 3]
    assert drawn([ring]).sum() == 100 - 16 and drawn([box(1, 1, 4, 4)[0], box(3, 3, 30, 5)[0]]).sum() == 9 + 54 - 1
    star = np.random.default_rng(1).uniform(0, 40, (9, 2))
    inside = np.zeros((HEIGHT, WIDTH), bool)
    for (x0, y0), (x1, y1) in zip(star, np.roll(star, -1, 0)):  # the even-odd rule, for all pixel centres
        y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        inside ^= ((y0 > y) != (y1 > y)) & (x > x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    np.testing.assert_array_equal(drawn([star.reshape(-1).tolist()]), inside)
