"""Crop pass: the surroundings of a small target fill the model's input.

A structure of a dozen pixels is one or two tokens of the vision encoder in the full image, and a hundred in its crop. The
contrast is that of the crop. Position, presence and text still come from the full image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..preprocessing.letterbox import Letterbox
from ..preprocessing.prompts import Prompt
from .config import RefinementConfig

#: ``(x0, y0, x1, y1)`` in pixels of the image; the last two are exclusive.
PixelBox = tuple[int, int, int, int]


@dataclass(frozen=True)
class CropRequest:
    """A request for a crop of the image.

    Args:
        crop_box: the crop in pixels of the image.
        prompt: the request in pixels of the crop. A request that only names its target gets the box of the full-image mask.
        letterbox: of the crop.
    """

    crop_box: PixelBox
    prompt: Prompt
    letterbox: Letterbox

    def pixels(self, image: np.ndarray, config: RefinementConfig) -> np.ndarray:
        """``uint8 [H, W, 3]`` of the image -> those of the crop, with stretched contrast."""
        x0, y0, x1, y1 = self.crop_box
        crop = image[y0:y1, x0:x1]
        stretched: np.ndarray = contrast_table(crop, config)[crop]
        return stretched


def crop_around_target(
    prompt: Prompt, target: PixelBox, height: int, width: int, size: int, config: RefinementConfig
) -> CropRequest | None:
    """The crop for a second pass over a target.

    Args:
        prompt: the request; its boxes are trusted more than the mask.
        target: tight box of the target's mask.
        height, width: of the image in pixels.
        size: side of the model's input.

    Returns:
        None where the target is too large for a crop pass, or what the request points at lies outside of the crop.
    """
    if config.crop_scale <= 0:
        return None
    x0, y0, x1, y1 = _hull(prompt.boxes) if prompt.boxes else target
    side = max(config.min_crop_side, config.crop_scale * max(x1 - x0, y1 - y0))
    if side > config.max_crop_share * max(height, width):
        return None
    return crop_around(prompt, target, ((x0 + x1) / 2, (y0 + y1) / 2), side, height, width, size)


def crop_around(
    prompt: Prompt, target: PixelBox | None, centre: tuple[float, float], side: float, height: int, width: int, size: int
) -> CropRequest | None:
    """The part of a square of ``side`` pixels about ``centre`` (x, y) that lies within the image.

    Args:
        target: the box that a request without a reference gets.
        size: side of the model's input.

    Returns:
        None where what the request points at lies outside of the crop.
    """
    x, y = centre
    left, top = max(0, math.floor(x - side / 2)), max(0, math.floor(y - side / 2))
    right, bottom = min(width, math.ceil(x + side / 2)), min(height, math.ceil(y + side / 2))
    crop_box = left, top, right, bottom
    moved = _in_crop(prompt, target, crop_box)
    return None if moved is None else CropRequest(crop_box, moved, Letterbox(bottom - top, right - left, size))


def is_near_crop_edge(box: PixelBox, crop_box: PixelBox, height: int, width: int) -> bool:
    """Whether a mask's ``box`` reaches an edge of its crop that is not an edge of the image: the crop cuts the object off."""
    (x0, y0, x1, y1), (left, top, right, bottom) = box, crop_box
    return (
        (left > 0 and x0 <= left)
        or (top > 0 and y0 <= top)
        or (right < width and x1 >= right)
        or (bottom < height and y1 >= bottom)
    )


def uncrop_mask(mask: np.ndarray, box: PixelBox, height: int, width: int) -> np.ndarray:
    """A mask bool ``[y1 - y0, x1 - x0]`` at ``box`` as a mask of the image, bool ``[height, width]``."""
    x0, y0, x1, y1 = box
    full = np.zeros((height, width), bool)
    full[y0:y1, x0:x1] = mask
    return full


def contrast_table(pixels: np.ndarray, config: RefinementConfig = RefinementConfig()) -> np.ndarray:  # noqa: B008 - frozen
    """``uint8 [256]``: the values with which ``pixels`` (``uint8 [H, W, 3]``) fill the range, one table for all channels."""
    dark, bright = np.percentile(pixels, config.contrast_percentiles)
    width = max(float(bright - dark), 255.0 / config.max_contrast_gain)
    table: np.ndarray = np.clip(np.rint((np.arange(256) - dark) * (255.0 / width)), 0, 255).astype(np.uint8)
    return table


def _hull(boxes: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    lows, highs = zip(*((box[:2], box[2:]) for box in boxes))
    x0, y0 = (min(c) for c in zip(*lows))
    x1, y1 = (max(c) for c in zip(*highs))
    return x0, y0, x1, y1


def _in_crop(prompt: Prompt, target: PixelBox | None, crop_box: PixelBox) -> Prompt | None:
    """The request in pixels of the crop; None if one of its positive points, a box or its mask lies elsewhere."""
    left, top, right, bottom = crop_box
    inside = [(x, y, label) for x, y, label in prompt.points if left <= x < right and top <= y < bottom]
    if any(label and (x, y, label) not in inside for x, y, label in prompt.points):
        return None
    # A point or a mask in the crop says more about the target than the full-image mask, which may cover a neighbour, too.
    refers = prompt.mask is not None or any(label for *_, label in prompt.points)
    replaced = () if refers or target is None else (target,)
    boxes = []
    for x0, y0, x1, y1 in prompt.boxes or replaced:
        box = max(x0, left) - left, max(y0, top) - top, min(x1, right) - left, min(y1, bottom) - top
        if box[2] <= box[0] or box[3] <= box[1]:
            return None
        boxes.append(box)
    mask = None if prompt.mask is None else prompt.mask[top:bottom, left:right]
    if mask is not None and not mask.any():
        return None
    return Prompt(prompt.text, boxes, [(x - left, y - top, label) for x, y, label in inside], mask)
