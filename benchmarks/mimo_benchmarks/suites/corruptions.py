"""Corruptions of images and prompts as pure functions: the conditions of ``conditions.py``.

Images are uint8 ``[H, W, 3]`` and keep their shape; amounts of light are in levels of 8 bits, lengths in pixels. No function
changes its arguments. The corruptions follow the families of Hendrycks and Dietterich 2019 (arXiv:1903.12261).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from mimo_runtime.data.prompt_sampling import Box

# -- light -----------------------------------------------------------------------------------------------------------


def contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Distances from each channel's mean times ``factor``; what leaves 0 to 255 is clipped."""
    mean = pixels.mean((0, 1), keepdims=True)
    return _to_8_bit(mean + factor * (pixels - mean))


def gamma(pixels: np.ndarray, exponent: float) -> np.ndarray:
    """Levels as fractions of 255 to the power ``exponent``: below 1 brighter, above 1 darker; black and white stay."""
    table = _to_8_bit(255 * (np.arange(256) / 255) ** exponent)
    return table[pixels]


def gaussian_noise(pixels: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of standard deviation ``sigma``, then clipped. A grey image gets grey noise, as its scanner has one channel."""
    grey = bool((pixels == pixels[..., :1]).all())
    noise = rng.normal(0, sigma, (*pixels.shape[:2], 1 if grey else 3))
    return _to_8_bit(pixels + noise)


# -- sharpness -------------------------------------------------------------------------------------------------------


def gaussian_blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Blurred with standard deviation ``sigma`` (Pillow's approximation by three box filters)."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def lower_resolution(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Sides divided by ``factor`` (means over boxes), and enlarged again (bilinear)."""
    image = Image.fromarray(pixels)
    small = max(1, round(image.width / factor)), max(1, round(image.height / factor))
    return np.asarray(image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BILINEAR))


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Written as JPEG of a ``quality`` from 1 to 95 and read again."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image)


#: Changes of the image that leave everything where it is: name -> function of the pixels and a generator.
SHIFTS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "contrast x0.5": lambda pixels, rng: contrast(pixels, 0.5),
    "contrast x0.75": lambda pixels, rng: contrast(pixels, 0.75),
    "contrast x1.5": lambda pixels, rng: contrast(pixels, 1.5),
    "gamma 0.6": lambda pixels, rng: gamma(pixels, 0.6),
    "gamma 1.6": lambda pixels, rng: gamma(pixels, 1.6),
    "noise 5": lambda pixels, rng: gaussian_noise(pixels, 5, rng),
    "noise 15": lambda pixels, rng: gaussian_noise(pixels, 15, rng),
    "noise 30": lambda pixels, rng: gaussian_noise(pixels, 30, rng),
    "blur 1 px": lambda pixels, rng: gaussian_blur(pixels, 1),
    "blur 2 px": lambda pixels, rng: gaussian_blur(pixels, 2),
    "blur 4 px": lambda pixels, rng: gaussian_blur(pixels, 4),
    "resolution 1/2": lambda pixels, rng: lower_resolution(pixels, 2),
    "resolution 1/4": lambda pixels, rng: lower_resolution(pixels, 4),
    "JPEG quality 30": lambda pixels, rng: jpeg(pixels, 30),
}


# -- geometry --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rotation:
    """A mirror along x (if ``mirror``), then ``quarters`` rotations by 90 degrees counterclockwise.

    No pixel changes its value, so an image, its truth and a box on it are moved alike and exactly.
    """

    mirror: bool = False
    quarters: int = 0

    def image(self, array: np.ndarray) -> np.ndarray:
        """An image ``[H, W, 3]`` or a mask ``[H, W]``; H and W change places where ``quarters`` is odd."""
        return np.ascontiguousarray(np.rot90(array[:, ::-1] if self.mirror else array, self.quarters))

    def box(self, box: Box, height: int, width: int) -> Box:
        """A box on an image of ``height`` x ``width`` pixels, after the rotation."""
        x0, y0, x1, y1 = box
        if self.mirror:
            x0, x1 = width - x1, width - x0
        for _ in range(self.quarters % 4):
            x0, y0, x1, y1 = y0, width - x1, y1, width - x0
            height, width = width, height
        return x0, y0, x1, y1


ROTATIONS: dict[str, Rotation] = {
    "horizontal flip": Rotation(mirror=True),
    "vertical flip": Rotation(mirror=True, quarters=2),
    "rotation 90": Rotation(quarters=1),
    "rotation 180": Rotation(quarters=2),
    "rotation 270": Rotation(quarters=3),
}


# -- prompts ---------------------------------------------------------------------------------------------------------


def offset_point(point: tuple[int, int], distance: float, angle: float, height: int, width: int) -> tuple[int, int]:
    """The pixel ``distance`` pixels away from pixel ``point`` in the direction ``angle`` (radians), clipped to the image.

    Rounded to whole pixels. Clipping brings it nearer to ``point``, never farther away.
    """
    x, y = point[0] + distance * np.cos(angle), point[1] + distance * np.sin(angle)
    return int(np.clip(np.rint(x), 0, width - 1)), int(np.clip(np.rint(y), 0, height - 1))


def _to_8_bit(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
