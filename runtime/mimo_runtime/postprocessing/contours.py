"""Inner and outer contours of a mask, by lower and higher thresholds of its logits.

The inner contour takes the pixels of the mask whose logit is at least ``inner`` above the threshold of masks. The outer
contour adds the pixels whose logit is at most ``outer`` below it, within a distance of the mask. The distance is at most
:data:`REACH` ``* outer`` times the square root of the mask's area: logits far away belong to other objects. Both parameters
are chosen on ``val`` by conformal risk control (``mimo_train.tuning.conformal``); docs/explanation/guarantees.md says what
they promise, and why contours follow logits and not distances alone (arXiv:2511.15406 for inner, arXiv:2503.05618 for outer
margins).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..model.calibrated import ContourCalibration
from ..preprocessing.letterbox import Letterbox
from .masks import box_of_mask

#: Share of the true mask that the outer contour contains where it holds. All of it would let one stray pixel of an annotation,
#: or the step of its grid, decide the margin.
OUTER_SHARE = 0.95
#: Share of the inner contour's pixels that are in the true mask where it holds.
INNER_SHARE = 0.95
#: Distance per logit that an outer contour reaches, in square roots of the mask's area; chosen on ``val`` for small contours.
REACH = 0.12
#: Largest parameter of a usable outer contour. A wider one reaches farther than the radius of the disc with the mask's area,
#: ``sqrt(area / pi)``. It surrounds four times the mask and says nothing about the place of the border.
WIDEST_OUTER = 1 / (REACH * math.sqrt(math.pi))
#: Added to a radius in pixels, so that a distance of just this radius is within it whatever the rounding.
RADIUS_TOLERANCE = 1e-6
#: Most entries of an array of run ends; bounds the memory of a dilation of a large image.
_CHUNK = 1 << 20

#: ``(x0, y0, x1, y1)`` in pixels of the image; the last two are exclusive.
Window = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class CropLogits:
    """Logits of one mask in a crop of the image.

    Args:
        grid: float32 ``[M, M]`` over the square of the crop.
        letterbox: of the crop.
        box: the crop in pixels of the image.
        full_image_weight: weight of the full image's logits within the crop.
    """

    grid: np.ndarray
    letterbox: Letterbox
    box: Window
    full_image_weight: float = 0.0


class LogitSource(Protocol):
    """Logits of one mask, computed for the window that is needed."""

    def above_threshold(self, window: Window | None = None) -> np.ndarray:
        """Logits minus the threshold, float32 ``[y1 - y0, x1 - x0]``; of the whole image without a window."""


@dataclass(frozen=True, eq=False)
class MaskLogits:
    """Logits of one mask on the grids of the model, resized to the image where they are needed.

    Args:
        grid: float32 ``[M, M]`` over the square of the full image.
        letterbox: of the image.
        threshold: the logit of ``MimoConfig.mask_threshold``.
        crop: of the crop pass, which counts where it lies; None without one.
    """

    grid: np.ndarray
    letterbox: Letterbox
    threshold: float = 0.0
    crop: CropLogits | None = None

    def above_threshold(self, window: Window | None = None) -> np.ndarray:
        """Logits minus the threshold, float32 ``[y1 - y0, x1 - x0]``; of the whole image without a window."""
        x0, y0, x1, y1 = window = window or (0, 0, self.letterbox.width, self.letterbox.height)
        logits: np.ndarray = self.letterbox.unletterbox_masks(self.grid[None], window)[0]
        if self.crop is not None:
            left, top, right, bottom = self.crop.box
            inner = max(x0, left), max(y0, top), min(x1, right), min(y1, bottom)
            if inner[0] < inner[2] and inner[1] < inner[3]:
                part = logits[inner[1] - y0 : inner[3] - y0, inner[0] - x0 : inner[2] - x0]
                moved = inner[0] - left, inner[1] - top, inner[2] - left, inner[3] - top
                near = self.crop.letterbox.unletterbox_masks(self.crop.grid[None], moved)[0]
                part[...] = near + self.crop.full_image_weight * (part - near)
        logits -= np.float32(self.threshold)
        return logits


def inner_and_outer(mask: np.ndarray, calibration: ContourCalibration, logits: LogitSource) -> tuple[np.ndarray, np.ndarray]:
    """The inner and the outer contour of a mask, filled: ``inner <= mask <= outer``, all bool ``[H, W]``.

    Args:
        mask: bool ``[H, W]``; an empty one has empty contours.
        logits: of the mask.
    """
    mask = np.asarray(mask, bool)
    inner, outer, box = mask.copy(), mask.copy(), box_of_mask(mask)
    if box is None:
        return inner, outer
    radius = REACH * calibration.outer * math.sqrt(np.count_nonzero(mask)) + RADIUS_TOLERANCE
    x0, y0, x1, y1 = window = _widened(box, radius, mask.shape[0], mask.shape[1])
    part, values = mask[y0:y1, x0:x1], logits.above_threshold(window)
    if calibration.inner > 0:
        inner[y0:y1, x0:x1] &= values >= calibration.inner
    if calibration.outer > 0:
        outer[y0:y1, x0:x1] |= (values >= -calibration.outer) & dilate(part, radius)
    return inner, outer


def dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """All pixels whose centre lies within ``radius`` pixels of the centre of a pixel of ``mask``, bool ``[H, W]``.

    A run of a row widens the rows around it by half the chord of the disc there. Runs begin and end in a table of +1 and -1,
    whose running sum counts the runs that cover a pixel: the cost follows runs times radius, and pixels once.
    """
    if radius < 1 or not mask.any():
        return mask.copy()
    height, width = mask.shape
    reach = math.floor(min(radius, height))
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    table = np.zeros((height, width + 1), np.int32)
    offsets = np.arange(-reach, reach + 1)
    half = np.minimum(np.sqrt(radius * radius - offsets.astype(np.float64) ** 2), width).astype(np.int64)
    step = max(1, _CHUNK // len(rows))
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


def _widened(box: Window, radius: float, height: int, width: int) -> Window:
    """The box with ``radius`` pixels around it, within the image."""
    by = math.ceil(min(radius, height + width))
    return max(0, box[0] - by), max(0, box[1] - by), min(width, box[2] + by), min(height, box[3] + by)
