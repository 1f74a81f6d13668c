"""Which anatomical direction each stored axis of a volume runs in: the nearest one, by a rule that rounding does not change."""

from __future__ import annotations

from itertools import permutations

import numpy as np

#: Assignments of axes whose sums of cosines differ by less count as equal: the oblique angle is 45 degrees.
_TIE = 1e-3


def orientation_of(affine: np.ndarray) -> tuple[np.ndarray, bool]:
    """The orientation of a volume by its affine ``[4, 4]`` (voxels to mm, RAS+), as ``nibabel.io_orientation`` gives it.

    Where two assignments of axes fit equally well (at 45 degrees), rounding would decide between them. Then the one that comes
    first counts: the order of the stored axes is kept where possible.

    Returns:
        ``[3, 2]``: for each stored axis the canonical axis (0 right, 1 front, 2 head) and its direction (1 or -1); and whether
        two assignments fit equally well. An affine that cannot be used keeps the stored axes.
    """
    stored = np.array([[0, 1], [1, 1], [2, 1]], dtype=float)
    if not is_usable(affine):
        return stored, False
    matrix = np.asarray(affine, dtype=float)[:3, :3]
    left, _, right = np.linalg.svd(matrix / np.sqrt((matrix**2).sum(axis=0)))
    cosines = left @ right  # the nearest rotation: rows are canonical axes, columns stored ones
    choices = list(permutations(range(3)))
    fits = np.array([sum(abs(cosines[canonical, axis]) for axis, canonical in enumerate(choice)) for choice in choices])
    equal = np.flatnonzero(fits > fits.max() - _TIE)
    best = choices[equal[0]]
    stored[:, 0] = best
    stored[:, 1] = [-1 if cosines[canonical, axis] < 0 else 1 for axis, canonical in enumerate(best)]
    return stored, len(equal) > 1


def is_usable(affine: np.ndarray) -> bool:
    """Whether an affine places voxels: finite, with three directions that span space."""
    matrix = np.asarray(affine, dtype=float)[:3, :3]
    if not np.isfinite(affine).all() or not (lengths := np.sqrt((matrix**2).sum(axis=0))).all():
        return False
    return bool(abs(np.linalg.det(matrix / lengths)) > 1e-6)
