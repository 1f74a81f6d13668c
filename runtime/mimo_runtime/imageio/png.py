"""PNG: files, written atomically, and their contents."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..utils.atomic import atomic_write_bytes


def write_png(path: str | os.PathLike[str], image: np.ndarray | Image.Image) -> None:
    """Write a PNG so that ``path`` never holds half a file: ``uint8 [H, W]`` or ``[H, W, 3]``, or bool as 0 and 255.

    Raises:
        RequestError: the place cannot be written to.
    """
    atomic_write_bytes(Path(path), png_bytes(image))


def png_bytes(image: np.ndarray | Image.Image) -> bytes:
    """The contents of a PNG file: of ``uint8 [H, W]`` or ``[H, W, 3]``, or of bool as 0 and 255."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image.astype(np.uint8) * 255 if image.dtype == bool else image)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
