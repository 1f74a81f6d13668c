"""Inner and outer contours of a mask: erosion and dilation by a disc whose radius grows with the size of the mask.

The radius is ``parameter * sqrt(pixels of the mask)``, so that one parameter fits small and large structures. The parameters
are chosen on ``val`` by conformal risk control (``mimo_train.tuning.conformal``); docs/explanation/guarantees.md says what
they promise. Margins around a mask as prediction sets: Mossina and Friedrich 2025, arXiv:2503.05618.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..model.calibrated import ContourCalibration
from .masks import box_of_mask

#: Share of the true mask that the outer contour contains where it holds. All of it would let one stray pixel of an annotation,
#: or the step of its grid, decide the margin.
OUTER_SHARE = 0.95
#: Share of the inner contour's pixels that are in the true mask where it holds.
INNER_SHARE = 0.95
#: Added to a radius in pixels, so that a distance of just this radius is within it whatever the rounding.
_TOLERANCE = 1e-6
#: Most entries of an array of run ends; bounds the memory of a dilation of a large image.
_CHUNK = 1 << 20


def inner_and_outer(mask: np.ndarray, calibration: ContourCalibration) -> tuple[np.ndarray, np.ndarray]:
    """The inner and the outer contour of a mask, filled: ``inner <= mask <= outer``, all bool ``[H, W]``.

    Args:
        mask: bool ``[H, W]``; an empty one has empty contours.
    """
    mask = np.asarray(mask, bool)
    unit = math.sqrt(np.count_nonzero(mask))
    return erode(mask, calibration.inner * unit + _TOLERANCE), dilate(mask, calibration.outer * unit + _TOLERANCE)


def dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """All pixels whose centre lies within ``radius`` pixels of the centre of a pixel of ``mask``, bool ``[H, W]``."""
    result, box = mask.copy(), box_of_mask(mask)
    if box is None or radius < 1:
        return result
    (height, width), reach = mask.shape, math.floor(min(radius, math.hypot(*mask.shape)))
    rows = slice(max(0, box[1] - reach), min(height, box[3] + reach))
    columns = slice(max(0, box[0] - reach), min(width, box[2] + reach))
    result[rows, columns] = _dilate_runs(mask[rows, columns], radius, reach)
    return result


def erode(mask: np.ndarray, radius: float) -> np.ndarray:
    """The pixels of ``mask`` whose centre lies farther than ``radius`` pixels from that of every pixel of the image outside of
    it, bool ``[H, W]``. What lies beyond the border of the image takes nothing away."""
    result, box = mask.copy(), box_of_mask(mask)
    if box is None or radius < 1:
        return result
    x0, y0, x1, y1 = box
    # A pixel outside of the padded box is never the nearest one.
    window = slice(max(0, y0 - 1), y1 + 1), slice(max(0, x0 - 1), x1 + 1)
    outside = ~mask[window]
    reach = math.floor(min(radius, math.hypot(*outside.shape)))
    result[window] = ~_dilate_runs(outside, radius, reach)
    return result


def _dilate_runs(mask: np.ndarray, radius: float, reach: int) -> np.ndarray:
    """Dilation run by run: a run of a row widens the rows up to ``reach`` away by half the chord of the disc there.

    Runs begin and end in a table of +1 and -1, whose running sum counts the runs that cover a pixel: the cost follows runs
    times radius, and pixels once.
    """
    height, width = mask.shape
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    table = np.zeros((height, width + 1), np.int32)
    offsets = np.arange(-reach, reach + 1)
    half = np.sqrt(radius * radius - offsets.astype(np.float64) ** 2).astype(np.int64)
    step = max(1, _CHUNK // max(1, len(rows)))
    for first in range(0, len(offsets), step):
        _add_runs(table, (rows, starts, ends), offsets[first : first + step], half[first : first + step])
    covered: np.ndarray = np.cumsum(table, axis=1, out=table)[:, :width] > 0
    return covered


def _add_runs(table: np.ndarray, runs: Sequence[np.ndarray], offsets: np.ndarray, half: np.ndarray) -> None:
    """Add the runs, moved by ``offsets`` rows and widened by ``half`` pixels at each end, to the table of +1 and -1."""
    height, pitch = table.shape
    rows, starts, ends = runs
    target = rows + offsets[:, None]
    inside = (target >= 0) & (target < height)
    begin = (target * pitch + np.maximum(starts - half[:, None], 0))[inside]
    end = (target * pitch + np.minimum(ends + half[:, None], pitch - 1))[inside]
    flat = table.reshape(-1)
    np.add.at(flat, begin, np.int32(1))
    np.add.at(flat, end, np.int32(-1))
