"""Which of several things a single point means: a nucleus or its cluster, a lesion or the organ around it.

A point has no extent, so a request with one point is ambiguous; Kirillov et al. 2023 (arXiv:2304.02643) let their model draw
three masks for it. Here the model looks from three distances instead, when it doubts what it drew first. All that it drew are
candidates; the one is taken whose expected fit is high, with which the others agree, and which is not large.

A name beside the point tells what kind of thing is meant, and the point which one of them: "cell nucleus" with a point on one
means that one. What the name and the point drew together may hold the others, too; then it is a hint, and what the point alone
draws from near counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..postprocessing.connected_components import label_components
from ..postprocessing.masks import box_of_mask
from ..preprocessing.prompts import Prompt
from .crops import Look, look_at

#: An expected IoU below this is a doubt. Above, other distances changed nothing for the better (``val``).
DOUBT = 0.75
#: Sides of the surroundings of the point, as shares of the image's longer side.
SIDES = (24 / 256, 64 / 256, 168 / 256)
#: Shortest side in pixels.
SMALLEST_SIDE = 16
#: A part of an entity that the model is less sure of is no candidate. Not ``MimoConfig.entity_threshold``, which a calibration
#: lowers to see all answers: it would choose on other masks than are delivered.
ENTITY_PRESENCE = 0.75
#: What agreement and size count for beside the expected IoU; chosen on ``val``, with :data:`SIDES`.
AGREEMENT, SIZE = 0.8, 0.02
#: What lying within the part under the point of what a name drew counts for; chosen on ``val``.
NAMED = 0.4
#: A mask with less than this share of its pixels in the part under the point holds other things, too.
ONE_THING = 0.97
#: A click so many pixels beside a mask that a name drew still means it.
NEAR_MISS = 2


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mask that a point may mean.

    Args:
        box: of the mask, ``(x0, y0, x1, y1)`` in pixels of the image; the last two are exclusive.
        mask: bool ``[y1 - y0, x1 - x0]``; not empty.
        iou: its expected IoU.
        look: where it was drawn; None for the whole image.
        query: the mask query that drew it: 0 for what was asked for, others for entities.
    """

    box: tuple[int, int, int, int]
    mask: np.ndarray
    iou: float
    look: Look | None = None
    query: int = 0

    @staticmethod
    def of(mask: np.ndarray | None, iou: float, look: Look | None = None, query: int = 0) -> Candidate | None:
        """Of a mask bool ``[H, W]`` of the whole image, or of the surroundings where there is a look; None if it is empty."""
        box = None if mask is None else box_of_mask(mask)
        if box is None:
            return None
        x0, y0, x1, y1 = box
        left, top = (look.left, look.top) if look else (0, 0)
        return Candidate((x0 + left, y0 + top, x1 + left, y1 + top), mask[y0:y1, x0:x1], float(iou), look, query)

    @cached_property
    def area(self) -> int:
        """Pixels in the mask."""
        return int(np.count_nonzero(self.mask))

    def part_at(self, x: int, y: int, reach: int = 0) -> Candidate | None:
        """The connected part that a pixel of the image lies on, or else the one with most pixels up to ``reach`` pixels away
        along both axes; None if there is none."""
        x0, y0, x1, y1 = self.box
        if not (x0 - reach <= x < x1 + reach and y0 - reach <= y < y1 + reach):
            return None
        parts, _ = label_components(self.mask)
        inside = x0 <= x < x1 and y0 <= y < y1
        around = parts[max(0, y - y0 - reach) : y - y0 + reach + 1, max(0, x - x0 - reach) : x - x0 + reach + 1]
        under = parts[y - y0, x - x0] if inside else 0
        number = under or np.bincount(around[around > 0], minlength=1).argmax()
        if not number:
            return None
        part = parts == number
        left, top, right, bottom = box_of_mask(part) or (0, 0, 0, 0)
        return replace(self, box=(x0 + left, y0 + top, x0 + right, y0 + bottom), mask=part[top:bottom, left:right])

    def cut(self, height: int, width: int) -> bool:
        """Whether the mask reaches a border of its surroundings that is none of the image (``height`` x ``width``): there is
        more of it than could be seen."""
        if self.look is None:
            return False
        (x0, y0, x1, y1), look = self.box, self.look
        left, top = look.left > 0 and x0 <= look.left, look.top > 0 and y0 <= look.top
        right, bottom = look.right < width and x1 >= look.right, look.bottom < height and y1 >= look.bottom
        return left or top or right or bottom

    def whole(self, height: int, width: int) -> np.ndarray:
        """The mask in the image, bool ``[height, width]``."""
        whole = np.zeros((height, width), bool)
        x0, y0, x1, y1 = self.box
        whole[y0:y1, x0:x1] = self.mask
        return whole


