"""How many objects a mask shows, where objects of one kind may touch each other.

Connected components count two nuclei that touch as one. The Euclidean distance to the background has a maximum in each of them
and a lower saddle at their contact. Two maxima belong to one object if the saddle between them is at least a share of the
lower one. So the rule has no unit and depends on no size.
"""

from __future__ import annotations

import math

import numpy as np

from .connected_components import INSTANCE_MIN_PIXELS, INSTANCE_MIN_SHARE

#: A mask with at least this many components shows many objects of one kind, of which some may touch; chosen on ``val``.
MANY_COMPONENTS = 7
#: With fewer components, one counts from this share of the largest one on: the mask of a single object often has a second part.
#: Chosen on ``val``.
COMPARABLE_SHARE = 0.3
#: Two parts of a component are two objects where their contact is narrower than this share of the smaller one's width.
#: Chosen on ``val``.
NECK_SHARE = 0.4
#: Longest side of the grid that distances are computed on, in pixels: a model sees no more.
GRID = 256
#: Largest distance on that grid; a coarser grid serves larger objects as well, because only ratios count.
MAX_DISTANCE = 20
#: Longest distance in pixels that 16 bits hold the square of twice.
LARGEST = 127
#: A component with more maxima is a network, like a vessel tree, and not a group of compact objects.
MAX_MAXIMA = 64
#: Points along the line between two maxima at which the distance is compared.
LINE_POINTS = 32


def instance_components(areas: np.ndarray) -> np.ndarray:
    """Which components are more than small parts beside a large one.

    Args:
        areas: pixels of every label, int ``[N + 1]``; the first is that of the background.

    Returns:
        bool ``[N + 1]``; the first is False.
    """
    largest = areas[1:].max(initial=0)
    kept: np.ndarray = areas >= min(largest, max(INSTANCE_MIN_PIXELS, INSTANCE_MIN_SHARE * largest))
    kept[0] = False
    return kept


def count_instances(labels: np.ndarray, areas: np.ndarray, enough: int | None = None) -> int:
    """The number of objects of one kind that the components of a mask show.

    From :data:`MANY_COMPONENTS` on, touching objects count one by one (:func:`touching_objects`). Fewer components are compact
    structures: the shape of a single organ or polyp has necks as well, and splitting it is wrong more often than right.

    Args:
        labels: components, int32 ``[H, W]``, 0 for the background.
        areas: pixels of every label, int ``[N + 1]``.
        enough: from this many components on their number is returned: whether some touch does not matter to the caller.
    """
    kept = instance_components(areas)
    components = int(np.count_nonzero(kept))
    if enough is not None and components >= enough:
        return components
    if components >= MANY_COMPONENTS:
        return int(touching_objects(labels, kept).sum())
    return int(np.count_nonzero(areas[kept] >= COMPARABLE_SHARE * areas[kept].max(initial=0)))


