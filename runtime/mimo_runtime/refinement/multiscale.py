"""Which of several objects a single point refers to: a nucleus or its cluster, a lesion or the organ around it.

A point has no extent, so a request with one point is ambiguous; Kirillov et al. 2023 (arXiv:2304.02643) let their model predict
three masks for it. Here the model segments crops of several sizes around the point, and all masks are candidates. The best
candidate has a high predicted IoU, agrees with the others, and is not large.

A name beside the point gives the kind of object, and the point selects one of them. The mask that name and point give
together may cover several objects. Its part under the point is then a hint, and the candidates come from the point alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..postprocessing.connected_components import label_components
from ..postprocessing.contours import CropLogits
from ..postprocessing.masks import box_of_mask
from ..preprocessing.prompts import Prompt
from .config import RefinementConfig
from .crops import CropRequest, PixelBox, crop_around, is_near_crop_edge, uncrop_mask


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mask that a request may refer to.

    Args:
        box: tight box of the mask in pixels of the image.
        mask: bool ``[y1 - y0, x1 - x0]``; not empty.
        iou: predicted IoU.
        crop: the crop that it was segmented in; None for the full image.
        query: the mask query: 0 for the request's target, others for entities.
        logits: of the crop; None for the full image.
    """

    box: PixelBox
    mask: np.ndarray
    iou: float
    crop: CropRequest | None = None
    query: int = 0
    logits: CropLogits | None = None

    @staticmethod
    def of(
        mask: np.ndarray | None,
        iou: float,
        crop: CropRequest | None = None,
        query: int = 0,
        logits: CropLogits | None = None,
    ) -> Candidate | None:
        """Of a mask bool ``[H, W]`` of the full image, or of the crop where there is one; None if it is empty."""
        box = None if mask is None else box_of_mask(mask)
        if mask is None or box is None:
            return None
        x0, y0, x1, y1 = box
        left, top = crop.crop_box[:2] if crop else (0, 0)
        return Candidate((x0 + left, y0 + top, x1 + left, y1 + top), mask[y0:y1, x0:x1], float(iou), crop, query, logits)

    @cached_property
    def area(self) -> int:
        """Pixels in the mask."""
        return int(np.count_nonzero(self.mask))

    def part_at(self, x: int, y: int, tolerance: int = 0) -> Candidate | None:
        """The connected part at a pixel of the image, or else the one with most pixels up to ``tolerance`` pixels away along
        both axes; None if there is none."""
        x0, y0, x1, y1 = self.box
        if not (x0 - tolerance <= x < x1 + tolerance and y0 - tolerance <= y < y1 + tolerance):
            return None
        parts, _ = label_components(self.mask)
        inside = x0 <= x < x1 and y0 <= y < y1
        rows = slice(max(0, y - y0 - tolerance), y - y0 + tolerance + 1)
        around = parts[rows, max(0, x - x0 - tolerance) : x - x0 + tolerance + 1]
        number = (parts[y - y0, x - x0] if inside else 0) or np.bincount(around[around > 0], minlength=1).argmax()
        if not number:
            return None
        part = parts == number
        left, top, right, bottom = box_of_mask(part) or (0, 0, 0, 0)
        return replace(self, box=(x0 + left, y0 + top, x0 + right, y0 + bottom), mask=part[top:bottom, left:right])

    def is_cut_off(self, height: int, width: int) -> bool:
        """Whether the edge of its crop cuts the object off, in an image of ``height`` x ``width`` pixels."""
        return self.crop is not None and is_near_crop_edge(self.box, self.crop.crop_box, height, width)

    def full_mask(self, height: int, width: int) -> np.ndarray:
        """The mask in the image, bool ``[height, width]``."""
        return uncrop_mask(self.mask, self.box, height, width)


def has_single_point(prompt: Prompt) -> bool:
    """Whether a request has one positive point (and any negative ones), and no box or mask that gives the extent."""
    positive = sum(1 for *_, label in prompt.points if label)
    return positive == 1 and not prompt.boxes and prompt.mask is None


def point_of(prompt: Prompt) -> tuple[float, float]:
    """The positive point of a request with a single one, (x, y) in pixels."""
    ((x, y),) = ((x, y) for x, y, label in prompt.points if label)
    return x, y


def pixel_of(prompt: Prompt, height: int, width: int) -> tuple[int, int]:
    """The pixel, (x, y), that the positive point lies on; whole numbers are the middle of a pixel."""
    x, y = point_of(prompt)
    return min(math.floor(x + 0.5), width - 1), min(math.floor(y + 0.5), height - 1)


def point_crops(prompt: Prompt, height: int, width: int, size: int, config: RefinementConfig) -> list[CropRequest]:
    """Crops around the point of an ambiguous request, from small to large.

    Args:
        height, width: of the image in pixels.
        size: side of the model's input.
    """
    sides = [share * max(height, width) for share in config.point_crop_shares]
    crops = (
        crop_around(prompt, None, point_of(prompt), side, height, width, size)
        for side in sides
        if side >= config.min_point_crop_side
    )
    return [crop for crop in crops if crop]


def select_best_mask(
    candidates: Sequence[Candidate], height: int, width: int, config: RefinementConfig, named_part: Candidate | None = None
) -> int:
    """The index of the candidate that a point refers to; 0, the first, where every mask is cut off.

    The maximum of ``iou + agreement_weight * agreement - area_penalty * ln(area / longer side squared)``. Agreement is the mean
    Dice with the other candidates, weighted with the square of their predicted IoU; ``default_agreement`` if there are none.

    Args:
        named_part: the part under the point of the mask that name and point give together; ``named_part_weight`` times the
            share of a candidate's pixels that lie within it is added.
    """
    kept = [i for i, candidate in enumerate(candidates) if not candidate.is_cut_off(height, width)]
    if not kept:
        return 0
    weights = np.array([candidates[i].iou ** 2 for i in kept])
    dice = np.array([[_dice(candidates[i], candidates[j]) for j in kept] for i in kept])
    np.fill_diagonal(dice, 0.0)
    others = weights.sum() - weights
    agreement = np.where(others > 1e-6, dice @ weights / np.maximum(others, 1e-6), config.default_agreement)
    share = np.array([candidates[i].area for i in kept]) / max(height, width) ** 2
    scores = (
        np.array([candidates[i].iou for i in kept]) + config.agreement_weight * agreement - config.area_penalty * np.log(share)
    )
    if named_part:
        scores += config.named_part_weight * np.array([_common(candidates[i], named_part) / candidates[i].area for i in kept])
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
