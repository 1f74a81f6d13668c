"""Outlines of masks as closed polygons, for formats that hold contours."""

from __future__ import annotations

import numpy as np


def outlines_of(mask: np.ndarray) -> list[np.ndarray]:
    """The borders between pixels inside and outside of a mask.

    Args:
        mask: bool ``[H, W]``.

    Returns:
        Closed polygons, float64 ``[N, 2]`` as ``(x, y)`` in pixels, the first point not repeated. Their points are corners of
        pixels, so that they hold exactly the mask. Outer borders run clockwise on the screen, borders of holes
        counter-clockwise. Parts that touch at a corner only are separate.
    """
    padded = np.pad(np.asarray(mask, bool), 1)
    # Edges with the inside on their right: along the top to larger x, down the right side, back along the bottom, up the left.
    starts: dict[tuple[int, int], list[tuple[int, int]]] = {}
    inside = padded[1:-1, 1:-1]
    for (dy, dx), (ay, ax), (by, bx) in (
        ((-1, 0), (0, 0), (0, 1)), ((0, 1), (0, 1), (1, 1)), ((1, 0), (1, 1), (1, 0)), ((0, -1), (1, 0), (0, 0)),
    ):  # fmt: skip
        neighbour = padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            starts.setdefault((x + ax, y + ay), []).append((x + bx, y + by))
    polygons = []
    while starts:
        first = next(iter(starts))
        polygons.append(_walk(starts, first))
    return polygons


def _walk(starts: dict[tuple[int, int], list[tuple[int, int]]], first: tuple[int, int]) -> np.ndarray:
    """One closed border, taken out of ``starts``; straight runs are one edge."""
    points, at, heading = [first], first, (0, 0)
    while True:
        targets = starts[at]
        # Where two borders meet in a corner, turn right: the parts stay separate.
        right = (-heading[1], heading[0])
        choice = next((t for t in targets if (t[0] - at[0], t[1] - at[1]) == right), targets[0])
        targets.remove(choice)
        if not targets:
            del starts[at]
        step = choice[0] - at[0], choice[1] - at[1]
        if step == heading:
            points[-1] = choice
        else:
            points.append(choice)
        at, heading = choice, step
        if at == first:
            break
    points = points[:-1]
    ahead = points[1][0] - points[0][0], points[1][1] - points[0][1]
    behind = points[0][0] - points[-1][0], points[0][1] - points[-1][1]
    if ahead[0] * behind[1] == ahead[1] * behind[0]:  # the first corner lies on a straight run
        points = points[1:]
    return np.array(points, float)
