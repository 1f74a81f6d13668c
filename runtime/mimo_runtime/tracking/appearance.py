"""The remembered appearance of a target: mean and spread of the encoder's features under its mask, of fixed shape.

Features are standardised by the mean and the spread of their frame, so that a change of brightness or gain of the whole frame
changes the appearance little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..preprocessing.letterbox import Letterbox

#: Features of the vision encoder that describe a target: those with a cell of 8 pixels of the square.
FEATURES = "features_8"
#: Added to a spread before a division.
FLOOR = 1e-3


@dataclass(frozen=True, eq=False)
class Appearance:
    """Of one frame, or averaged over frames.

    Args:
        mean: float32 ``[C]``, of the standardised features under the mask.
        spread: float32 ``[C]``, their standard deviation under the mask.
    """

    mean: np.ndarray
    spread: np.ndarray

    def similarity(self, other: Appearance) -> float:
        """Cosine of the two means, in [-1, 1]; 1 where neither frame has any contrast.

        Channels that vary within this target count less.
        """
        weights = 1 / (1 + self.spread)
        a, b = self.mean * weights, other.mean * weights
        lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
        if max(lengths) < FLOOR:
            return 1.0
        return float(a @ b) / max(lengths[0] * lengths[1], FLOOR**2)

    def updated(self, new: Appearance, rate: float) -> Appearance:
        """The exponential average with a new frame of weight ``rate``."""
        return Appearance(self.mean + rate * (new.mean - self.mean), self.spread + rate * (new.spread - self.spread))


def appearance_of(features: np.ndarray, letterbox: Letterbox, mask: np.ndarray) -> Appearance:
    """The appearance of a target.

    Args:
        features: ``[1, C, S, S]`` of the vision encoder.
        letterbox: of the frame.
        mask: bool ``[H, W]``, not empty.
    """
    values = standardised(features, letterbox)
    whole = letterbox.coverage(mask, features.shape[-1]).astype(np.float32)
    cover = whole[: values.shape[1], : values.shape[2]]
    if not cover.any():  # the mask lies in the last cells, which are mostly padding: their neighbours count
        rows, columns = np.nonzero(whole)
        np.add.at(cover, (np.minimum(rows, len(cover) - 1), np.minimum(columns, cover.shape[1] - 1)), whole[rows, columns])
    weights = cover / cover.sum()
    mean = np.tensordot(values, weights, 2)
    spread = np.sqrt(np.maximum(np.tensordot(values**2, weights, 2) - mean**2, 0))
    return Appearance(mean.astype(np.float32), spread.astype(np.float32))


def standardised(features: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """Features without those of the padding, each channel with mean 0 and spread 1: float32 ``[C, h, w]``."""
    side = features.shape[-1]
    columns, rows = (max(1, min(side, round(float(extent) * side))) for extent in letterbox.extent)
    values = features[0, :, :rows, :columns].astype(np.float32)
    values = values - values.mean((1, 2), keepdims=True)
    result: np.ndarray = values / (values.std((1, 2), keepdims=True) + FLOOR)
    return result


def most_similar_place(
    features: np.ndarray, letterbox: Letterbox, appearance: Appearance, size: tuple[float, float], near: tuple[float, float]
) -> tuple[float, float]:
    """The centre of the box whose cells are most similar to a target.

    Args:
        size: of the box, ``(width, height)`` in pixels.
        near: of equally similar places, the one nearest to this ``(x, y)`` is chosen.

    Returns:
        ``(x, y)`` in pixels.
    """
    values = standardised(features, letterbox)
    side = features.shape[-1]
    weights = (1 / (1 + appearance.spread))[:, None, None]
    target = appearance.mean[:, None, None] * weights
    values = values * weights
    cosine = (values * target).sum(0) / (np.linalg.norm(values, axis=0) * np.linalg.norm(target) + FLOOR)
    across, down = (max(1, round(length * float(factor) * side)) for length, factor in zip(size, letterbox.factors))
    means = _box_means(cosine, down, across)
    rows, columns = np.indices(means.shape)
    centres_x = (columns + 0.5) / side / letterbox.factors[0]
    centres_y = (rows + 0.5) / side / letterbox.factors[1]
    distance = np.hypot(centres_x - near[0], centres_y - near[1]) / max(letterbox.height, letterbox.width)
    best = np.unravel_index(int((means - 0.05 * distance).argmax()), means.shape)
    return float(centres_x[best]), float(centres_y[best])


def _box_means(values: np.ndarray, down: int, across: int) -> np.ndarray:
    """Means over boxes of ``down x across`` cells around every cell, cut off at the border."""
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    height, width = values.shape
    top = np.clip(np.arange(height) - down // 2, 0, height - 1)
    left = np.clip(np.arange(width) - across // 2, 0, width - 1)
    bottom, right = np.minimum(top + down, height), np.minimum(left + across, width)
    inside = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    means: np.ndarray = inside / np.outer(bottom - top, right - left)
    return means
