"""Mask images: class ids, or one structure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.image import check_size
from mimo_runtime.imageio.masks import read_mask
from mimo_runtime.imageio.pillow import FORMATS


def read_ids(path: Path) -> np.ndarray:
    """Class ids, int32 ``[H, W]``: grey values, palette indices, or three equal channels.

    Raises:
        RequestError: unreadable, or colours or real numbers.
    """
    values = _values(path)
    if values.ndim == 3:
        colour = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
        if not (colour == colour[..., :1]).all():
            raise RequestError(f"{path} holds colours, not class ids", "Save class ids as a grey or palette PNG")
        values = colour[..., 0]
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise RequestError(f"{path} holds values that are no class ids", "Save class ids from 0 to 65535 as a grey PNG")
    return values.astype(np.int32)


def read_binary(path: Path, threshold: int = 0, any_value: bool = True) -> np.ndarray:
    """One structure, bool ``[H, W]``: true where a value is above ``threshold``; for 0 see
    ``mimo_runtime.imageio.masks.read_mask``.

    Args:
        any_value: for threshold 0, whether a mask may hold several values above 0. They may be classes, or the blurred edges
            of JPEG and resizing; the file does not distinguish them.

    Raises:
        RequestError: unreadable, or several values where one is expected.
    """
    if threshold:
        values = _values(path)
        return (values[..., :3].max(axis=2) if values.ndim == 3 else values) > threshold
    mask = read_mask(path)
    if not any_value:
        values = _values(path)
        distinct = np.unique(values[mask], axis=0)
        if len(distinct) > 1:
            what = f"{path} holds {len(distinct)} different values above 0, but one class is named"
            remedy = "Name every id with --classes, or take --threshold 127 for blurred edges, or --kind binary for any value"
            raise RequestError(what, remedy)
    return mask


def _values(path: Path) -> np.ndarray:
    """The stored numbers, ``[H, W]`` or ``[H, W, C]``."""
    try:
        with Image.open(path, formats=FORMATS) as file:
            check_size(str(path), file.height, file.width)
            return np.array(file)
    except RequestError:
        raise
    except Exception as error:  # damaged data makes decoders raise nearly anything
        raise RequestError(f"{path} is no mask that can be read ({type(error).__name__})", "Save masks as PNG") from None
