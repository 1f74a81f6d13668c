"""Prompts for the next frame: boxes and eroded masks."""

from __future__ import annotations

import math

import numpy as np

from ..preprocessing.prompts import Prompt
from ..results.answer import Box
from .config import TrackingConfig


def mask_prompt(text: str, mask: np.ndarray, config: TrackingConfig, box: Box | None = None) -> Prompt:
    """What asks for the target by a mask of it.

    Args:
        text: the name of the target, or "".
        mask: bool ``[H, W]``, not empty; it is eroded.
        box: beside it.
    """
    radius = max(1, round(config.erosion * math.sqrt(np.count_nonzero(mask))))
    return Prompt(text, boxes=() if box is None else (box,), mask=eroded(mask, radius))


def grown_box(box: Box, across: float, down: float, shape: tuple[int, ...]) -> Box:
    """A box with margins in pixels, cut off at the borders of a frame of ``shape`` (height, width)."""
    height, width = shape[:2]
    x0, y0, x1, y1 = box
    return max(0.0, x0 - across), max(0.0, y0 - down), min(float(width), x1 + across), min(float(height), y1 + down)


def placed_box(centre: tuple[float, float], size: tuple[float, float], shape: tuple[int, ...]) -> Box:
    """A box of ``size`` (width, height) around a centre, moved into a frame of ``shape`` (height, width)."""
    height, width = shape[:2]
    across, down = min(size[0], float(width)), min(size[1], float(height))
    x0 = min(max(centre[0] - across / 2, 0.0), width - across)
    y0 = min(max(centre[1] - down / 2, 0.0), height - down)
    return x0, y0, x0 + across, y0 + down


def eroded(mask: np.ndarray, radius: int) -> np.ndarray:
    """The pixels of a mask whose neighbours up to ``radius`` steps are inside; what lies beyond the frame counts as inside.

    A mask that would vanish is eroded less.
    """
    result = mask
    for _ in range(radius):
        padded = np.pad(result, 1, constant_values=True)
        smaller = result & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        if not smaller.any():
            break
        result = smaller
    return result
