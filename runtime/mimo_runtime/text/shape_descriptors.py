"""Axes and solidity of a mask."""

from __future__ import annotations

import numpy as np

from ..postprocessing.masks import pixel_counts


def shape_numbers(mask: np.ndarray) -> tuple[int, float, float]:
    """``(area, minor / major axis, solidity)`` of a mask.

    The axes come from second moments, with 1/12 added for the extent of a pixel. Solidity compares the pixels with those
    of the convex hull of their centres, counted by Pick's theorem, so that digitally convex shapes reach exactly 1.
    """
    in_rows, in_columns = pixel_counts(mask)
    area = int(in_rows.sum())
    y, x = (np.arange(len(counts), dtype=np.float64) for counts in (in_rows, in_columns))
    dy, dx = y - (in_rows @ y) / area, x - (in_columns @ x) / area
    xx, yy = float(in_columns @ (dx * dx)) / area + 1 / 12, float(in_rows @ (dy * dy)) / area + 1 / 12
    xy = float(dy @ (mask.astype(np.float64) @ dx)) / area
    root = ((xx - yy) ** 2 / 4 + xy * xy) ** 0.5
    ratio = float((max((xx + yy) / 2 - root, 0.0) / ((xx + yy) / 2 + root)) ** 0.5)
    return area, ratio, area / _hull_pixels(mask)


def _hull_pixels(mask: np.ndarray) -> int:
    """Lattice points in the convex hull of the mask's pixel centres."""
    rows = np.flatnonzero(mask.any(1))
    used = mask[rows]
    first, last = used.argmax(1), mask.shape[1] - 1 - used[:, ::-1].argmax(1)
    chain_left, chain_right = _chain(rows, first, 1), _chain(rows, last, -1)
    hull = np.array(chain_left + chain_right[::-1])
    step = np.roll(hull, -1, 0) - hull
    twice_area = abs(int((hull[:, 0] * np.roll(hull[:, 1], -1) - hull[:, 1] * np.roll(hull[:, 0], -1)).sum()))
    border = int(np.gcd(abs(step[:, 0]), abs(step[:, 1])).sum())
    if twice_area == 0:  # all on one line, which is walked there and back
        return border // 2 + 1
    return (twice_area + border) // 2 + 1


#: Rounds that drop points all at once; a digital outline keeps few after them.
_ROUNDS = 4


def _chain(rows: np.ndarray, columns: np.ndarray, sign: int) -> list[tuple[int, int]]:
    """One side of the hull (Andrew's monotone chain) over points sorted by row; ``sign`` 1 is the left side.

    A point that is no corner between its neighbours is no corner of the hull. Most points are dropped so before the loop.
    """
    y, x = rows, columns
    for _ in range(_ROUNDS):
        turn = sign * ((y[1:-1] - y[:-2]) * (x[2:] - x[:-2]) - (x[1:-1] - x[:-2]) * (y[2:] - y[:-2]))
        kept = np.concatenate(([True], turn > 0, [True]))[: len(y)]
        if kept.all():
            break
        y, x = y[kept], x[kept]
    chain: list[tuple[int, int]] = []
    for point in zip(y.tolist(), x.tolist()):
        while len(chain) > 1:
            (ay, ax), (by, bx) = chain[-2], chain[-1]
            if sign * ((by - ay) * (point[1] - ax) - (bx - ax) * (point[0] - ay)) > 0:
                break
            chain.pop()
        chain.append(point)
    return chain