def is_ambiguous(prompt: Prompt) -> bool:
    """Whether a request is one point on the target (and any beside it) without a box or a mask that would tell the extent."""
    positive = sum(1 for *_, label in prompt.points if label)
    return positive == 1 and not prompt.boxes and prompt.mask is None


def point_of(prompt: Prompt) -> tuple[float, float]:
    """The point on the target of an ambiguous request, (x, y) in pixels."""
    ((x, y),) = ((x, y) for x, y, label in prompt.points if label)
    return x, y


def pixel_of(prompt: Prompt, height: int, width: int) -> tuple[int, int]:
    """The pixel, (x, y), that the point of an ambiguous request lies on; whole numbers are the middle of a pixel."""
    x, y = point_of(prompt)
    return min(math.floor(x + 0.5), width - 1), min(math.floor(y + 0.5), height - 1)


def unnamed(prompt: Prompt) -> Prompt:
    """A request without its text: with a name, the model may draw all of that kind which it sees."""
    return replace(prompt, text="")


def surroundings(prompt: Prompt, height: int, width: int, size: int) -> list[Look]:
    """Looks at the point of an ambiguous request from near to far.

    Args:
        height, width: of the image in pixels.
        size: side of the model's square.
    """
    x, y = point_of(prompt)
    sides = [share * max(height, width) for share in SIDES]
    looks = (look_at(prompt, (), (x, y), side, height, width, size) for side in sides if side >= SMALLEST_SIDE)
    return [look for look in looks if look]


def choose(candidates: Sequence[Candidate], height: int, width: int, named: Candidate | None = None) -> int:
    """The index of the candidate that a point means; 0, the first, where every mask was cut.

    The largest of ``iou + AGREEMENT * agreement - SIZE * ln(share of the image)``. Agreement is the mean Dice with the other
    candidates, weighted with the square of their expected IoU; 0.5 if there are none.

    Args:
        named: the part under the point of what name and point drew together on the whole image; :data:`NAMED` times the share
            of a candidate's pixels that lie within it is added.
    """
    kept = [i for i, candidate in enumerate(candidates) if not candidate.cut(height, width)]
    if not kept:
        return 0
    weights = np.array([candidates[i].iou ** 2 for i in kept])
    dice = np.array([[_dice(candidates[i], candidates[j]) for j in kept] for i in kept])
    np.fill_diagonal(dice, 0.0)
    others = weights.sum() - weights
    agreement = np.where(others > 1e-6, dice @ weights / np.maximum(others, 1e-6), 0.5)
    share = np.array([candidates[i].area for i in kept]) / max(height, width) ** 2
    scores = np.array([candidates[i].iou for i in kept]) + AGREEMENT * agreement - SIZE * np.log(share)
    if named:
        scores += NAMED * np.array([_common(candidates[i], named) / candidates[i].area for i in kept])
    return kept[int(np.argmax(scores))]


def _dice(a: Candidate, b: Candidate) -> float:
    return 2 * _common(a, b) / (a.area + b.area)


def _common(a: Candidate, b: Candidate) -> int:
    """Pixels in both masks."""
    x0, y0, x1, y1 = (*map(max, a.box[:2], b.box[:2]), *map(min, a.box[2:], b.box[2:]))
    if x0 >= x1 or y0 >= y1:
        return 0
    parts = (c.mask[y0 - c.box[1] : y1 - c.box[1], x0 - c.box[0] : x1 - c.box[0]] for c in (a, b))
    return int(np.count_nonzero(np.logical_and(*parts)))
