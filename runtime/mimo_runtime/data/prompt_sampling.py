"""Prompts drawn from true masks: boxes, points, rough masks. Training and evaluation sample with the same functions.

Every function takes bool masks ``[H, W]`` and a ``numpy.random.Generator``. Points are integer pixels ``(x, y)``; boxes are
``(x0, y0, x1, y1)`` in continuous pixel coordinates, where pixel ``(x, y)`` covers ``[x, x + 1) x [y, y + 1)``.
Functions that need a non-empty mask raise ``ValueError`` for an empty one.
"""

from __future__ import annotations

import numpy as np

from ..postprocessing.connected_components import INSTANCE_MIN_PIXELS, INSTANCE_MIN_SHARE, label_components
from ..postprocessing.masks import box_of_mask

Box = tuple[float, float, float, float]

#: A class with at least this many instances in an image is a many-instance class there.
MANY_INSTANCES = 5


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """:func:`~mimo_runtime.postprocessing.masks.box_of_mask` of a mask that is not empty."""
    box = box_of_mask(mask)
    if box is None:
        raise ValueError("the mask is empty")
    return box


def jitter_box(mask: np.ndarray, rng: np.random.Generator, fraction: float = 0.1) -> Box:
    """The tight box with each side moved by up to ``fraction`` of its length, kept inside the image and not empty.

    The left and right sides move by up to ``fraction`` of the width, the upper and lower by up to that of the height.
    """
    height, width = mask.shape
    x0, y0, x1, y1 = mask_box(mask)
    a, b, c, d = rng.uniform(-fraction, fraction, 4) * (x1 - x0, y1 - y0, x1 - x0, y1 - y0)
    box = max(0.0, x0 + a), max(0.0, y0 + b), min(float(width), x1 + c), min(float(height), y1 + d)
    if box[2] <= box[0] or box[3] <= box[1]:  # only for fractions of a half and more
        return float(x0), float(y0), float(x1), float(y1)
    return tuple(float(v) for v in box)  # type: ignore[return-value]


