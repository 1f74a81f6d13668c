"""What is known of an image, for JSON. Nothing of it names a patient."""

from __future__ import annotations

from typing import TypedDict

from ..imageio.image import ScanImage


class ImageJson(TypedDict):
    """An image in JSON: sizes in pixels, ``spacing_mm`` as ``[row, column]``, ``window`` as ``[centre, width]``."""

    width: int
    height: int
    scaling: str
    spacing_mm: list[float] | None
    spacing_source: str | None
    modality: str | None
    window: list[float] | None


def described(image: ScanImage) -> ImageJson:
    """An image in JSON."""
    return {
        "width": image.width,
        "height": image.height,
        "scaling": image.bits,
        "spacing_mm": None if image.spacing_mm is None else list(image.spacing_mm),
        "spacing_source": image.spacing_source,
        "modality": image.modality,
        "window": None if image.window is None else list(image.window),
    }
