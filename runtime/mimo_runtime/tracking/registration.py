"""How the surroundings of a target move between two frames: an affine motion, found from grey values.

First a shift, by masked normalised cross-correlation (Padfield, CVPR 2010) on a coarse grid; then an affine motion, by inverse
compositional alignment (Baker and Matthews, IJCV 56, 2004) from coarse to fine. Brightness and gain of a frame change nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..results.answer import Box

#: Longest side of the finest grid that is compared, in its pixels; each further one has half the side of the one before.
FINEST, LEVELS = 256, 4
#: Points along each side of the region at which frames are compared.
POINTS = 32
#: Margin of the region around a box as a share of its sides: the outline of a target tells more than its inside.
MARGIN = 0.25
#: Steps per level, and the step in pixels of the level below which it ends.
STEPS, SMALL_STEP = 8, 0.03
#: Least share of the region that both frames must show.
MIN_OVERLAP = 0.25
#: Keeps the equations of regions without contrast solvable: share of their mean diagonal.
DAMPING = 1e-2
#: How much a shift by the longer side of the frame lowers the correlation: of equal places, the nearest is chosen.
DISTANCE_PENALTY = 0.2


@dataclass(frozen=True, eq=False)
class GreyFrame:
    """Grey values of a frame, from fine to coarse.

    Args:
        levels: float32 ``[h, w]`` each, the next with half the sides.
        scale: pixels of the finest level per pixel of the frame, ``(x, y)``.
    """

    levels: tuple[np.ndarray, ...]
    scale: tuple[float, float]


def grey_frame(pixels: np.ndarray) -> GreyFrame:
    """Of ``uint8 [H, W, 3]``."""
    height, width = pixels.shape[:2]
    factor = min(1.0, FINEST / max(height, width))
    size = max(8, round(width * factor)), max(8, round(height * factor))
    image = Image.fromarray(pixels).convert("L")
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    levels = [np.asarray(image, np.float32)]
    while len(levels) < LEVELS and min(levels[-1].shape) >= 16:
        last = levels[-1]
        rows, columns = last.shape[0] // 2, last.shape[1] // 2
        levels.append(last[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean((1, 3)))
    return GreyFrame(tuple(levels), (size[0] / width, size[1] / height))


@dataclass(frozen=True, eq=False)
class Motion:
    """An affine motion about a centre: a point ``p`` of the first frame is at ``matrix @ (p - centre) + shift + centre``.

    Args:
        centre: ``(x, y)`` in pixels.
        matrix: float64 ``[2, 2]``.
        shift: float64 ``[2]`` in pixels.
        similarity: correlation of the grey values after the motion, in [-1, 1].
    """

    centre: tuple[float, float]
    matrix: np.ndarray
    shift: np.ndarray
    similarity: float

    def box(self, box: Box) -> Box:
        """The box around the ellipse in a box, after the motion; it may reach beyond the frame."""
        middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        half = np.hypot(*(self.matrix * [(box[2] - box[0]) / 2, (box[3] - box[1]) / 2]).T)
        x, y = self.matrix @ (middle - self.centre) + self.shift + self.centre
        return float(x - half[0]), float(y - half[1]), float(x + half[0]), float(y + half[1])

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask, bool ``[H, W]``, after the motion."""
        rows, columns = np.nonzero(mask)
        if not len(rows):
            return mask
        # Only the pixels of the box of the result are computed.
        x0, y0, x1, y1 = self._box_of_pixels(rows, columns, mask.shape)
        moved = np.zeros_like(mask)
        if x0 >= x1 or y0 >= y1:
            return moved
        y, x = np.mgrid[y0:y1, x0:x1] + 0.5
        inverse = np.linalg.inv(self.matrix)
        dx, dy = x - self.centre[0] - self.shift[0], y - self.centre[1] - self.shift[1]
        column = np.floor(inverse[0, 0] * dx + inverse[0, 1] * dy + self.centre[0]).astype(np.int64)
        row = np.floor(inverse[1, 0] * dx + inverse[1, 1] * dy + self.centre[1]).astype(np.int64)
        inside = (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
        part = moved[y0:y1, x0:x1]
        part[inside] = mask[row[inside], column[inside]]
        return moved

    def _box_of_pixels(self, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        corners = np.array([(x, y) for x in (columns.min(), columns.max() + 1) for y in (rows.min(), rows.max() + 1)], float)
        moved = (corners - self.centre) @ self.matrix.T + self.shift + self.centre
        (x0, y0), (x1, y1) = np.floor(moved.min(0)), np.ceil(moved.max(0))
        return max(0, int(x0)), max(0, int(y0)), min(shape[1], int(x1)), min(shape[0], int(y1))


def register(before: GreyFrame, after: GreyFrame, box: Box, *, reach: float = 0.25) -> Motion:
    """The motion of what is in and around a box between two frames of one size.

    Args:
        box: in pixels of the first frame; it may reach beyond it.
        reach: how far to search, as a share of the frame's longer side; 1 searches the whole frame.
    """
    scale = np.array(before.scale)
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]) * scale
    half = np.array([box[2] - box[0], box[3] - box[1]]) * scale * (0.5 + MARGIN)
    half = np.maximum(half, 6)
    coarsest = len(before.levels) - 1
    shift = _shift(before.levels[-1], after.levels[-1], middle / 2**coarsest, half / 2**coarsest, reach) * 2**coarsest
    motion = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float64)
    similarity = 0.0
    for level in range(coarsest, -1, -1):
        if level != 0 and max(half) / 2**level < 4:
            continue  # nothing of the region is left on so coarse a grid
        if level < coarsest and 2 * max(half) / 2**level > 3 * POINTS:
            break  # the points are so far apart that a finer grid adds noise
        motion, similarity = _align(before.levels[level], after.levels[level], middle, half, motion, 2**level)
    back = 1 / scale
    matrix = motion[:, :2] * back[:, None] * scale
    centre = middle * back
    return Motion((float(centre[0]), float(centre[1])), matrix, motion[:, 2] * back, similarity)


