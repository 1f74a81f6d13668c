"""Masks and boxes from logits."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from slowness import slowness

from mimo_runtime.postprocessing.masks import (
    box_of_mask,
    mask_from_logits,
    pixel_counts,
    remove_small_parts,
    sigmoid,
    soft_centroid,
)  # fmt: skip
from mimo_runtime.preprocessing.letterbox import Letterbox


def test_sigmoid_is_finite_for_large_values() -> None:
    values = sigmoid(np.array([-1000, -1, 0, 1, 1000], np.float32))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, [0, 1 / (1 + math.e), 0.5, math.e / (1 + math.e), 1], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (7, 301), (2000, 3), (900, 1100)])
def test_pixels_of_rows_and_columns_are_exact(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.7
    in_rows, in_columns = pixel_counts(mask)
    np.testing.assert_array_equal(in_rows, mask.sum(1))
    np.testing.assert_array_equal(in_columns, mask.sum(0))


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7])
def test_threshold_is_a_probability_and_includes_its_edge(threshold: float) -> None:
    logit = math.log(threshold / (1 - threshold))
    logits = np.array([[logit - 1e-3, logit, logit + 1e-3, np.nan]])
    np.testing.assert_array_equal(mask_from_logits(logits, threshold), [[False, True, True, False]])


@pytest.mark.parametrize("threshold", [0, 1, -3, float("nan")])
def test_thresholds_outside_zero_to_one_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        mask_from_logits(np.zeros((2, 2)), threshold)


def test_specks_go_and_holes_stay() -> None:
    mask = np.zeros((60, 60), bool)
    mask[5:45, 5:45] = True
    mask[20:25, 20:25] = False  # a hole
    wanted = mask.copy()
    wanted[50:52, 50:52] = mask[50:52, 50:52] = True  # four pixels: just large enough
    mask[0, 0] = mask[55, 3] = mask[55, 4] = mask[56, 4] = True  # one pixel, three pixels
    before = mask.copy()
    np.testing.assert_array_equal(remove_small_parts(mask), wanted)
    np.testing.assert_array_equal(mask, before)


def test_parts_below_a_thousandth_of_the_largest_go() -> None:
    mask = np.zeros((200, 200), bool)
    mask[:, :150] = True  # 30000 pixels
    mask[0:5, 160:165] = True  # 25, less than 30
    mask[50:56, 160:165] = True  # 30
    clean = remove_small_parts(mask)
    assert not clean[0:5, 160:165].any() and clean[50:56, 160:165].all() and clean[:, :150].all()


def test_the_limit_grows_with_the_cell() -> None:
    mask = np.zeros((60, 60), bool)
    mask[:20, :20] = mask[40:45, 40:45] = True  # 400 and 25
    assert remove_small_parts(mask, cell_area=6)[42, 42]
    assert not remove_small_parts(mask, cell_area=7)[42, 42]


def test_the_largest_part_always_stays() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 4:6] = mask[0, 0] = True
    clean = remove_small_parts(mask, cell_area=50)
    assert clean.sum() == 2 and clean[4, 4:6].all()


def test_an_empty_mask_stays_empty_and_has_no_box() -> None:
    empty = np.zeros((5, 7), bool)
    assert not remove_small_parts(empty).any() and remove_small_parts(empty) is not empty
    assert box_of_mask(empty) is None


def test_box_is_tight_and_half_open() -> None:
    mask = np.zeros((10, 20), bool)
    mask[3:5, 7:12] = True
    assert box_of_mask(mask) == (7, 3, 12, 5)
    mask[9, 19] = mask[0, 0] = True
    assert box_of_mask(mask) == (0, 0, 20, 10)


def test_large_noisy_masks_are_fast() -> None:
    """2000 x 2000 with some ten thousand specks: a pixel-by-pixel loop would need many seconds."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-3, 1.3, (2000, 2000)).astype(np.float32)
    logits[500:1500, 500:1500] += 8
    start = time.process_time()
    mask = mask_from_logits(logits, cell_area=60)
    assert time.process_time() - start < 3 * slowness()
    assert mask[500:1500, 500:1500].mean() > 0.99 and mask.sum() < 1.02e6


# -- the expected centre -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 100), (300, 90), (1, 50)])
def test_the_expected_centre_of_a_sure_mask_is_its_centroid(height, width):
    letterbox = Letterbox(height, width, 64)
    x, y = 0.3 * width, 0.6 * height
    columns, rows = np.meshgrid(*(np.arange(64) + 0.5,) * 2)
    px, py = (c * f * 64 for c, f in zip((x, y), letterbox.factors))
    logits = np.where((columns - px) ** 2 + (rows - py) ** 2 <= 9, 12.0, -12.0)
    found = soft_centroid(logits, letterbox)
    cell = max(height, width) / 64
    assert abs(found[0] - x) <= cell and abs(found[1] - y) <= cell


def test_the_expected_centre_weighs_by_how_sure_it_is_and_ignores_the_padding():
    logits = np.full((64, 64), -12.0)
    logits[10:14, 10:14], logits[10:14, 50:54], logits[40:, :] = 3.0, -1.5, 12.0
    x, y = soft_centroid(logits, Letterbox(32, 64, 64))
    assert 12 <= x < 15 and 11 < y < 13


def test_nothing_anywhere_is_expected_in_the_middle():
    assert soft_centroid(np.full((64, 64), -30.0), Letterbox(100, 200, 64)) == pytest.approx((100, 50), abs=2)
