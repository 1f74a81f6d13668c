"""Synthetic sequences: one image seen by a camera that moves, deforms, or leaves its target and comes back."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

#: How a sequence changes.
MOTIONS = ("moving", "deforming", "leaving")


@dataclass(frozen=True, eq=False)
class Still:
    """An image with one target, of which sequences are made.

    Args:
        name: of the target.
        pixels: uint8 ``[H, W, 3]``.
        mask: bool ``[H, W]`` of the target.
        modality: of the image.
        source: the set it comes from.
    """

    name: str
    pixels: np.ndarray
    mask: np.ndarray
    modality: str | None
    source: str


def frames_of(still: Still, motion: str, count: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """``(pixels, mask)`` of the frames of a sequence; the first one is the still itself, up to noise.

    - ``moving``: the camera moves on an ellipse of 12 % of the image, turns by 12 degrees and zooms by 10 %.
    - ``deforming``: a smooth displacement of up to 5 % of the image, that moves on a little.
    - ``leaving``: the target moves out of the frame within the first third, stays out for a sixth, and comes back.

    Brightness varies by 5 %, noise has a standard deviation of 3 grey levels.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"{still.source} {still.name} {motion}".encode())])
    waves = rng.uniform(0.8, 1.2, 4), rng.uniform(0, 2 * math.pi, 4)
    height, width = still.mask.shape
    for index in range(count):
        x, y = _sources(still, motion, index / max(1, count - 1), waves)
        pixels = _sampled(still.pixels.astype(np.float32), x, y) * (1 + 0.05 * math.sin(0.7 * index))
        pixels += rng.normal(0, 3, (height, width, 1))
        mask = _sampled(still.mask.astype(np.float32)[..., None], x, y)[..., 0] >= 0.5
        yield np.clip(np.rint(pixels), 0, 255).astype(np.uint8), mask


def _sources(still: Still, motion: str, time: float, waves: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of a frame comes from in the still: ``(x, y)``, each float64 ``[H, W]``."""
    height, width = still.mask.shape
    side, turn = min(height, width), 2 * math.pi * time
    y, x = np.mgrid[:height, :width].astype(np.float64)
    if motion == "deforming":
        (fx, fy, gx, gy), (a, b, c, d) = waves
        amount = 0.05 * side * math.sin(turn)
        return (
            x + amount * np.sin(2 * math.pi * fx * y / height + a + time) * np.sin(2 * math.pi * gx * x / width + c),
            y + amount * np.sin(2 * math.pi * fy * x / width + b + time) * np.sin(2 * math.pi * gy * y / height + d),
        )
    if motion == "leaving":
        columns = np.flatnonzero(still.mask.any(axis=0))
        # The target leaves at the nearer side. A trapezoid: out, away, back, and the rest in place.
        leaves_left = columns[0] + columns[-1] < width
        way = float(columns[-1] + 2 if leaves_left else width - columns[0] + 2)
        share = float(np.interp(time, (0, 1 / 3, 1 / 2, 5 / 6, 1), (0, 1, 1, 0, 0)))
        return x + (way if leaves_left else -way) * share, y
    angle, zoom = math.radians(12) * math.sin(turn), 1 + 0.1 * math.sin(turn)
    dx, dy = 0.12 * side * math.sin(turn), 0.12 * side * (1 - math.cos(turn)) / 2
    rows, columns = np.nonzero(still.mask)
    cx, cy = columns.mean(), rows.mean()
    u, v = x - cx - dx, y - cy - dy
    return cx + (math.cos(angle) * u + math.sin(angle) * v) / zoom, cy + (math.cos(angle) * v - math.sin(angle) * u) / zoom


def _sampled(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear; 0 outside."""
    height, width = values.shape[:2]
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    across, down = (x - x0)[..., None], (y - y0)[..., None]
    left, right = np.clip(x0, 0, width - 1), np.clip(x0 + 1, 0, width - 1)
    top, bottom = np.clip(y0, 0, height - 1), np.clip(y0 + 1, 0, height - 1)
    upper = values[top, left] * (1 - across) + values[top, right] * across
    lower = values[bottom, left] * (1 - across) + values[bottom, right] * across
    result: np.ndarray = (upper * (1 - down) + lower * down) * inside[..., None]
    return result
