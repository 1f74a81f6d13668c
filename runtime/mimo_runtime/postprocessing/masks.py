"""From logits in the geometry of the image to clean masks and boxes."""

from __future__ import annotations

import math

import numpy as np

from ..preprocessing.letterbox import Letterbox
from .connected_components import find_components

#: A part is dropped if it is smaller than this share of the largest part ...
MIN_SHARE = 0.001
#: ... or than this many cells of the model's own mask grid: the model cannot see anything that small.
MIN_CELLS = 4


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, without overflow; float32 stays float32."""
    logits = np.asarray(logits)
    small = np.exp(-np.abs(logits))
    probabilities: np.ndarray = np.where(logits >= 0, 1, small) / (1 + small)
    return probabilities


def mask_from_logits(logits: np.ndarray, threshold: float = 0.5, *, cell_area: float = 1.0) -> np.ndarray:
    """The clean mask of one query.

    A pixel is inside if its probability is at least ``threshold``; then small parts go (see :func:`remove_small_parts`).

    Args:
        logits: ``[H, W]`` in the geometry of the image. NaN is outside.
        threshold: probability in (0, 1).
        cell_area: pixels of the image per cell of the model's mask grid (``Letterbox.cell_area``).

    Returns:
        bool ``[H, W]``.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1, not be {threshold}")
    # Comparing logits with the threshold's logit saves a sigmoid over every pixel.
    return remove_small_parts(np.asarray(logits) >= math.log(threshold / (1 - threshold)), cell_area=cell_area)


def remove_small_parts(mask: np.ndarray, *, cell_area: float = 1.0) -> np.ndarray:
    """Drop connected parts below :data:`MIN_SHARE` of the largest or below :data:`MIN_CELLS` cells.

    The largest part always stays, however small: whether the target is there is for the presence score to say. Holes stay.

    Args:
        mask: bool ``[H, W]``; not changed.
        cell_area: as in :func:`mask_from_logits`.
    """
    box = box_of_mask(mask)
    if box is None:
        return mask.copy()
    x0, y0, x1, y1 = box
    parts = find_components(mask[y0:y1, x0:x1])
    if parts.count == 1:
        return mask.copy()
    areas = parts.areas
    areas[0] = 0
    keep = areas >= max(MIN_SHARE * areas.max(), MIN_CELLS * cell_area)
    keep[areas.argmax()] = True
    if keep[1:].all():
        return mask.copy()
    keep[0] = False
    clean = np.zeros_like(mask)
    clean[y0:y1, x0:x1] = parts.painted(keep)
    return clean


def box_of_mask(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """The tight box ``(xmin, ymin, xmax + 1, ymax + 1)`` of a mask, None if it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def pixel_counts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels in every row and in every column of a bool mask ``[H, W]``: exact numbers, float64 ``[H]`` and ``[W]``.

    A product with ones takes a fifth of the time of a sum of bool.
    """
    pixels = mask.astype(np.float32)  # exact up to 2**24
    in_rows, in_columns = pixels @ np.ones(mask.shape[1], np.float32), np.ones(mask.shape[0], np.float32) @ pixels
    return in_rows.astype(np.float64), in_columns.astype(np.float64)


def soft_centroid(logits: np.ndarray, letterbox: Letterbox) -> tuple[float, float]:
    """The position of a structure, with or without a mask: the mean position of the cells, weighted with squared probability.

    The square keeps a large faint background from drawing the centre to the middle of the image. Unlike the centroid of a mask
    it weights every part with its probability, and it exists for an empty mask.

    Args:
        logits: ``[M, M]`` of one query over the whole square.
        letterbox: of the image.

    Returns:
        ``(x, y)`` in continuous pixels of the image.
    """
    centres = (np.arange(len(logits)) + 0.5) / len(logits)
    columns, rows = (centres[centres < max(extent, centres[0] * 1.5)] for extent in letterbox.extent)
    weights = sigmoid(np.asarray(logits, np.float64)[: len(rows), : len(columns)]) ** 2
    x = float(weights.sum(axis=0) @ columns / weights.sum() / letterbox.factors[0])
    y = float(weights.sum(axis=1) @ rows / weights.sum() / letterbox.factors[1])
    return min(x, float(letterbox.width)), min(y, float(letterbox.height))
