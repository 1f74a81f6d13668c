"""From masks to the words of the grammar: number, size, shape, location, relation."""

from __future__ import annotations

import numpy as np

from ..postprocessing.connected_components import find_components
from ..postprocessing.instances import count_instances, instance_components
from ..postprocessing.masks import box_of_mask, pixel_counts
from .grammar import COUNTS, LOCATIONS, RELATIONS, SIZES, Description, Phrase
from .shape_descriptors import shape_numbers

#: Area of one instance as a fraction of the image: below the first is small, from the second on large.
SIZE_LIMITS = (0.03, 0.15)
#: Below this share of its convex hull a shape is irregular; otherwise minor / major axis decides round, oval, elongated.
SOLIDITY_LIMIT, ROUND_LIMIT, OVAL_LIMIT = 0.85, 0.75, 0.5
#: Structures with a smaller gap lie next to each other; a share of the longer side of the image.
NEAR = 0.04
#: Smaller shapes have no outline to speak of: they are never irregular. In pixels.
OUTLINE_PIXELS = 16
#: From this number on the counting word is "many".
MANY = 10


def observe(
    mask: np.ndarray, name: str, modality: str = "", region: str = "", query: int | None = 0, count: int | None = None
) -> Description:
    """The description of one structure from its bool mask ``[H, W]``; an empty mask is an absent structure.

    ``count`` is the number of instances where it is known; otherwise ``postprocessing.instances.count_instances`` counts.
    """
    phrase = observe_phrase(mask, name, query, count)
    return Description(modality, region, absent=name) if phrase is None else Description(modality, region, (phrase,))


def observe_phrase(mask: np.ndarray, name: str, query: int | None = 0, count: int | None = None) -> Phrase | None:
    """The slots of one mask, or None for an empty one. Size is the mean over instances, shape that of the median one."""
    mask = np.asarray(mask, bool)
    box = box_of_mask(mask)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    crop = mask[y0:y1, x0:x1]
    parts = find_components(crop)
    areas = parts.areas
    kept = np.flatnonzero(instance_components(areas))
    middle = kept[np.argsort(areas[kept], kind="stable")[len(kept) // 2]]
    labels = np.arange(len(areas), dtype=np.int32)
    if count is not None or parts.count == 1:
        number = max(1, count or 1)
    else:
        number = count_instances(parts.painted(labels), areas, enough=MANY)
    area = int(areas[1:].sum())
    height, width = mask.shape
    size = size_word(area / number / (height * width))
    in_rows, in_columns = pixel_counts(crop)
    row_mean, column_mean = (
        float(counts @ (np.arange(start, start + len(counts)) + 0.5) / area)
        for counts, start in ((in_rows, y0), (in_columns, x0))
    )
    shape = shape_word(crop if parts.count == 1 else parts.painted(labels == middle))
    location = location_word(column_mean / width, row_mean / height)
    return Phrase(name, query, count_word(number), size, shape, location)


def count_word(count: int) -> str:
    return COUNTS[count - 1] if count <= 5 else COUNTS[5] if count < MANY else COUNTS[6]


def size_word(fraction: float) -> str:
    """The word for an area, given as a fraction of the image."""
    return SIZES[int(np.searchsorted(SIZE_LIMITS, fraction, side="right"))]


def location_word(x: float, y: float) -> str:
    """The word for a centroid, given as fractions of the image's sides."""
    return LOCATIONS[min(2, int(y * 3)) * 3 + min(2, int(x * 3))]


def relation_word(a: np.ndarray, b: np.ndarray) -> str:
    """How mask ``a`` lies relative to mask ``b``, both bool ``[H, W]`` and not empty: along the axis that parts them more."""
    return relation_of_centres(*((float(x.mean()), float(y.mean())) for y, x in (np.nonzero(m) for m in (a, b))))


def relation_of_centres(a: tuple[float, float], b: tuple[float, float]) -> str:
    """As :func:`relation_word`, for two centroids ``(x, y)`` in pixels."""
    (xa, ya), (xb, yb) = a, b
    if abs(ya - yb) >= abs(xa - xb):
        return RELATIONS[0] if ya < yb else RELATIONS[1]
    return RELATIONS[2] if xa < xb else RELATIONS[3]


def is_next_to(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two masks, bool ``[H, W]``, have a gap of at most :data:`NEAR`, along rows and columns each."""
    box, gap = box_of_mask(a), round(NEAR * max(a.shape))
    if box is None:
        return False
    x0, y0, x1, y1 = box
    window = np.s_[max(0, y0 - gap) : y1 + gap, max(0, x0 - gap) : x1 + gap]
    near = a[window]
    for axis in (0, 1):
        pad = [(gap + 1, gap) if i == axis else (0, 0) for i in (0, 1)]
        sums = np.pad(near.astype(np.int32), pad).cumsum(axis)
        size = near.shape[axis]
        near = sums.take(range(2 * gap + 1, 2 * gap + 1 + size), axis) > sums.take(range(size), axis)
    return bool((near & b[window]).any())


def shape_word(mask: np.ndarray) -> str:
    """The word for a connected, non-empty mask; see :data:`SOLIDITY_LIMIT`."""
    area, ratio, solidity = shape_numbers(mask)
    if solidity < SOLIDITY_LIMIT and area >= OUTLINE_PIXELS:
        return "irregular"
    return "round" if ratio >= ROUND_LIMIT else "oval" if ratio >= OVAL_LIMIT else "elongated"
