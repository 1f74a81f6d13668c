"""Mask images on the pixels of their image: class ids, or one structure. ``mimo_runtime.imageio.masks`` has the rules."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.imageio.masks import MaskFile, read_mask_file

#: Short names for notes of ``MaskFile``, by a part of their text.
_NOTES = {
    "taken as drawn on the upright image": "without_orientation_taken_as_drawn_on_the_upright_image",
    "turned by EXIF, its image states no": "with_an_orientation_that_their_image_lacks",
    "turned like its image": "drawn_on_the_stored_pixels_and_turned_like_their_image",
    "not turned": "not_turned_because_their_image_is_not",
    "counted as not annotated": "with_pixels_that_are_not_annotated_taken_as_background",
    "alpha is the mask": "taken_from_the_alpha_channel",
    "by grey value": "with_a_palette_read_as_grey_values",
    "blurred by JPEG": "blurred_by_jpeg_cut_at_127",
}


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


def read_binary(path: Path, scan: ScanImage, notes: Counter[str], threshold: int = 0, any_value: bool = True) -> np.ndarray:
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
        key = next((key for words, key in _NOTES.items() if words in note), re.sub(r"\W+", "_", note).lower())
        notes[f"masks_{key}"] += 1
    height, width = mask.values.shape[:2]
    if (height, width) != (scan.height, scan.width):
        what = f"{path} is {width}x{height}, its image {scan.width}x{scan.height}"
        raise RequestError(what, "Save the mask at the size of the image")
    return mask
