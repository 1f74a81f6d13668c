"""The letterbox: how coordinates, images and masks go from an image to the square model input and back.

Coordinates are continuous: pixel ``(i, j)`` covers ``[j, j + 1) x [i, i + 1)``, so its centre is ``(j + 0.5, i + 0.5)``
(torch calls this ``align_corners=False``). An image of H x W pixels is scaled so that its longer side fills the square of S
pixels. It is put into the top left corner; the rest of the square is zero. Because the shorter side is rounded to whole
pixels, each axis has a scale of its own, ``new_w / W`` and ``new_h / H``, and every method here uses these two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

_STRIP = 64
#: More than the rounding of four float32 operations on numbers of magnitude 1, twice.
_ROUNDING = 2e-6


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

    @property
    def extent(self) -> np.ndarray:
        """float32 ``[2]``: width and height of the image as fractions of the square."""
        return np.array((self.new_width / self.size, self.new_height / self.size), np.float32)

    # -- to the square -------------------------------------------------------------------------------------------

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """``uint8 [H, W, 3]`` -> ``float32 [3, S, S]`` in [0, 1]: bilinear, with antialiasing where it shrinks."""
        self._check(pixels, 3)
        # Equal channels are resized once: it takes half of the time, and gives the same values.
        source = np.ascontiguousarray(pixels[..., 0]) if _has_equal_channels(pixels) else pixels
        target = (self.new_width, self.new_height)
        resized = np.asarray(Image.fromarray(source).resize(target, Image.Resampling.BILINEAR))
        square = np.zeros((3, self.size, self.size), np.float32)
        filled = square[:, : self.new_height, : self.new_width]
        if resized.ndim == 2:
            np.divide(resized, np.float32(255), out=filled[0])
            filled[1:] = filled[0]
        else:
            np.divide(resized.transpose(2, 0, 1), np.float32(255), out=filled)
        return square

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """``[N, 4]`` (x0, y0, x1, y1) in pixels -> ``float32 [N, 4]`` fractions of the square."""
        return self._scale(boxes, 2)

    def points(self, points: np.ndarray) -> np.ndarray:
        """``[N, 2]`` continuous (x, y) in pixels -> ``float32 [N, 2]`` fractions of the square."""
        return self._scale(points, 1)

    def coverage(self, mask: np.ndarray, side: int) -> np.ndarray:
        """``bool [H, W]`` -> ``float32 [side, side]``: the fraction of each cell of the square that the mask covers.

        Exact, also where an edge of a cell cuts a pixel. The grid covers the whole square, padding included, like the
        model's own masks.
        """
        self._check(mask, 2)
        x, y = self.factors
        cells = np.arange(side + 1) / side
        rows = _sums_between(mask.astype(np.uint8, copy=False), np.minimum(cells / y, self.height))
        both = _sums_between(rows.T, np.minimum(cells / x, self.width)).T
        return (both / self.cell_area(side)).astype(np.float32)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask prompt ``bool [H, W]`` -> ``float32 [1, S/4, S/4]`` in [0, 1].

        Coverage, divided by its largest value: that changes nothing unless the mask is thinner than a cell everywhere,
        and then keeps it from vanishing.
        """
        cells = self.coverage(mask, self.size // 4)
        peak = cells.max()
        return (cells / peak if peak > 0 else cells)[None]

    # -- and back ------------------------------------------------------------------------------------------------

    def unletterbox_masks(self, logits: np.ndarray, window: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """``float32 [Q, M, M]`` logits over the whole square -> ``float32 [Q, H, W]`` logits of the image's pixels.

        Bilinear at each pixel's centre, so a field that is linear in the image's coordinates comes back as it was. Cells
        that lie wholly in the padding are cut off first: at the border the nearest cell of the image counts instead. The
        result takes 4 bytes per query and pixel, so pass only the queries that are needed, and the window.

        Args:
            window: only these pixels, ``(left, top, right, bottom)``; the last two are exclusive. H and W are then its own.
        """
        if logits.ndim != 3 or logits.shape[1] != logits.shape[2]:
            raise ValueError(f"logits must be [Q, M, M], not {list(logits.shape)}")
        side = logits.shape[1]
        x, y = self.factors
        x0, y0, x1, y1 = window or (0, 0, self.width, self.height)
        above, below, down = (part[y0:y1] for part in _neighbours(self.height, y * side))
        left, right, across = (part[x0:x1] for part in _neighbours(self.width, x * side))
        back = np.empty((len(logits), len(above), len(left)), np.float32)
        for target, source in zip(back, logits.astype(np.float32, copy=False), strict=True):
            rows = source[above] + (source[below] - source[above]) * down[:, None]
            for start in range(0, len(above), _STRIP):  # strips stay in the processor's cache
                strip = rows[start : start + _STRIP]
                near = np.take(strip, left, axis=1, out=target[start : start + _STRIP], mode="clip")
                step = np.take(strip, right, axis=1, mode="clip")
                step -= near
                step *= across
                near += step
        return back

    def window_reaching(self, logits: np.ndarray, level: float) -> tuple[int, int, int, int] | None:
        """The pixels of the image that may reach ``level`` in :meth:`unletterbox_masks`, as its ``window``; None if none may.

        A pixel lies between the values of its four cells, up to rounding: no pixel outside of the window reaches the level.

        Args:
            logits: ``[M, M]`` of one query over the whole square.
        """
        side = len(logits)
        x, y = self.factors
        largest, smallest = float(logits.max()), float(logits.min())
        if not math.isfinite(largest - smallest):
            return 0, 0, self.width, self.height
        lowest = level - _ROUNDING * max(abs(largest), abs(smallest), abs(level))
        cells = np.asarray(logits.astype(np.float32, copy=False) >= lowest)
        edges = []
        for pixels, factor, axis in ((self.width, x, 0), (self.height, y, 1)):
            before, after, _ = _neighbours(pixels, factor * side)
            reaching = np.asarray(cells.any(axis=axis))
            places = np.flatnonzero(reaching[before] | reaching[after])
            if not places.size:
                return None
            edges.append((int(places[0]), int(places[-1]) + 1))
        (x0, x1), (y0, y1) = edges
        return x0, y0, x1, y1

    def cell_area(self, side: int) -> float:
        """Pixels of the image that one cell of a ``side x side`` grid over the square covers."""
        x, y = self.factors
        return 1 / (side * x * side * y)

    # -- helpers -------------------------------------------------------------------------------------------------

    def _scale(self, values: np.ndarray, pairs: int) -> np.ndarray:
        factors = np.tile(self.factors, pairs)
        value: np.ndarray = (np.asarray(values, np.float64).reshape(-1, 2 * pairs) * factors).astype(np.float32)
        return value

    def _check(self, array: np.ndarray, dimensions: int) -> None:
        if array.ndim != dimensions or array.shape[:2] != (self.height, self.width):
            raise ValueError(f"this letterbox is for {self.height} x {self.width} pixels, not {list(array.shape)}")


def _has_equal_channels(pixels: np.ndarray) -> bool:
    """Whether ``uint8 [H, W, 3]`` is grey. Colours are noticed in the middle row."""
    middle = pixels[len(pixels) // 2]
    if (middle != middle[:, :1]).any():
        return False
    values = np.ascontiguousarray(pixels).reshape(-1)
    differs = values[1:] != values[:-1]  # contiguous, which is four times as fast as comparing channels
    differs[2::3] = False  # from one pixel to the next
    return not differs.any()


def _scaled(side: int, longer: int, size: int) -> int:
    """``side * size / longer`` rounded half up, in whole numbers so that no machine rounds differently."""
    return max(1, (2 * side * size + longer) // (2 * longer))


@lru_cache(maxsize=32)
def _neighbours(pixels: int, cells_per_pixel: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For the centre of each pixel of an axis: the cells before and after it, and the weight of the latter."""
    last = max(0, math.ceil(pixels * cells_per_pixel - 1e-9) - 1)  # the last cell with a part of the image in it
    position = np.clip((np.arange(pixels) + 0.5) * cells_per_pixel - 0.5, 0, last)
    before = position.astype(np.int64)
    neighbours = before, np.minimum(before + 1, last), (position - before).astype(np.float32)
    for part in neighbours:
        part.flags.writeable = False
    return neighbours


def _sums_between(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Integrals over the first axis between ascending real edges: ``[N, K]`` and ``[E + 1]`` in 0..N -> float64 ``[E, K]``."""
    whole = np.minimum(edges.astype(np.int64), len(values) - 1)
    kind = np.float64 if values.dtype.kind == "f" else np.int32
    sums = np.add.reduceat(values, whole[:-1], axis=0, dtype=kind).astype(np.float64)
    # reduceat gives the element itself where two edges fall into one pixel, and runs to the end after the last edge.
    sums[whole[:-1] == whole[1:]] = 0
    sums[-1] = values[whole[-2] : whole[-1]].sum(axis=0)
    parts = (edges - whole)[:, None] * values[whole]
    value: np.ndarray = sums + parts[1:] - parts[:-1]
    return value
