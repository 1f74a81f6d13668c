"""The corruptions of images and prompts one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_benchmarks.suites import corruptions
from mimo_benchmarks.suites.conditions import JITTERS
from mimo_runtime.data import prompt_sampling

SEEDS = st.integers(0, 2**32 - 1)


def noise_image(seed: int, *channels: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*rng.integers(8, 24, 2), *channels), np.uint8)


def same_colour(seed: int) -> np.ndarray:
    """A grey image as RGB."""
    return np.repeat(noise_image(seed, 1), 3, axis=2)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(sorted(corruptions.SHIFTS)))
def test_shifts_keep_the_shape_and_the_original(seed: int, name: str) -> None:
    pixels = noise_image(seed, 3)
    before = pixels.copy()
    changed = corruptions.SHIFTS[name](pixels, np.random.default_rng(seed))
    assert changed.shape == pixels.shape and changed.dtype == np.uint8
    assert (pixels == before).all() and (changed != pixels).any()
    assert (changed == corruptions.SHIFTS[name](pixels, np.random.default_rng(seed))).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(sorted(corruptions.SHIFTS)))
def test_grey_images_stay_grey(seed: int, name: str) -> None:
    changed = corruptions.SHIFTS[name](same_colour(seed), np.random.default_rng(seed))
    assert (changed == changed[..., :1]).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0.2, 0.99))
def test_contrast_scales_about_the_mean(seed: int, factor: float) -> None:
    pixels = noise_image(seed, 3)
    changed = corruptions.contrast(pixels, factor)
    assert np.abs(changed.mean((0, 1)) - pixels.mean((0, 1))).max() <= 0.5
    assert np.abs(changed.std((0, 1)) - factor * pixels.std((0, 1))).max() <= 1
    assert (corruptions.contrast(pixels, 1) == pixels).all()
    flat = np.full((9, 9, 3), 77, np.uint8)
    assert (corruptions.contrast(flat, factor) == flat).all()


@given(st.floats(0.3, 3))
def test_gamma_keeps_black_white_and_the_order(exponent: float) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    changed = corruptions.gamma(ramp, exponent)[0, :, 0].astype(int)
    assert changed[0] == 0 and changed[255] == 255 and (np.diff(changed) >= 0).all()
    assert (changed >= np.arange(256)).all() if exponent <= 1 else (changed <= np.arange(256)).all()


@pytest.mark.parametrize("sigma", [5, 15, 30])
@pytest.mark.parametrize("grey", [True, False])
def test_noise_has_its_standard_deviation(sigma: float, grey: bool) -> None:
    pixels = np.full((120, 120, 3), 128, np.uint8)
    if not grey:
        pixels[..., 1] += 1
    difference = corruptions.gaussian_noise(pixels, sigma, np.random.default_rng(0)).astype(int) - pixels
    assert difference.std() == pytest.approx(sigma, rel=0.05) and abs(difference.mean()) < 0.05 * sigma
    correlation = np.corrcoef(difference[..., 0].ravel(), difference[..., 2].ravel())[0, 1]
    assert correlation > 0.99 if grey else abs(correlation) < 0.05


@pytest.mark.parametrize("sigma", [1, 2, 4])
def test_blur_spreads_an_edge_by_its_standard_deviation(sigma: float) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    row = corruptions.gaussian_blur(pixels, sigma)[32, :, 0].astype(float)
    spread = np.diff(row) / 255
    places = np.arange(63) + 0.5
    deviation = np.sqrt((spread * (places - (spread * places).sum()) ** 2).sum())
    assert deviation == pytest.approx(sigma, rel=0.2)


def test_a_lower_resolution_loses_what_is_finer() -> None:
    stripes = np.zeros((32, 48, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.ptp(corruptions.lower_resolution(stripes, 2)) <= 1
    blocks = np.kron(noise_image(0)[:8, :8], np.ones((8, 8), np.uint8))
    kept = corruptions.lower_resolution(np.repeat(blocks[..., None], 3, axis=2), 2)
    assert (kept[3::8, 3::8, 0] == blocks[3::8, 3::8]).all()  # the middle of a large block keeps its level


def test_a_worse_jpeg_is_farther_from_the_image() -> None:
    pixels = noise_image(3, 3)
    errors = [np.abs(corruptions.jpeg(pixels, q).astype(int) - pixels).mean() for q in (95, 60, 30, 5)]
    assert errors == sorted(errors) and errors[0] < errors[-1]


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_rotations_are_inverted(seed: int) -> None:
    pixels, rotations = noise_image(seed, 3), corruptions.ROTATIONS
    for name in ("horizontal flip", "vertical flip", "rotation 180"):
        assert (rotations[name].image(rotations[name].image(pixels)) == pixels).all()
    assert (rotations["rotation 270"].image(rotations["rotation 90"].image(pixels)) == pixels).all()
    assert (rotations["horizontal flip"].image(pixels) == pixels[:, ::-1]).all()
    assert (rotations["vertical flip"].image(pixels) == pixels[::-1]).all()
    # Against the clock: what was at the top right is at the top left.
    assert (rotations["rotation 90"].image(pixels)[0, 0] == pixels[0, -1]).all()


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.sampled_from(sorted(corruptions.ROTATIONS)))
def test_truth_and_box_move_with_the_image(seed: int, name: str) -> None:
    pixels, rotation = noise_image(seed, 3), corruptions.ROTATIONS[name]
    mask = pixels[..., 0] > 220
    mask[0, 1] = True
    height, width = mask.shape
    rotated = rotation.image(mask)
    assert sorted(map(tuple, rotation.image(pixels)[rotated])) == sorted(map(tuple, pixels[mask]))
    assert rotation.box(prompt_sampling.mask_box(mask), height, width) == prompt_sampling.mask_box(rotated)
    x0, y0, x1, y1 = rotation.box(prompt_sampling.jitter_box(mask, np.random.default_rng(seed)), height, width)
    assert 0 <= x0 < x1 <= rotated.shape[1] and 0 <= y0 < y1 <= rotated.shape[0]


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.sampled_from(JITTERS))
def test_box_jitter_stays_within_its_bounds(seed: int, percent: int) -> None:
    mask = noise_image(seed) > 200
    mask[3, 3] = True
    height, width = mask.shape
    true = np.array(prompt_sampling.mask_box(mask), float)
    length = np.tile(true[2:] - true[:2], 2)
    box = np.array(prompt_sampling.jitter_box(mask, np.random.default_rng(seed), percent / 100))
    assert (np.abs(box - true) <= percent / 100 * length + 1e-9).all()
    assert (box >= 0).all() and (box <= (width, height, width, height)).all() and (box[:2] < box[2:]).all()
    # The same random numbers move the sides the same way, only farther (up to the border of the image).
    twice = np.array(prompt_sampling.jitter_box(mask, np.random.default_rng(seed), percent / 200))
    inside = (box > 0) & (box < (width, height, width, height))
    assert np.allclose((box - true)[inside], 2 * (twice - true)[inside])


@settings(max_examples=200, deadline=None)
@given(SEEDS, st.floats(0, 30), st.floats(0, 2 * np.pi))
def test_points_move_by_their_distance_and_stay_inside(seed: int, distance: float, angle: float) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(1, 80, 2))
    start = int(rng.integers(width)), int(rng.integers(height))
    x, y = corruptions.offset_point(start, distance, angle, height, width)
    assert 0 <= x < width and 0 <= y < height
    moved = np.hypot(x - start[0], y - start[1])
    assert moved <= distance + 0.5**0.5
    wanted = start[0] + distance * np.cos(angle), start[1] + distance * np.sin(angle)
    if 0 <= wanted[0] <= width - 1 and 0 <= wanted[1] <= height - 1:
        assert np.hypot(x - wanted[0], y - wanted[1]) <= 0.5**0.5 + 1e-9
