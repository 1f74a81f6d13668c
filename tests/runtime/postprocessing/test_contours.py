"""Contours: nested, wider with the parameter, logits of the image and of a crop, and fast enough for every answer."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slowness import slowness

from mimo_runtime.model.calibrated import (
    ContourCalibration,
    PresenceCalibration,
    absent_below,
    contours_for,
)
from mimo_runtime.postprocessing.contours import REACH, CropLogits, MaskLogits, dilate, inner_and_outer
from mimo_runtime.preprocessing.letterbox import Letterbox


def logits_of(seed: int, side: int = 40, crop: bool = False) -> MaskLogits:
    """Smooth random logits of an image of random sides, with those of a random crop if wanted."""
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(12, side, 2))
    part = None
    if crop:
        x0, y0 = (int(rng.integers(0, v - 8)) for v in (width, height))
        x1, y1 = (int(rng.integers(low + 6, v + 1)) for low, v in ((x0, width), (y0, height)))
        letterbox = Letterbox(y1 - y0, x1 - x0, 64)
        part = CropLogits(rng.normal(0, 4, (8, 8)).astype(np.float32), letterbox, (x0, y0, x1, y1), 0.3)
    return MaskLogits(rng.normal(0, 4, (8, 8)).astype(np.float32), Letterbox(height, width, 64), 0.5, part)


def contours(logits: MaskLogits, inner: float, outer: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask, inner and outer contour."""
    mask = logits.above_threshold() >= 0
    return mask, *inner_and_outer(mask, ContourCalibration("", "box", inner, outer, 20), logits)


def dilated_by_pairs(mask: np.ndarray, radius: float) -> np.ndarray:
    """All pairs of pixels: slow and plain."""
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    return (((y[..., None] - rows) ** 2 + (x[..., None] - columns) ** 2) <= radius**2).any(-1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 60))
def test_dilation_is_that_of_a_disc(seed: int, radius: float) -> None:
    mask = logits_of(seed, 24).above_threshold() >= 2
    np.testing.assert_array_equal(dilate(mask, radius), dilated_by_pairs(mask, radius))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(0, 11), st.integers(0, 11))
def test_logits_of_a_window_are_those_of_the_image(seed: int, crop: bool, left: int, top: int) -> None:
    logits = logits_of(seed, crop=crop)
    whole = logits.above_threshold()
    height, width = whole.shape
    window = left, top, width, height
    np.testing.assert_allclose(logits.above_threshold(window), whole[top:, left:], atol=1e-5)
    if logits.crop:
        x0, y0, x1, y1 = logits.crop.box
        near = logits.crop.letterbox.unletterbox_masks(logits.crop.grid[None])[0]
        far = logits.letterbox.unletterbox_masks(logits.grid[None])[0][y0:y1, x0:x1]
        np.testing.assert_allclose(whole[y0:y1, x0:x1], 0.7 * near + 0.3 * far - 0.5, atol=1e-5)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.booleans(), st.floats(0, 100), st.floats(0, 100), st.floats(0, 3), st.floats(0, 3)
)  # fmt: skip
def test_contours_are_nested_and_grow_with_their_parameters(
    seed: int, crop: bool, inner: float, outer: float, less: float, more: float
) -> None:
    logits = logits_of(seed, crop=crop)
    mask, small, large = contours(logits, inner, outer)
    assert small.dtype == large.dtype == bool and small.shape == large.shape == mask.shape
    assert not (small & ~mask).any() and not (mask & ~large).any()
    _, smaller, larger = contours(logits, inner + less, outer + more)
    assert not (smaller & ~small).any() and not (large & ~larger).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 12), st.floats(0, 12))
def test_contours_are_thresholds_within_reach(seed: int, inner: float, outer: float) -> None:
    logits = logits_of(seed)
    mask, small, large = contours(logits, inner, outer)
    values = logits.above_threshold()
    np.testing.assert_array_equal(small, mask & (values >= inner))
    near = dilated_by_pairs(mask, REACH * outer * mask.sum() ** 0.5 + 1e-6)
    np.testing.assert_array_equal(large, mask | (near & (values >= -outer)))


def test_parameters_of_zero_give_the_mask_and_large_ones_nothing_and_everything() -> None:
    mask, *both = contours(logits_of(3), 0.0, 0.0)
    for contour in both:
        np.testing.assert_array_equal(contour, mask)
    _, inner, outer = contours(logits_of(3), 100.0, 100.0)
    assert not inner.any() and outer.all()


def test_an_empty_mask_has_empty_contours() -> None:
    logits = logits_of(3)
    empty = np.zeros((logits.letterbox.height, logits.letterbox.width), bool)
    inner, outer = inner_and_outer(empty, ContourCalibration("", "box", 1.0, 1.0, 20), logits)
    assert not inner.any() and not outer.any()


def test_contours_of_a_usual_image_take_milliseconds() -> None:
    y, x = np.mgrid[:64, :64]
    grid = (8 - ((y - 30) ** 2 + (x - 35) ** 2) / 40).astype(np.float32)
    logits = MaskLogits(grid, Letterbox(256, 256, 256))
    mask = logits.above_threshold() >= 0
    entry = ContourCalibration("", "box", 2.0, 3.0, 20)
    seconds = []
    for _ in range(20):
        start = time.process_time()
        inner_and_outer(mask, entry, logits)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.008 * slowness()  # 1 ms usually


ENTRIES = (
    ContourCalibration("", "box", 0.1, 0.2, 90, 0.85), ContourCalibration("", "box", 0.5, 0.6, 90, 0.65),
    ContourCalibration("liver", "box", 0.3, 0.4, 30),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "prompt", "inner"),
    [("liver", "box", 0.3), ("spleen", "box", None), ("", "box", 0.1), ("liver", "point", None)],
)
def test_a_structure_without_an_entry_has_no_contours(name: str, prompt: str, inner: float | None) -> None:
    entry = contours_for(ENTRIES, name, prompt)
    assert (entry and entry.inner) == inner


@pytest.mark.parametrize(("score", "inner"), [(1.0, 0.1), (0.85, 0.1), (0.84, 0.5), (0.65, 0.5), (0.64, None)])
def test_the_score_of_a_finding_chooses_the_entry(score: float, inner: float | None) -> None:
    entry = contours_for(ENTRIES, "", "box", score)
    assert (entry and entry.inner) == inner


def test_exclusion_by_structure() -> None:
    entries = (PresenceCalibration("", 0.1, 90), PresenceCalibration("liver", 0.3, 30))
    assert absent_below(entries, "liver") == 0.3 and absent_below(entries, "spleen") == absent_below(entries, None) == 0.1
    assert absent_below((), "liver") is None and absent_below(entries[1:], "spleen") is None
