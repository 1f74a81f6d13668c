"""Mask images on the pixels of their image: class ids, or one structure. ``mimo_runtime.imageio.masks`` has the rules."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.imageio.masks import MaskFile, read_mask_file


def read_ids(path: Path, scan: ScanImage, notes: Counter[str], ignore: int | str | None = "auto") -> np.ndarray:
    """Class ids, int32 ``[H, W]``: grey values, palette indices, or three equal channels.

    Args:
        notes: counts masks that were not taken as they are.
        ignore: see ``read_mask_file``.

    Raises:
        RequestError: unreadable, of another size than its image, or colours or real numbers.
    """
    mask = _fitted(path, scan, notes, ignore)
    return mask.labels()


def read_binary(
    path: Path, scan: ScanImage, notes: Counter[str], threshold: int = 0, any_value: bool = True
) -> np.ndarray:
    """One structure, bool ``[H, W]``: true where a value is above ``threshold``.

    Args:
        any_value: for threshold 0, whether a mask may hold several values above 0. They may be classes, or the blurred edges
            of JPEG and resizing; the file does not distinguish them.

    Raises:
        RequestError: unreadable, of another size than its image, or several values where one is expected.
    """
    mask = _fitted(path, scan, notes, "auto")
    if not threshold and not any_value and not mask.is_blurred and len(distinct := mask.distinct()) > 1:
        what = f"{path} holds {len(distinct)} different values above 0, but one class is named"
        remedy = "Name every id with --classes, or take --threshold 127 for blurred edges, or --kind binary for any value"
        raise RequestError(what, remedy)
    return mask.inside(threshold)


def count_turned(scan: ScanImage, notes: Counter[str]) -> ScanImage:
    """The image itself; counted in ``notes`` if its EXIF orientation turned it."""
    notes["images_turned_upright_by_exif"] += scan.orientation != 1
    return scan


def _fitted(path: Path, scan: ScanImage, notes: Counter[str], ignore: int | str | None) -> MaskFile:
    mask = read_mask_file(path, ignore=ignore).fitted(scan)
    for note in mask.notes:
        notes["masks_" + re.sub(r"\W+", "_", note)] += 1
    return mask