def _align(
    before: np.ndarray, after: np.ndarray, middle: np.ndarray, half: np.ndarray, motion: np.ndarray, cell: int
) -> tuple[np.ndarray, float]:
    """Refine a motion on one level.

    Args:
        before, after: grey values of the level.
        middle, half: of the region, in pixels of the finest level.
        motion: ``[2, 3]`` about the middle, in pixels of the finest level.
        cell: pixels of the finest level per pixel of this one.

    Returns:
        The motion, and the correlation after it; 0 where too little of the region is visible.
    """
    u, v = np.meshgrid(*(np.linspace(-h, h, POINTS) for h in half))
    x, y = (u + middle[0]) / cell - 0.5, (v + middle[1]) / cell - 0.5
    known = _inside(x, y, before)
    template = _sampled(before, x, y)
    gx = (_sampled(before, x + 1, y) - _sampled(before, x - 1, y)) / (2 * cell)
    gy = (_sampled(before, x, y + 1) - _sampled(before, x, y - 1)) / (2 * cell)
    size = float(max(half))
    jacobian = np.stack([gx, gy, gx * u / size, gx * v / size, gy * u / size, gy * v / size], -1)
    similarity = 0.0
    for step in range(STEPS + 1):
        px = (motion[0, 0] * u + motion[0, 1] * v + motion[0, 2] + middle[0]) / cell - 0.5
        py = (motion[1, 0] * u + motion[1, 1] * v + motion[1, 2] + middle[1]) / cell - 0.5
        visible = known & _inside(px, py, after)
        if np.count_nonzero(visible) < MIN_OVERLAP * visible.size:
            return motion, 0.0
        moved, fixed = _sampled(after, px[visible], py[visible]), template[visible]
        moved, fixed = moved - moved.mean(), fixed - fixed.mean()
        spreads = float(np.linalg.norm(moved)), float(np.linalg.norm(fixed))
        similarity = float(moved @ fixed) / max(spreads[0] * spreads[1], 1e-6)
        if step == STEPS:
            break
        gradients = jacobian[visible]
        gradients = gradients - gradients.mean(0)
        normal = gradients.T @ gradients
        normal[np.diag_indices(6)] += DAMPING * np.trace(normal) / 6 + 1e-6
        delta = np.linalg.solve(normal, gradients.T @ (moved * (spreads[1] / max(spreads[0], 1e-6)) - fixed))
        change = np.array([[1 + delta[2] / size, delta[3] / size, delta[0]], [delta[4] / size, 1 + delta[5] / size, delta[1]]])
        motion = _compose(motion, change)
        if np.abs(delta).max() < SMALL_STEP * cell:
            break
    return motion, similarity


