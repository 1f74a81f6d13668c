"""Logits of tiles blended into those of the image, window by window: memory holds the grids of the tiles, not the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..preprocessing.letterbox import Letterbox
from .grid import PixelBox, TileGrid

#: Rows that are blended at a time for the mask of the whole image.
STRIP = 256


@dataclass(frozen=True, eq=False)
class TiledLogits:
    """Logits of one mask, from overlapping tiles.

    Args:
        tiles: where the tiles lie.
        grids: float32 ``[M, M]`` per tile, over the square of the tile.
        size: side of the model's input.
        threshold: the logit from which on a pixel belongs to the mask.
    """

    tiles: TileGrid
    grids: Sequence[np.ndarray]
    size: int
    threshold: float = 0.0

    @property
    def letterbox(self) -> Letterbox:
        """Of every tile: all have one size."""
        return Letterbox(self.tiles.rows.side, self.tiles.columns.side, self.size)

    @cached_property
    def _weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return list(self.tiles.weights())

    def above_threshold(self, window: PixelBox | None = None) -> np.ndarray:
        """Logits minus the threshold, float32 ``[y1 - y0, x1 - x0]``; of the whole image without a window."""
        x0, y0, x1, y1 = window or (0, 0, self.tiles.columns.extent, self.tiles.rows.extent)
        blended = np.zeros((y1 - y0, x1 - x0), np.float32)
        letterbox = self.letterbox
        for box, grid, (down, along) in zip(self.tiles, self.grids, self._weights):
            left, top, right, bottom = max(x0, box[0]), max(y0, box[1]), min(x1, box[2]), min(y1, box[3])
            if left >= right or top >= bottom:
                continue
            moved = left - box[0], top - box[1], right - box[0], bottom - box[1]
            logits = letterbox.unletterbox_masks(grid[None], moved)[0]
            logits *= down[moved[1] : moved[3], None].astype(np.float32)
            logits *= along[moved[0] : moved[2]].astype(np.float32)
            blended[top - y0 : bottom - y0, left - x0 : right - x0] += logits
        blended -= np.float32(self.threshold)
        return blended

    def mask(self) -> np.ndarray:
        """The pixels that reach the threshold, bool ``[H, W]``, computed in strips."""
        height, width = self.tiles.rows.extent, self.tiles.columns.extent
        mask = np.empty((height, width), bool)
        for top in range(0, height, STRIP):
            bottom = min(height, top + STRIP)
            mask[top:bottom] = self.above_threshold((0, top, width, bottom)) >= 0
        return mask


def absent(grid: np.ndarray, threshold: float, confidence: float) -> np.ndarray:
    """The grid of a tile whose presence is too low: no logit is above one that is ``confidence`` (a probability) certain of
    the background, or above the logit ``threshold`` of the mask."""
    limit = min(threshold, math.log((1 - confidence) / confidence))
    result: np.ndarray = np.minimum(grid, np.float32(limit))
    return result
