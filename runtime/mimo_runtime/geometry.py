"""The letterbox: how coordinates, images and masks go from an image to the square model input and back.

Coordinates are continuous: pixel ``(i, j)`` covers ``[j, j + 1) x [i, i + 1)``, so its centre is ``(j + 0.5, i + 0.5)``
(torch calls this ``align_corners=False``). An image of H x W pixels is scaled so that its longer side fills the square of
S pixels and is put into the top left corner; the rest of the square is zero. Because the shorter side is rounded to
whole pixels, each axis has a scale of its own, ``new_w / W`` and ``new_h / H``, and every method here uses these two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Letterbox:
    """The geometry of one image in the square model input.

    Args:
        height, width: size of the image in pixels, both at least 1.
        size: side S of the square in pixels.
    """

    height: int
    width: int
    size: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.size < 1:
            raise ValueError(f"height, width and size must be at least 1, not {self.height}, {self.width}, {self.size}")

    @property
    def new_height(self) -> int:
        """Rows of the square that the image fills."""
        return _scaled(self.height, max(self.height, self.width), self.size)

    @property
    def new_width(self) -> int:
        """Columns of the square that the image fills."""
        return _scaled(self.width, max(self.height, self.width), self.size)

    @property
    def factors(self) -> tuple[float, float]:
        """``(x, y)``: multiply pixel coordinates of the image by these to get fractions of the square."""
        return self.new_width / self.width / self.size, self.new_height / self.height / self.size

    # -- to the square -------------------------------------------------------------------------------------------

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """``uint8 [H, W, 3]`` -> ``float32 [3, S, S]`` in [0, 1]: bilinear, with antialiasing where it shrinks."""
        self._check(pixels, 3)
        square = np.zeros((self.size, self.size, 3), np.uint8)
        target = (self.new_width, self.new_height)
        square[: self.new_height, : self.new_width] = Image.fromarray(pixels).resize(target, Image.Resampling.BILINEAR)
        return np.ascontiguousarray(square.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """``[N, 4]`` (x0, y0, x1, y1) in pixels -> ``float32 [N, 4]`` fractions of the square."""
        return self._scale(boxes, 2)

    def points(self, points: np.ndarray) -> np.ndarray:
        """``[N, 2]`` continuous (x, y) in pixels -> ``float32 [N, 2]`` fractions of the square."""
        return self._scale(points, 1)

    def coverage(self, mask: np.ndarray, side: int) -> np.ndarray:
        """``bool [H, W]`` -> ``float32 [side, side]``: the fraction of each cell of the square that the mask covers.

        ``side`` must divide S. The grid covers the whole square, padding included, like the model's own masks.
        """
        self._check(mask, 2)
        if self.size % side:
            raise ValueError(f"a grid of {side} cells does not divide a square of {self.size} pixels")
        square = np.zeros((self.size, self.size), np.float32)
        small = Image.fromarray(mask.astype(np.float32)).resize((self.new_width, self.new_height), Image.Resampling.BOX)
        square[: self.new_height, : self.new_width] = small
        step = self.size // side
        return square.reshape(side, step, side, step).mean((1, 3), dtype=np.float32)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask prompt ``bool [H, W]`` -> ``float32 [1, S/4, S/4]`` in [0, 1].

        Coverage, divided by its largest value: that changes nothing unless the mask is thinner than a cell everywhere,
        and then keeps it from vanishing.
        """
        cells = self.coverage(mask, self.size // 4)
        peak = cells.max()
        return (cells / peak if peak > 0 else cells)[None]

    # -- and back ------------------------------------------------------------------------------------------------

    def masks_back(self, logits: np.ndarray) -> np.ndarray:
        """``float32 [Q, M, M]`` logits over the whole square -> ``float32 [Q, H, W]`` logits of the image's pixels.

        Bilinear at each pixel's centre (averaged where the image has fewer pixels than the grid). Cells that lie
        wholly in the padding are cut off first: at the border the nearest cell of the image counts instead. The result
        takes 4 bytes per query and pixel, so pass only the queries that are needed.
        """
        if logits.ndim != 3 or logits.shape[1] != logits.shape[2]:
            raise ValueError(f"logits must be [Q, M, M], not {list(logits.shape)}")
        side = logits.shape[1]
        across, down = side * self.new_width / self.size, side * self.new_height / self.size
        inside = np.ascontiguousarray(logits[:, : math.ceil(down), : math.ceil(across)], np.float32)
        back = np.empty((len(logits), self.height, self.width), np.float32)
        for target, source in zip(back, inside):
            target[:] = Image.fromarray(source).resize(
                (self.width, self.height), Image.Resampling.BILINEAR, box=(0, 0, across, down)
            )
        return back

    def boxes_back(self, boxes: np.ndarray) -> np.ndarray:
        """``[N, 4]`` fractions of the square -> ``float32 [N, 4]`` in pixels, clipped to the image."""
        x, y = self.factors
        pixels = np.asarray(boxes, np.float64).reshape(-1, 4) / (x, y, x, y)
        limits = (self.width, self.height, self.width, self.height)
        return np.clip(pixels, 0, limits).astype(np.float32)

    def cell_area(self, side: int) -> float:
        """Pixels of the image that one cell of a ``side x side`` grid over the square covers."""
        x, y = self.factors
        return 1 / (side * x * side * y)

    # -- helpers -------------------------------------------------------------------------------------------------

    def _scale(self, values: np.ndarray, pairs: int) -> np.ndarray:
        factors = np.tile(self.factors, pairs)
        return (np.asarray(values, np.float64).reshape(-1, 2 * pairs) * factors).astype(np.float32)

    def _check(self, array: np.ndarray, dimensions: int) -> None:
        if array.ndim != dimensions or array.shape[:2] != (self.height, self.width):
            raise ValueError(f"this letterbox is for {self.height} x {self.width} pixels, not {list(array.shape)}")


def _scaled(side: int, longer: int, size: int) -> int:
    """``side * size / longer`` rounded half up, in whole numbers so that no machine rounds differently."""
    return max(1, (2 * side * size + longer) // (2 * longer))
