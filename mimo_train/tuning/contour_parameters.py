"""The parameters from which on the contours of a mask hold (:mod:`mimo_runtime.postprocessing.contours`)."""

from __future__ import annotations

import math

import numpy as np

from mimo_runtime.postprocessing.contours import INNER_SHARE, OUTER_SHARE, REACH, MaskLogits
from mimo_runtime.postprocessing.masks import box_of_mask

#: Parameters are rounded up to this many decimals.
_DECIMALS = 4
#: Logits of a window of the image differ from those of the whole image by less.
_LOGIT_ERROR = 1e-5


def needed_parameters(mask: np.ndarray, truth: np.ndarray, logits: MaskLogits) -> tuple[float, float]:
    """The smallest parameters from which on the inner and the outer contour of a mask hold.

    Args:
        mask: bool ``[H, W]``, not empty.
        truth: bool ``[H, W]``, not empty.
        logits: of the mask.

    Returns:
        ``(inner, outer)``, for every parameter at least as large, too: a higher threshold may take true pixels first, so that
        an inner contour that held holds no longer.
    """
    values = logits.above_threshold()
    return _inner_parameter(values[mask], truth[mask]), _outer_parameter(values, mask, truth)


def _outer_parameter(values: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> float:
    """Where the contour contains :data:`OUTER_SHARE` of the truth."""
    # The pixel of the mask that is nearest to a true one lies in the box around both.
    box = box_of_mask(mask | truth)
    assert box is not None
    window = np.s_[box[1] : box[3], box[0] : box[2]]
    distances = np.sqrt(squared_distances(mask[window])[truth[window]])
    reached = distances / (REACH * math.sqrt(np.count_nonzero(mask)))
    needed = np.sort(np.where(mask[truth], 0.0, np.maximum(reached, -values[truth].astype(np.float64))))
    largest = needed[math.ceil(OUTER_SHARE * len(needed) - 1e-9) - 1]
    return math.ceil((largest + _LOGIT_ERROR) * 10**_DECIMALS) / 10**_DECIMALS if largest else 0.0


def _inner_parameter(values: np.ndarray, is_true: np.ndarray) -> float:
    """Where :data:`INNER_SHARE` of the contour is true, or nothing is left of it.

    Args:
        values: logits above the threshold of the mask's pixels, ``[N]``.
        is_true: of the same pixels, bool ``[N]``.
    """
    order = np.argsort(-values, kind="stable")
    ranked = values[order].astype(np.float64)
    wrong, count = np.cumsum(~is_true[order]), np.arange(1, len(order) + 1)
    # A threshold keeps all pixels of one value, or none.
    fails = np.append(ranked[1:] != ranked[:-1], True) & (wrong > (1 - INNER_SHARE) * count + 1e-9)
    if not fails.any():
        return 0.0
    # Just above the highest threshold that fails.
    return max(0.0, (math.floor((ranked[np.argmax(fails)] + _LOGIT_ERROR) * 10**_DECIMALS) + 1) / 10**_DECIMALS)


def squared_distances(mask: np.ndarray) -> np.ndarray:
    """Squared Euclidean distance of every pixel to the nearest pixel of ``mask``, int64 ``[H, W]``; 0 inside. Exact.

    Without a pixel in ``mask`` every distance is that of a pixel far outside.
    """
    height, width = mask.shape
    far, ramp = np.int64(2 * (height + width)), np.arange(width, dtype=np.int64)
    before = ramp - np.maximum.accumulate(np.where(mask, ramp, -far), axis=1)
    after = np.minimum.accumulate(np.where(mask, ramp, far + width)[:, ::-1], axis=1)[:, ::-1] - ramp
    in_row = np.minimum(before, after) ** 2
    result = in_row.copy()
    for step in range(1, height):
        if step * step >= result.max():
            break
        np.minimum(result[step:], in_row[:-step] + step * step, out=result[step:])
        np.minimum(result[:-step], in_row[step:] + step * step, out=result[:-step])
    return result