def _compose(motion: np.ndarray, change: np.ndarray) -> np.ndarray:
    """``motion`` after the inverse of ``change``."""
    inverse = np.linalg.inv(np.vstack([change, [0, 0, 1]]))
    result: np.ndarray = motion @ inverse
    return result


def _shift(before: np.ndarray, after: np.ndarray, middle: np.ndarray, half: np.ndarray, reach: float) -> np.ndarray:
    """The shift ``(x, y)`` in pixels with the highest correlation of the region, masked where a frame ends."""
    height, width = before.shape
    y, x = np.mgrid[:height, :width] + 0.5
    region = (np.abs(x - middle[0]) <= np.maximum(half[0], 1)) & (np.abs(y - middle[1]) <= np.maximum(half[1], 1))
    if np.count_nonzero(region) < 4:
        return np.zeros(2)
    template = np.where(region, before - before[region].mean(), 0)
    image = after - after.mean()
    shape = 2 * height, 2 * width
    # Sums over the region and the frame, each shifted against the other.
    of_region = [np.conj(np.fft.rfft2(values, shape)) for values in (region.astype(np.float64), template, template**2)]
    of_frame = [np.fft.rfft2(values, shape) for values in (np.ones_like(image), image, image**2)]
    pairs = ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1))
    sums = [np.fft.irfft2(of_region[a] * of_frame[b], shape) for a, b in pairs]
    count, t_sum, t_squares, i_sum, i_squares, product = sums
    overlap = np.maximum(np.rint(count), 1)
    variance = np.maximum(t_squares - t_sum**2 / overlap, 0) * np.maximum(i_squares - i_sum**2 / overlap, 0)
    correlation = (product - t_sum * i_sum / overlap) / np.sqrt(variance + 1e-3 * overlap**2 + 1e-9)
    dy, dx = (np.fft.fftfreq(n, 1 / n) for n in shape)
    distance = np.hypot(dx[None], dy[:, None]) / max(height, width)
    correlation -= DISTANCE_PENALTY * distance
    correlation[(overlap < MIN_OVERLAP * np.count_nonzero(region)) | (distance > reach)] = -math.inf
    row, column = np.unravel_index(int(correlation.argmax()), correlation.shape)
    return np.array([dx[column], dy[row]])


def _inside(x: np.ndarray, y: np.ndarray, image: np.ndarray) -> np.ndarray:
    height, width = image.shape
    result: np.ndarray = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    return result


def _sampled(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear; beyond the border, the nearest pixel."""
    height, width = image.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = np.minimum(x.astype(np.intp), width - 2), np.minimum(y.astype(np.intp), height - 2)
    across, down = x - left, y - top
    start = top * width + left
    flat = image.reshape(-1)
    upper = flat[start] * (1 - across) + flat[start + 1] * across
    lower = flat[start + width] * (1 - across) + flat[start + width + 1] * across
    result: np.ndarray = upper * (1 - down) + lower * down
    return result
