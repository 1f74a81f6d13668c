"""The closer look: a small target is drawn again on its surroundings alone, which then fill the model's square.

A structure of a dozen pixels is one or two tokens of the vision encoder; from near it is a hundred, and its contrast is that
of its surroundings instead of the whole image's. What the first look found out stays: where the target is, whether it is
there, and the text, which is about the whole image. The mask of the target comes from near, or to a share from both looks
(``MimoConfig.first_share``); its expected fit is that of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..postprocessing.masks import box_of_mask
from ..preprocessing.letterbox import Letterbox
from ..preprocessing.prompts import Prompt

#: Surroundings whose longer side is more than this share of the image's would show nothing that the first look did not.
LARGEST_SHARE = 0.8
#: Shortest side of the surroundings in pixels.
SMALLEST_SIDE = 24
#: Contrast is raised at most so many times: beyond, eight bits show their steps.
MAX_GAIN = 4.0
#: Percentiles of the values that become black and white.
PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Look:
    """What to draw again.

    Args:
        left, top, right, bottom: the surroundings in pixels of the image; the last two are exclusive.
        prompt: the request in coordinates of the surroundings; one that only names its target gets the box of the first mask.
        letterbox: of the surroundings.
    """

    left: int
    top: int
    right: int
    bottom: int
    prompt: Prompt
    letterbox: Letterbox

    @property
    def window(self) -> tuple[int, int, int, int]:
        """The surroundings as ``(left, top, right, bottom)``."""
        return self.left, self.top, self.right, self.bottom

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """``uint8 [H, W, 3]`` of the image -> those of the surroundings, with the contrast raised."""
        near = image[self.top : self.bottom, self.left : self.right]
        return contrast_table(near)[near]


def closer_look(prompt: Prompt, mask: np.ndarray, factor: float, size: int) -> Look | None:
    """How to look at a target again.

    Args:
        prompt: the request.
        mask: bool ``[H, W]``, the target as the first look drew it; not empty.
        factor: longer side of the surroundings as a multiple of the target's (``MimoConfig.closer_factor``).
        size: side of the model's square.

    Returns:
        None where the target is too large for a closer look, or what the request points at lies outside of it.
    """
    drawn = box_of_mask(mask)
    return None if drawn is None else closer_look_at(prompt, drawn, *mask.shape, factor, size)


def closer_look_at(
    prompt: Prompt, drawn: tuple[int, int, int, int], height: int, width: int, factor: float, size: int
) -> Look | None:
    """As :func:`closer_look`, for a target with the box ``drawn`` in an image of ``height`` x ``width`` pixels."""
    if factor <= 0:
        return None
    # A box that was given is more to be trusted than a mask.
    x0, y0, x1, y1 = _hull(prompt.boxes) if prompt.boxes else drawn
    side = max(SMALLEST_SIDE, factor * max(x1 - x0, y1 - y0))
    if side > LARGEST_SHARE * max(height, width):
        return None
    return look_at(prompt, drawn, ((x0 + x1) / 2, (y0 + y1) / 2), side, height, width, size)


def look_at(
    prompt: Prompt, drawn: tuple[int, ...], centre: tuple[float, float], side: float, height: int, width: int, size: int
) -> Look | None:
    """The part within an image of ``height`` x ``width`` pixels of a square of ``side`` pixels about ``centre`` (x, y).

    Args:
        drawn: the box that a request without a reference gets.
        size: side of the model's square.

    Returns:
        None where what the request points at lies outside of it.
    """
    x, y = centre
    left, top = max(0, math.floor(x - side / 2)), max(0, math.floor(y - side / 2))
    right, bottom = min(width, math.ceil(x + side / 2)), min(height, math.ceil(y + side / 2))
    near = _moved(prompt, drawn, left, top, right, bottom)
    if near is None:
        return None
    return Look(left, top, right, bottom, near, Letterbox(bottom - top, right - left, size))


def contrast_table(pixels: np.ndarray) -> np.ndarray:
    """``uint8 [256]``: the values that let ``pixels`` (``uint8 [H, W, 3]``) fill the whole range, one table for all colours."""
    dark, bright = np.percentile(pixels, PERCENTILES)
    width = max(float(bright - dark), 255.0 / MAX_GAIN)
    return np.clip(np.rint((np.arange(256) - dark) * (255.0 / width)), 0, 255).astype(np.uint8)


def _hull(boxes: tuple[tuple[float, ...], ...]) -> tuple[float, float, float, float]:
    lows, highs = zip(*((box[:2], box[2:]) for box in boxes))
    return (*(min(c) for c in zip(*lows)), *(max(c) for c in zip(*highs)))


def _moved(prompt: Prompt, drawn: tuple[int, ...], left: int, top: int, right: int, bottom: int) -> Prompt | None:
    """The request in coordinates of the surroundings; None if one of its positive points lies elsewhere."""
    inside = [(x, y, label) for x, y, label in prompt.points if left <= x < right and top <= y < bottom]
    if any(label and (x, y, label) not in inside for x, y, label in prompt.points):
        return None
    boxes = []
    # A point or a mask from near says more about the target than the first mask does, which may be of its neighbour, too.
    refers = prompt.mask is not None or any(label for *_, label in prompt.points)
    for x0, y0, x1, y1 in prompt.boxes or (() if refers else (drawn,)):
        box = max(x0, left) - left, max(y0, top) - top, min(x1, right) - left, min(y1, bottom) - top
        if box[2] <= box[0] or box[3] <= box[1]:
            return None
        boxes.append(box)
    mask = None if prompt.mask is None else prompt.mask[top:bottom, left:right]
    if mask is not None and not mask.any():
        return None
    return Prompt(prompt.text, boxes, [(x - left, y - top, label) for x, y, label in inside], mask)
