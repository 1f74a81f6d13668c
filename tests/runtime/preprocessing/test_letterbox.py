"""The letterbox must not move anything, by no fraction of a pixel, for any size and aspect ratio."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.preprocessing.letterbox import Letterbox

SIDES = st.integers(8, 700)
SIZES = st.sampled_from([64, 256, 512])


@given(SIDES, SIDES, SIZES)
def test_the_longer_side_fills_the_square(height: int, width: int, size: int) -> None:
    box = Letterbox(height, width, size)
    assert max(box.new_height, box.new_width) == size
    assert 1 <= min(box.new_height, box.new_width) <= size
    # Rounded to the nearest whole pixel, as the definition says.
    assert abs(box.new_height - height * size / max(height, width)) <= max(0.5, 1 - height * size / max(height, width))
    assert abs(box.new_width - width * size / max(height, width)) <= max(0.5, 1 - width * size / max(height, width))


@given(SIDES, SIDES, SIZES)
def test_corners_map_to_corners(height: int, width: int, size: int) -> None:
    box = Letterbox(height, width, size)
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]])
    expected = corners / (width, height) * (box.new_width, box.new_height) / size
    np.testing.assert_allclose(box.points(corners), expected, atol=1e-6)
    np.testing.assert_allclose(box.boxes([[0, 0, width, height]])[0], [0, 0, *expected[3]], atol=1e-6)


@settings(max_examples=60)
@given(SIDES, SIDES, SIZES, st.floats(-1, 1), st.floats(-1, 1), st.floats(-3, 3), st.sampled_from([2, 4]))
def test_a_linear_field_comes_back_exactly(
    height: int, width: int, size: int, a: float, b: float, c: float, stride: int
) -> None:
    """Logits that are a linear function of the ORIGINAL coordinates must have the same values at the pixels' centres.

    Bilinear interpolation reproduces linear functions, so a shift of any fraction of a pixel shows. Beyond the centres of
    the outermost cells of the image the nearest cell counts.
    """
    box = Letterbox(height, width, size)
    side = size // stride
    # Centres of the cells in pixels of the image.
    x = (np.arange(side) + 0.5) * stride / box.new_width * width
    y = (np.arange(side) + 0.5) * stride / box.new_height * height
    logits = (a * x[None, :] / width + b * y[:, None] / height + c).astype(np.float32)
    back = box.unletterbox_masks(logits[None])
    assert back.shape == (1, height, width) and back.dtype == np.float32
    # The last cell with a part of the image in it, counted in whole numbers.
    u = np.clip(np.arange(width) + 0.5, x[0], x[-(-box.new_width // stride) - 1])
    v = np.clip(np.arange(height) + 0.5, y[0], y[-(-box.new_height // stride) - 1])
    np.testing.assert_allclose(back[0], a * u[None, :] / width + b * v[:, None] / height + c, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.sampled_from([256, 512]), st.data())
def test_a_mask_comes_back(height: int, width: int, size: int, data: st.DataObject) -> None:
    """Mask -> coverage of the model's grid -> logits -> mask: an ellipse changes only along its edge."""
    box = Letterbox(height, width, size)
    cx, cy = data.draw(st.floats(0.2, 0.8)) * width, data.draw(st.floats(0.2, 0.8)) * height
    rx, ry = data.draw(st.floats(0.1, 0.4)) * width, data.draw(st.floats(0.1, 0.4)) * height
    u, v = np.arange(width) + 0.5, np.arange(height) + 0.5
    mask = ((u[None, :] - cx) / rx) ** 2 + ((v[:, None] - cy) / ry) ** 2 <= 1
    back = box.unletterbox_masks(box.coverage(mask, size // 2)[None] - 0.5)[0] >= 0
    assert back.shape == (height, width)
    cell = max(1, 2 * max(height, width) / size)  # pixels of the image per cell
    wrong = mask != back
    # Every wrong pixel lies within about a cell of the true edge: |r - 1| in units of the radius.
    radius = np.sqrt(((u[None, :] - cx) / rx) ** 2 + ((v[:, None] - cy) / ry) ** 2)
    assert not (wrong & (np.abs(radius - 1) > 1.5 * cell / min(rx, ry))).any()


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.data())
def test_a_window_of_the_masks_is_cut_from_the_whole(height, width, data):
    box, logits = Letterbox(height, width, 64), np.random.default_rng(0).normal(size=(2, 16, 16)).astype(np.float32)
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    whole = box.unletterbox_masks(logits)
    np.testing.assert_array_equal(box.unletterbox_masks(logits, (left, top, right, bottom)), whole[:, top:bottom, left:right])


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32), st.sampled_from([0.1, 1, 60000]), st.floats(-3, 3))
def test_no_pixel_outside_of_the_reaching_window_reaches_the_level(height, width, seed, scale, level):
    box, rng = Letterbox(height, width, 64), np.random.default_rng(seed)
    logits = (rng.normal(-1, scale, (16, 16)) * (rng.random((16, 16)) < 0.2)).astype(np.float32) - np.float32(rng.integers(5))
    logits[rng.integers(16), rng.integers(16)] = level
    reaches = box.unletterbox_masks(logits[None])[0] >= level
    window = box.window_reaching(logits, level)
    if window is not None:
        left, top, right, bottom = window
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        reaches[top:bottom, left:right] = False
    assert not reaches.any()


