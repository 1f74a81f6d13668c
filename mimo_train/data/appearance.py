"""Random changes of brightness, colour, noise and sharpness; none of them moves a structure."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

#: Share of the strongly changed views that are inverted.
INVERTED_SHARE = 0.15
#: Share of the strongly changed views whose channels are mixed or reduced to grey.
RECOLOURED_SHARE = 0.3


def vary(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, contrast, gamma, tint and noise as they differ between devices. uint8 [H, W, 3] in and out."""
    if rng.random() < 0.15:
        pixels = _blurred(pixels, rng.uniform(0.3, 1.3))
    # Brightness, contrast and gamma in one table per channel: cheap, and exact on 8 bits.
    level = np.linspace(0.0, 1.0, 256)
    table = np.clip((level - 0.5) * rng.uniform(0.75, 1.3) + 0.5 + rng.uniform(-0.12, 0.12), 0, 1) ** np.exp(
        rng.uniform(-0.35, 0.35)
    )
    if rng.random() < 0.3:
        tint = rng.uniform(0.9, 1.1, 3)
        tables = np.clip(table[:, None] * tint * 255.0, 0, 255).astype(np.uint8)
        pixels = np.stack([tables[:, c][pixels[..., c]] for c in range(3)], axis=-1)
    else:
        pixels = (table * 255.0).astype(np.uint8)[pixels]
    if rng.random() < 0.25:
        pixels = _noisy(pixels, rng.uniform(2.0, 12.0), rng)
    return pixels


def vary_strongly(pixels: np.ndarray, rng: np.random.Generator, inverted_share: float = INVERTED_SHARE) -> np.ndarray:
    """Changes beyond those of devices: inversion, other colours, wide gamma and contrast, low resolution, strong noise.

    uint8 [H, W, 3] in and out.
    """
    if rng.random() < RECOLOURED_SHARE:
        pixels = _recoloured(pixels, rng)
    if rng.random() < inverted_share:
        pixels = 255 - pixels
    if rng.random() < 0.2:
        pixels = _blurred(pixels, rng.uniform(0.5, 2.5))
    elif rng.random() < 0.15:
        pixels = _coarse(pixels, rng.uniform(1.5, 3.5))
    level = np.clip((np.linspace(0.0, 1.0, 256) - 0.5) * rng.uniform(0.9, 1.3) + 0.5, 0, 1) ** np.exp(rng.uniform(-0.7, 0.7))
    low, high = rng.uniform(0.0, 0.25), rng.uniform(0.6, 1.0)  # less contrast, but no level is lost
    pixels = ((low + (high - low) * level) * 255.0).astype(np.uint8)[pixels]
    if rng.random() < 0.3:
        pixels = _noisy(pixels, rng.uniform(3.0, 22.0), rng)
    return pixels


def _recoloured(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey by a random mixture of the channels, or a random mixture for each channel."""
    if rng.random() < 0.5:
        mixture = np.repeat(rng.dirichlet((1.0, 1.0, 1.0))[:, None], 3, axis=1)
    else:
        mixture = 0.5 * np.eye(3)[:, rng.permutation(3)] + 0.5 * rng.dirichlet((1.0, 1.0, 1.0), 3).T
    return np.clip(pixels @ mixture.astype(np.float32), 0, 255).astype(np.uint8)


def _blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def _coarse(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Fewer pixels, enlarged again."""
    image = Image.fromarray(pixels)
    small = max(1, round(image.width / factor)), max(1, round(image.height / factor))
    return np.asarray(image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BILINEAR))


def _noisy(pixels: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(0.0, deviation, pixels.shape[:2]).astype(np.float32)[..., None]
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)
