"""Outlines of structures in COCO's formats (polygons, RLE), and several of them as one class-id mask.

A polygon holds the pixels whose centres lie inside (even-odd rule), in continuous coordinates where pixel (x, y) covers
``[x, x + 1) x [y, y + 1)``: the polygon around a rectangle of pixels gives exactly these pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mimo_runtime.postprocessing.masks import box_of_mask
from mimo_runtime.utils.messages import short

from .common import whole_number
from .rle import decode


@dataclass(frozen=True, eq=False)
class Shape:
    """One structure: the bool ``mask`` ``[h, w]`` of its box, whose corner is at ``top``, ``left``; sides may be 0."""

    top: int
    left: int
    mask: np.ndarray

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))


def check(segmentation: object, height: int, width: int) -> None:
    """Check the structure of a segmentation for an image of this size.

    Raises:
        ValueError: names the flaw.
    """
    if isinstance(segmentation, dict):
        if not isinstance(segmentation.get("counts"), (str, list)):
            raise ValueError("the RLE has no counts")
        size = segmentation.get("size", [height, width])
        if [whole_number(side) for side in size] != [height, width] if isinstance(size, list) else True:
            raise ValueError(f"the RLE has the size {short(size)}, the image [{height}, {width}]")
        return
    for polygon in polygons(segmentation):
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon has {len(polygon)} numbers, not x and y of three or more points")
        # An outline far outside of the image is an error, and would cost memory.
        if not all(abs(v) < 1e6 for v in polygon):  # not for NaN either
            raise ValueError("a polygon has a coordinate that is no place in an image")


def polygons(segmentation: object) -> list[list[float]]:
    """The polygons ``[x0, y0, x1, y1, ...]`` of a segmentation: a list of them, a single one, or one as a list of points.

    Raises:
        ValueError: it is none of these.
    """

    def numbers(value: object) -> bool:
        return isinstance(value, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)

    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("there is no outline")
    if numbers(segmentation):
        return [segmentation]
    if not all(numbers(part) for part in segmentation):
        raise ValueError("the outline is neither polygons nor RLE")
    if all(len(part) == 2 for part in segmentation):
        return [[v for point in segmentation for v in point]]
    return segmentation


def draw(segmentation: object, height: int, width: int) -> Shape:
    """The pixels of a segmentation that passed :func:`check`; several polygons are united.

    Raises:
        ValueError: the RLE is damaged.
    """
    if isinstance(segmentation, dict):
        return crop(decode(segmentation["counts"], height, width))
    parts = [_fill(np.array(p, dtype=np.float64).reshape(-1, 2), height, width) for p in polygons(segmentation)]
    parts = [part for part in parts if part.mask.size] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    top, left = min(p.top for p in parts), min(p.left for p in parts)
    bottom, right = max(p.top + p.mask.shape[0] for p in parts), max(p.left + p.mask.shape[1] for p in parts)
    union = np.zeros((bottom - top, right - left), dtype=bool)
    for part in parts:
        y, x = part.top - top, part.left - left
        union[y : y + part.mask.shape[0], x : x + part.mask.shape[1]] |= part.mask
    return Shape(top, left, union)


def crop(mask: np.ndarray) -> Shape:
    """A bool mask ``[H, W]`` of a whole image as a shape."""
    box = box_of_mask(mask)
    if box is None:
        return Shape(0, 0, np.zeros((0, 0), dtype=bool))
    left, top, right, bottom = box
    return Shape(top, left, mask[top:bottom, left:right].copy())


def _fill(points: np.ndarray, height: int, width: int) -> Shape:
    """One polygon ``[N, 2]`` of x and y: along each row of pixel centres every edge crossed changes inside and outside."""
    # The first pixel whose centre is at or beyond a coordinate c is ceil(c - 0.5).
    (left, top), (right, bottom) = (np.ceil(v - 0.5).astype(int) for v in (points.min(axis=0), points.max(axis=0)))
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, width), min(bottom, height)
    if right <= left or bottom <= top:
        return Shape(0, 0, np.zeros((0, 0), dtype=bool))
    changes = np.zeros((bottom - top, right - left + 1), dtype=np.int32)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0)):
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        rows = np.arange(max(math.ceil(y0 - 0.5), top), min(math.ceil(y1 - 0.5), bottom))
        if len(rows):
            crossings = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            columns = np.clip(np.ceil(crossings - 0.5).astype(int), left, right)
            changes[rows - top, columns - left] += 1  # an edge meets a row once, so no index comes twice
    return Shape(top, left, changes.cumsum(axis=1)[:, :-1] % 2 == 1)


def paint(shapes: Sequence[tuple[Shape, int, bool]], height: int, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Several structures as one mask. A pixel has one class, so smaller ones lie on top: a lesion stays visible in its organ.

    Args:
        shapes: ``(shape, class id, crowd)``. A crowd is a group without separate instances: it lies beneath all, and its
            pixels belong to the class but to no instance. Of equal areas the later lies on top.

    Returns:
        ``(labels, instances, hidden)``: int32 ``[H, W]`` class ids and instance ids (1 = the first shape), and how many
        shapes have not one pixel in the mask.
    """
    labels = np.zeros((height, width), dtype=np.int32)
    instances = np.zeros_like(labels)
    order = np.zeros_like(labels)
    ranked = sorted(enumerate(shapes, 1), key=lambda entry: (not entry[1][2], -entry[1][0].area))
    for number, (shape, class_id, crowd) in ranked:
        box = np.s_[shape.top : shape.top + shape.mask.shape[0], shape.left : shape.left + shape.mask.shape[1]]
        labels[box][shape.mask] = class_id
        instances[box][shape.mask] = 0 if crowd else number
        order[box][shape.mask] = number
    return labels, instances, len(shapes) - np.count_nonzero(np.unique(order))
