"""The motion between two frames, on textured images that are moved by known amounts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mimo_runtime.evaluation.metrics import dice
from mimo_runtime.tracking.registration import GreyFrame, grey_frame, register

BOX = (60.0, 70.0, 120.0, 110.0)
CENTRE = (90.0, 90.0)


def texture(height: int = 180, width: int = 200, seed: int = 0) -> np.ndarray:
    """uint8 ``[H, W, 3]``: smooth random blobs."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 6, width // 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def moved(pixels: np.ndarray, shift: tuple[float, float], degrees: float = 0, zoom: float = 1) -> np.ndarray:
    """The image after a motion about :data:`CENTRE`."""
    c, s = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    x, y = CENTRE[0] + shift[0], CENTRE[1] + shift[1]
    data = (c, s, CENTRE[0] - c * x - s * y, -s, c, CENTRE[1] + s * x - c * y)
    size = pixels.shape[1], pixels.shape[0]
    return np.asarray(Image.fromarray(pixels).transform(size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR))


def disc_mask(shape: tuple[int, ...]) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return ((columns - 90) / 30) ** 2 + ((rows - 90) / 20) ** 2 <= 1


@settings(max_examples=12, deadline=None)
@given(st.floats(-12, 12), st.floats(-12, 12), st.floats(-8, 8), st.floats(0.92, 1.08))
def test_shift_rotation_and_zoom_are_found(dx: float, dy: float, degrees: float, zoom: float) -> None:
    first = texture()
    second = moved(first, (dx, dy), degrees, zoom)
    motion = register(grey_frame(first), grey_frame(second), BOX)
    assert motion.similarity > 0.95
    x0, y0, x1, y1 = motion.box(BOX)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((90 + dx, 90 + dy), abs=0.7)
    assert abs(float(np.linalg.det(motion.matrix)) - zoom**2) < 0.03
    mask = disc_mask(first.shape)
    truth = moved(np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 255, (dx, dy), degrees, zoom)[..., 0] > 127
    assert dice(motion.mask(mask), truth) > 0.95


def test_brightness_and_gain_of_a_frame_change_nothing() -> None:
    first = texture()
    second = (moved(first, (5, -3)) * 0.6 + 40).astype(np.uint8)
    motion = register(grey_frame(first), grey_frame(second), BOX)
    assert tuple(motion.shift) == pytest.approx((5, -3), abs=0.4) and motion.similarity > 0.98


def test_a_frame_that_is_larger_than_the_grid_is_compared_in_its_own_pixels() -> None:
    first = np.asarray(Image.fromarray(texture()).resize((800, 720)))
    second = np.roll(first, (16, 24), (0, 1))
    motion = register(grey_frame(first), grey_frame(second), (240, 280, 480, 440))
    assert tuple(motion.shift) == pytest.approx((24, 16), abs=1.5)


def test_a_box_moves_out_of_the_frame_and_is_found_far_away() -> None:
    first = texture()
    left = register(grey_frame(first), grey_frame(moved(first, (-80, 0))), BOX, reach=1)
    assert left.box(BOX)[0] == pytest.approx(-20, abs=2) and left.similarity > 0.9
    far = register(grey_frame(first), grey_frame(moved(first, (70, 40))), BOX, reach=1)
    assert tuple(far.shift) == pytest.approx((70, 40), abs=2)
    near = register(grey_frame(first), grey_frame(moved(first, (70, 40))), BOX, reach=0.1)
    assert near.similarity < 0.6


@pytest.mark.parametrize("second", [texture(seed=9), np.full((180, 200, 3), 90, np.uint8)])
def test_frames_that_show_something_else_are_not_similar(second: np.ndarray) -> None:
    assert register(grey_frame(texture()), grey_frame(second), BOX).similarity < 0.5


@pytest.mark.parametrize("shape", [(8, 8), (5, 300), (300, 5), (1, 1)])
def test_small_and_narrow_frames_have_a_motion(shape: tuple[int, int]) -> None:
    frame = grey_frame(np.zeros((*shape, 3), np.uint8))
    assert isinstance(frame, GreyFrame) and min(frame.levels[0].shape) >= 8
    motion = register(frame, frame, (0.0, 0.0, float(shape[1]), float(shape[0])))
    assert np.isfinite(motion.matrix).all() and np.isfinite(motion.shift).all()
