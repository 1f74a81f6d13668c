"""Helpers of the tests in tests/runtime/imageio."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


COLOURS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