def touching_objects(labels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """How many touching objects every connected component consists of.

    Args:
        labels: components, int32 ``[H, W]``, 0 for the background.
        kept: which labels to look at, bool ``[N + 1]``; the first is False.

    Returns:
        int64 ``[N + 1]``: 0 for a label that is not kept, otherwise at least 1.
    """
    step = -(-max(labels.shape) // GRID)
    grid = labels[step // 2 :: step, step // 2 :: step]
    squared = squared_distance(kept[grid])
    coarser = -(-math.isqrt(int(squared.max(initial=0))) // MAX_DISTANCE)
    if coarser > 1:
        grid = grid[coarser // 2 :: coarser, coarser // 2 :: coarser]
        squared = squared_distance(kept[grid])
    rows, columns = _maxima(squared)
    few = (np.bincount(grid[rows, columns], minlength=len(kept)) <= MAX_MAXIMA)[grid[rows, columns]]
    rows, columns = rows[few], columns[few]
    numbers = grid[rows, columns]
    first, second = np.nonzero(np.triu(numbers[:, None] == numbers, 1))
    # The outline runs half a pixel before the nearest pixel outside.
    heights, lowest = np.sqrt(squared[rows, columns]) - 0.5, _lowest_between(squared, rows, columns, first, second) - 0.5
    distinct = _distinct_maxima(heights, first, second, lowest)
    objects = np.bincount(numbers[distinct], minlength=len(kept))
    return np.where(kept, np.maximum(objects, 1), 0)


def squared_distance(mask: np.ndarray) -> np.ndarray:
    """Square of the Euclidean distance of every pixel to the nearest one outside, int16 ``[H, W]``.

    Exact up to :data:`LARGEST`; larger distances may be too small. Beyond the border lies background. First along columns, then
    the smallest over all offsets along rows (Saito and Toriwaki, Pattern Recognition 27, 1994).
    """
    padded = np.pad(mask, 1)
    height, width = padded.shape
    ramp = np.arange(height, dtype=np.int16)[:, None]
    above = ramp - np.maximum.accumulate(np.where(padded, np.int16(-1), ramp), axis=0)
    below = np.minimum.accumulate(np.where(padded, np.int16(height), ramp)[::-1], axis=0)[::-1] - ramp
    vertical = np.minimum(np.minimum(above, below), np.int16(LARGEST))
    along_columns = vertical * vertical
    squared = along_columns.copy()
    for offset in range(1, min(width, LARGEST + 1)):
        square = np.int16(offset * offset)
        if square >= squared.max():
            break
        farther = along_columns + square
        np.minimum(squared[:, offset:], farther[:, :-offset], out=squared[:, offset:])
        np.minimum(squared[:, :-offset], farther[:, offset:], out=squared[:, :-offset])
    return squared[1:-1, 1:-1]


def _maxima(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the positive values that none up to two pixels away along both axes exceeds."""
    padded = np.pad(values, 2)
    pairs = np.maximum(padded[1:], padded[:-1])
    tall = np.maximum(np.maximum(pairs[2:], pairs[:-2])[:-1], padded[4:])
    pairs = np.maximum(tall[:, 1:], tall[:, :-1])
    highest = np.maximum(np.maximum(pairs[:, 2:], pairs[:, :-2])[:, :-1], tall[:, 4:])
    rows, columns = np.nonzero((values > 0) & (values >= highest))
    return rows, columns


def _lowest_between(
    squared: np.ndarray, rows: np.ndarray, columns: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """The smallest distance, of which ``squared`` has the squares, at points along the lines between pairs of pixels."""
    share = (np.arange(LINE_POINTS) + 0.5) / LINE_POINTS
    y = rows[first, None] + share * (rows[second] - rows[first])[:, None]
    x = columns[first, None] + share * (columns[second] - columns[first])[:, None]
    lowest: np.ndarray = np.sqrt(squared[np.rint(y).astype(np.intp), np.rint(x).astype(np.intp)].min(axis=1))
    return lowest


def _distinct_maxima(heights: np.ndarray, first: np.ndarray, second: np.ndarray, lowest: np.ndarray) -> list[int]:
    """The maxima that are objects of their own. Two maxima are one object unless the saddle between them is below
    :data:`NECK_SHARE` of the lower one.

    The saddle of two groups of maxima is the highest one between their members. So pairs are joined from high to low, as in
    Kruskal's maximum spanning tree. A low maximum in a contact then joins one of its sides and cannot connect them.

    Args:
        heights: of the maxima.
        first, second: indices of the pairs of maxima.
        lowest: the lowest value between the two of each pair.
    """
    parent, peak = list(range(len(heights))), heights.tolist()
    distinct = set(parent)
    for edge in np.argsort(-lowest, kind="stable").tolist():
        high, low = _root(parent, int(first[edge])), _root(parent, int(second[edge]))
        if high == low:
            continue
        if peak[high] < peak[low]:
            high, low = low, high
        parent[low] = high
        if lowest[edge] >= NECK_SHARE * peak[low]:
            distinct.discard(low)
    return sorted(distinct)


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = index = parent[parent[index]]
    return index
