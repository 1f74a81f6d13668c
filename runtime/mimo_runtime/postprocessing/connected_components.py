"""Connected components of a binary mask: run-length encoding and a vectorised union-find, numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: A component counts as an instance if it has at least this many pixels and this share of the largest one.
INSTANCE_MIN_PIXELS = 4
INSTANCE_MIN_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Components:
    """The 8-connected components of a mask, as runs of its rows.

    Args:
        height, width: of the mask.
        starts, ends: of the runs, in an image with one more column of background.
        labels: of the runs, int32 from 1 on, in raster order of each component's first pixel.
        count: of the components.
    """

    height: int
    width: int
    starts: np.ndarray
    ends: np.ndarray
    labels: np.ndarray
    count: int

    @property
    def areas(self) -> np.ndarray:
        """Pixels of the background and of every component, int64 ``[count + 1]``."""
        areas = np.bincount(self.labels, self.ends - self.starts, minlength=self.count + 1).astype(np.int64)
        areas[0] = self.height * self.width - areas.sum()
        return areas

    def painted(self, values: np.ndarray) -> np.ndarray:
        """``[H, W]`` with ``values``, ``[count + 1]``, of the background and of every component in its pixels."""
        # Alternate background gap and run.
        bounds = np.empty(2 * len(self.starts) + 1, np.int64)
        bounds[0:-1:2], bounds[1::2], bounds[-1] = self.starts, self.ends, self.height * (self.width + 1)
        of_bounds = np.full(len(bounds), values[0], values.dtype)
        of_bounds[1::2] = values[self.labels]
        painted = np.repeat(of_bounds, np.diff(bounds, prepend=0)).reshape(self.height, self.width + 1)
        return np.ascontiguousarray(painted[:, : self.width])


def find_components(mask: np.ndarray) -> Components:
    """The 8-connected components of a mask.

    Runs of a row that touch runs of the next row (diagonals included) are joined with Shiloach-Vishkin hooking and
    pointer jumping (J. Algorithms 3:57-67, 1982), so the cost follows the number of runs, not of pixels.

    Args:
        mask: bool (or 0 / non-zero) ``[H, W]``.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"a mask has two axes, not {mask.ndim}")
    height, width = mask.shape
    # One background column at the end of each row keeps runs inside their rows in the flattened image. This also holds after
    # runs are widened by one pixel for the diagonal neighbours.
    pitch = width + 1
    padded = np.zeros((height, pitch), bool)
    np.not_equal(mask, 0, out=padded[:, :width])
    flat = padded.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat.size and flat[0]:
        edges = np.concatenate(([0], edges))
    starts, ends = edges[0::2], edges[1::2]
    roots = _union(len(starts), *_touching(starts, ends, pitch))
    is_root = roots == np.arange(len(roots))
    labels = np.cumsum(is_root, dtype=np.int32)[roots]
    return Components(height, width, starts, ends, labels, int(is_root.sum()))


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Label the 8-connected components of a mask.

    Args:
        mask: as in :func:`find_components`.

    Returns:
        ``(labels, count)``: int32 ``[H, W]`` with 0 for background and ``1..count`` in raster order of each
        component's first pixel.
    """
    components = find_components(mask)
    return components.painted(np.arange(components.count + 1, dtype=np.int32)), components.count


def _touching(starts: np.ndarray, ends: np.ndarray, pitch: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of runs (upper, lower) that touch. Both lists are sorted, so the lower partners of a run are consecutive."""
    first = np.searchsorted(ends, starts + (pitch - 1), side="right")
    last = np.searchsorted(starts, ends + (pitch + 1), side="left")
    # The range lies after the run itself only in the next row; a run never touches runs of its own row.
    counts = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(starts)), counts)
    offsets = np.arange(len(upper)) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, np.repeat(first, counts) + offsets


def _union(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The smallest run index of each run's component."""
    parent = np.arange(count)
    while True:
        a, b = parent[left], parent[right]
        differ = a != b
        if not differ.any():
            return parent
        left, right, a, b = left[differ], right[differ], a[differ], b[differ]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while True:
            shorter = parent[parent]
            if np.array_equal(shorter, parent):
                break
            parent = shorter