def interior_point(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """A random pixel of the mask, with probability proportional to its distance from the edge."""
    distance, x, y = _inner_distance(mask)
    mass = np.cumsum(distance.reshape(-1), dtype=np.int64)
    index = int(np.searchsorted(mass, rng.integers(mass[-1]), side="right"))
    row, column = divmod(index, distance.shape[1])
    return x + column, y + row


def centre_point(mask: np.ndarray) -> tuple[int, int]:
    """The pixel of the mask farthest from its edge (city-block); ties go to the one nearest to the mask's centroid."""
    distance, x, y = _inner_distance(mask)
    rows, columns = np.nonzero(distance)
    ties_y, ties_x = np.nonzero(distance == distance.max())
    best = np.argmin((ties_y - rows.mean()) ** 2 + (ties_x - columns.mean()) ** 2)
    return x + int(ties_x[best]), y + int(ties_y[best])


def negative_point(mask: np.ndarray, rng: np.random.Generator, near: float = 0.5) -> tuple[int, int] | None:
    """A pixel outside the mask, or None if there is none.

    With probability ``near`` it lies in the mask's box widened by a quarter of its longer side, otherwise anywhere.
    """
    height, width = mask.shape
    x0, y0, x1, y1 = 0, 0, width, height
    if rng.random() < near and mask.any():
        x0, y0, x1, y1 = mask_box(mask)
        margin = max(2, max(x1 - x0, y1 - y0) // 4)
        x0, y0, x1, y1 = max(0, x0 - margin), max(0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin)
    for area in ((x0, y0, x1, y1), (0, 0, width, height)):
        outside = np.flatnonzero(~mask[area[1] : area[3], area[0] : area[2]])
        if len(outside):
            row, column = divmod(int(outside[rng.integers(len(outside))]), area[2] - area[0])
            return area[0] + column, area[1] + row
    return None


def rough_mask(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask like one that is drawn quickly by hand: eroded or dilated by a disk, then shifted. Never empty.

    Both follow the thickness ``R`` of the mask (2.5 times the mean city-block distance from its edge, about the radius of
    a disk), so that many small parts are treated like one. The disk's radius is 7 to 20 % of ``R`` and at least one pixel.
    The shift is up to 16 % of ``R`` along each axis (rounded). Where erosion would leave less than 30 % of the area, the mask
    is dilated instead.
    """
    height, width = mask.shape
    distance, x0, y0 = _inner_distance(mask)
    inside = distance > 0
    area = int(np.count_nonzero(inside))
    thickness = 2.5 * float(distance.sum()) / area
    radius = max(1.0, rng.uniform(0.07, 0.2) * thickness)
    erode = bool(rng.random() < 0.5)
    shift_x, shift_y = np.rint(rng.uniform(-0.16, 0.16, 2) * thickness).astype(int)
    pad = int(radius) + 1
    crop = np.pad(inside, pad)
    changed = ~_dilate(~crop, radius) if erode else _dilate(crop, radius)
    if erode and np.count_nonzero(changed) < 0.3 * area:
        changed = _dilate(crop, radius)
    rough = _paste(changed, x0 - pad + shift_x, y0 - pad + shift_y, height, width)
    return rough if rough.any() else mask.astype(bool)


def instance_labels(labels: np.ndarray, class_id: int, instance_map: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The instances of one class.

    Args:
        labels: class ids ``[H, W]``.
        instance_map: instance ids ``[H, W]`` where the data set has them; otherwise connected components are used.

    Returns:
        ``(map, areas)``: int32 ``[H, W]`` with 0 for everything else and ``1..N``, and int64 ``[N]`` pixels each.
        Crumbs (see :data:`INSTANCE_MIN_SHARE`) are left out.
    """
    mask = labels == class_id
    if instance_map is None:
        parts, count = label_components(mask)
    else:
        values, inverse = np.unique(np.where(mask, instance_map, 0), return_inverse=True)
        parts = inverse.reshape(mask.shape).astype(np.int32)
        count = len(values) - 1
        if values[0] != 0:  # not one background pixel
            parts, count = parts + 1, count + 1
    areas = np.bincount(parts.reshape(-1), minlength=count + 1)[1 : count + 1]
    if not count:
        return parts, areas
    keep = areas >= min(areas.max(), max(INSTANCE_MIN_PIXELS, INSTANCE_MIN_SHARE * areas.max()))
    renumber = np.concatenate(([0], np.where(keep, np.cumsum(keep), 0))).astype(np.int32)
    return renumber[parts], areas[keep]


def instances(
    labels: np.ndarray,
    class_id: int,
    instance_map: np.ndarray | None = None,
    *,
    limit: int | None = None,
    rng: np.random.Generator | None = None,
) -> list[np.ndarray]:
    """The instances of one class as bool masks ``[H, W]``, in raster order; see :func:`instance_labels`.

    ``limit`` keeps at most that many, drawn with ``rng``.
    """
    parts, areas = instance_labels(labels, class_id, instance_map)
    chosen = np.arange(1, len(areas) + 1)
    if limit is not None and len(chosen) > limit:
        if rng is None:
            raise ValueError("limit needs rng")
        chosen = np.sort(rng.choice(chosen, limit, replace=False))
    return [parts == index for index in chosen]


def is_many(areas: np.ndarray) -> bool:
    """Whether instances of these sizes make the class a many-instance class in this image."""
    return len(areas) >= MANY_INSTANCES


# -- own morphology --------------------------------------------------------------------------------------------------


def city_block_distance(mask: np.ndarray) -> np.ndarray:
    """Distance ``[H, W]`` (int32) of every pixel to the nearest background pixel, in city-block steps; 0 outside.

    What lies beyond the border is background. The city-block distance separates exactly into two passes per axis.
    """
    distance = np.where(np.pad(np.asarray(mask, bool), 1), np.int32(sum(mask.shape) + 2), np.int32(0))
    for axis in (1, 0):
        ramp = np.arange(distance.shape[axis], dtype=np.int32)
        ramp = ramp if axis else ramp[:, None]
        forward = np.minimum.accumulate(distance - ramp, axis=axis) + ramp
        backward = np.flip(np.minimum.accumulate(np.flip(distance + ramp, axis), axis=axis), axis) - ramp
        distance = np.minimum(forward, backward)
    return distance[1:-1, 1:-1]


def _inner_distance(mask: np.ndarray) -> tuple[np.ndarray, int, int]:
    """City-block distance inside the mask's box, and the box's corner ``x, y``."""
    x0, y0, x1, y1 = mask_box(mask)
    return city_block_distance(mask[y0:y1, x0:x1]), x0, y0


def _dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """Dilation by a disk: every pixel within ``radius`` (Euclidean) of the mask. Beyond the border is background."""
    height, width = mask.shape
    far = np.int32(height + width)
    ramp = np.arange(width, dtype=np.int32)
    left = ramp - np.maximum.accumulate(np.where(mask, ramp, -far), axis=1)
    right = np.minimum.accumulate(np.where(mask, ramp, 2 * far)[:, ::-1], axis=1)[:, ::-1] - ramp
    distance = np.minimum(left, right)
    result = np.zeros_like(mask)
    for step in range(min(int(radius), height - 1) + 1):
        near = distance <= int((radius * radius - step * step) ** 0.5)
        result[step:] |= near[: height - step]
        result[: height - step] |= near[step:]
    return result


def _paste(part: np.ndarray, x: int, y: int, height: int, width: int) -> np.ndarray:
    """``part`` at corner ``x, y`` of an empty ``[height, width]`` mask, cut at the border."""
    canvas = np.zeros((height, width), bool)
    rows, columns = part.shape
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + rows, height), min(x + columns, width)
    if bottom > top and right > left:
        canvas[top:bottom, left:right] = part[top - y : bottom - y, left - x : right - x]
    return canvas
