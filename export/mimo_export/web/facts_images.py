"""What the page in the browser needs to read images as the runtime does: limits of sizes, grey values, and DICOM headers."""

from __future__ import annotations

from typing import TypedDict

from mimo_runtime.imageio import dicom_header, image, intensity
from mimo_runtime.model.calibrated import windows_by_modality
from mimo_runtime.model.config import MimoConfig


class ImageFacts(TypedDict):
    """Constants of ``imageio``; windows are centre and width by modality."""

    min_side: int
    max_side: int
    max_pixels: int
    percentiles: tuple[float, float]
    windows: dict[str, tuple[float, float]]
    projections: tuple[str, ...]
    ultrasound: tuple[str, ...]
    no_images: dict[str, str]


def image_facts(config: MimoConfig) -> ImageFacts:
    """The facts of a model."""
    return {
        "min_side": image.MIN_SIDE,
        "max_side": image.MAX_SIDE,
        "max_pixels": image.MAX_PIXELS,
        "percentiles": (intensity.LOW_PERCENTILE, intensity.HIGH_PERCENTILE),
        "windows": windows_by_modality(config.windows),
        "projections": dicom_header.PROJECTIONS,
        "ultrasound": dicom_header.ULTRASOUND,
        "no_images": dicom_header.NO_IMAGES,
    }
