"""The mask of a query is computed in a window, and equals that of the logits of the whole image."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.model.config import PRESETS
from mimo_runtime.postprocessing.mask_prediction import MaskPrediction
from mimo_runtime.postprocessing.masks import mask_from_logits
from mimo_runtime.preprocessing.letterbox import Letterbox

CONFIG = PRESETS["micro"]


def predicted(grid: np.ndarray, letterbox: Letterbox, threshold: float = 0.5) -> MaskPrediction:
    """A prediction with one query, which is present."""
    outputs = {
        "presence": np.full((1, 1), 9, np.float32), "iou": np.ones((1, 1), np.float32), "masks": grid[None, None],
    }  # fmt: skip
    return MaskPrediction(outputs, letterbox, replace(CONFIG, mask_threshold=threshold))


@settings(deadline=None)
@given(
    st.integers(8, 200), st.integers(8, 200), st.integers(0, 2**32), st.floats(0, 8), st.sampled_from([0.1, 0.5, 0.8])
)  # fmt: skip
def test_a_mask_equals_that_of_the_logits_of_the_whole_image(height, width, seed, below, threshold):
    letterbox, rng = Letterbox(height, width, CONFIG.image_size), np.random.default_rng(seed)
    side = CONFIG.mask_size
    grid = (rng.normal(-below, 3, (side, side)) - (np.hypot(*np.mgrid[:side, :side]) / 4)).astype(np.float32)
    whole = letterbox.unletterbox_masks(grid[None])[0]
    expected = mask_from_logits(whole, threshold, cell_area=letterbox.cell_area(side))
    mask = predicted(grid, letterbox, threshold).mask(0)
    assert (mask is None) == (not expected.any())
    np.testing.assert_array_equal(expected if mask is None else mask, expected)


def test_a_faint_structure_with_a_lowered_threshold_has_the_pixels_of_half_the_largest_probability() -> None:
    letterbox, side = Letterbox(50, 70, CONFIG.image_size), CONFIG.mask_size
    grid = np.full((side, side), -7, np.float32)
    grid[3:6, 4:9] = -3
    whole = letterbox.unletterbox_masks(grid[None])[0]
    half = 1 / (1 + math.exp(-float(whole.max()))) / 2
    mask = predicted(grid, letterbox).with_threshold([0], 0.1).mask(0)
    np.testing.assert_array_equal(mask, whole >= math.log(half / (1 - half)))


def test_a_structure_whose_probability_underflows_has_no_mask() -> None:
    letterbox = Letterbox(50, 70, CONFIG.image_size)
    grid = np.full((CONFIG.mask_size, CONFIG.mask_size), -200, np.float32)
    assert predicted(grid, letterbox).with_threshold([0], 0.1).mask(0) is None