def test_the_reaching_window_is_small_for_a_small_structure_and_whole_where_logits_are_no_numbers() -> None:
    box, logits = Letterbox(128, 96, 64), np.full((16, 16), -5, np.float32)
    assert box.window_reaching(logits, 0) is None
    logits[8, 4] = 5
    left, top, right, bottom = box.window_reaching(logits, 0)
    assert left <= 36 < right and top <= 68 < bottom and (right - left) * (bottom - top) <= 24 * 24
    logits[0, 0] = np.nan
    assert box.window_reaching(logits, 0) == (0, 0, 96, 128)


@given(st.integers(4, 9), st.integers(4, 9))
def test_masks_back_is_exact_where_cells_are_pixels(rows: int, columns: int) -> None:
    """If the square has the size of the image and the grid the size of the square, nothing may change at all."""
    side = max(rows, columns)
    logits = np.random.default_rng(rows * 10 + columns).normal(size=(3, side, side)).astype(np.float32)
    np.testing.assert_array_equal(Letterbox(rows, columns, side).unletterbox_masks(logits), logits[:, :rows, :columns])


def test_padding_does_not_leak_into_the_image() -> None:
    """New height 34 of 64, grid of 32: row 17 on is padding."""
    box = Letterbox(53, 100, 64)
    assert box.new_height == 34
    logits = np.full((1, 32, 32), 7, np.float32)
    logits[:, 17:] = -100
    assert (box.unletterbox_masks(logits) == 7).all()


@pytest.mark.parametrize(("height", "width"), [(16384, 8), (8, 16384), (8, 8), (1, 1), (4000, 257)])
def test_images_of_extreme_shapes_keep_their_pixels(height: int, width: int) -> None:
    box = Letterbox(height, width, 256)
    assert box.image(np.full((height, width, 3), 255, np.uint8)).max() == 1
    assert box.unletterbox_masks(np.ones((1, 128, 128), np.float32)).shape == (1, height, width)
    assert box.mask(np.ones((height, width), bool)).shape == (1, 64, 64)


def test_image_values_layout_and_padding() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = 255, 51, 0
    image = Letterbox(20, 40, 64).image(pixels)
    assert image.shape == (3, 64, 64) and image.dtype == np.float32 and image.flags.c_contiguous
    np.testing.assert_array_equal(image[:, :32].reshape(3, -1).max(1), np.array([1, 0.2, 0], np.float32))
    np.testing.assert_array_equal(image[:, :32].reshape(3, -1).min(1), np.array([1, 0.2, 0], np.float32))
    assert (image[:, 32:] == 0).all()


def test_image_shrinks_with_antialiasing() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the square can show: must become grey, not stripes
    image = Letterbox(256, 256, 64).image(stripes)
    assert np.abs(image[:, :, 1:-1] - 0.5).max() < 0.02


@pytest.mark.parametrize(("height", "width"), [(512, 512), (31, 77), (8, 9), (70, 64)])
def test_each_channel_is_resized_as_it_is_by_itself(height: int, width: int, rng: np.random.Generator) -> None:
    box = Letterbox(height, width, 64)
    colours = rng.integers(0, 256, (height, width, 3), np.uint8)
    for channel, square in enumerate(box.image(colours)):
        grey = np.repeat(colours[..., channel, None], 3, axis=2)
        assert np.array_equal(box.image(grey), np.stack([square] * 3))


@pytest.mark.parametrize("place", [(0, 0), (20, 40), (63, 63)])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_one_coloured_pixel_keeps_its_colour(place: tuple[int, int], channel: int) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[(*place, channel)] = 255
    square = Letterbox(64, 64, 64).image(pixels)
    assert square[(channel, *place)] == 1 and square.sum() == 1


def test_coverage_is_the_covered_fraction() -> None:
    mask = np.zeros((64, 64), bool)
    mask[:2, :3] = True
    cells = Letterbox(64, 64, 64).coverage(mask, 16)
    assert cells[0, 0] == 6 / 16 and cells.sum() == 6 / 16


@given(SIDES, SIDES)
def test_coverage_keeps_the_area(height: int, width: int) -> None:
    mask = np.random.default_rng(height * 1000 + width).random((height, width)) < 0.3
    box = Letterbox(height, width, 256)
    cells = box.coverage(mask, 64)
    assert cells.sum(dtype=np.float64) * box.cell_area(64) == pytest.approx(mask.sum(), rel=1e-5)
    assert cells.min() >= 0 and cells.max() <= 1 + 1e-6


def test_a_hairline_mask_does_not_vanish() -> None:
    mask = np.zeros((1000, 1000), bool)
    mask[500] = True
    assert Letterbox(1000, 1000, 64).mask(mask).max() == 1
    assert Letterbox(1000, 1000, 64).mask(np.zeros_like(mask)).max() == 0


def test_other_shapes_are_refused() -> None:
    box = Letterbox(10, 20, 64)
    with pytest.raises(ValueError, match="10 x 20"):
        box.image(np.zeros((20, 10, 3), np.uint8))
    with pytest.raises(ValueError, match="10 x 20"):
        box.mask(np.zeros((20, 10), bool))
    with pytest.raises(ValueError, match="Q, M, M"):
        box.unletterbox_masks(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="at least 1"):
        Letterbox(0, 5, 64)
