"""Random closed shapes, blended into an image with another texture or intensity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

#: Area of a shape as a share of the image, drawn on a logarithmic scale.
SHAPE_AREA = (0.003, 0.35)
#: Corners of the polygon of a smooth outline.
CORNERS = 72
#: Shapes are drawn so many times larger and then reduced.
SUPERSAMPLING = 2
KINDS = {"blob": 0.55, "elongated": 0.17, "lobes": 0.2, "ring": 0.08}


def random_shape(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A shape of one of :data:`KINDS`, cut at the border. bool [height, width]; it may be empty in a very small image."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    area = np.exp(rng.uniform(*np.log(SHAPE_AREA))) * height * width
    radius = max(2.0, (area / np.pi) ** 0.5)
    centre = np.array([rng.uniform(0.08, 0.92) * width, rng.uniform(0.08, 0.92) * height])
    factor = SUPERSAMPLING
    canvas = Image.new("L", (width * factor, height * factor))
    _DRAW[kind](ImageDraw.Draw(canvas), centre * factor, radius * factor, rng)
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX)) > 127


def outline(centre: np.ndarray, radius: float, rng: np.random.Generator, roughness: float | None = None) -> np.ndarray:
    """[CORNERS, 2] of a closed curve: an ellipse at any angle with random Fourier terms."""
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    rough = 0.35 * rng.random() ** 2 if roughness is None else roughness
    r = np.ones(CORNERS)
    for k in range(2, 7):
        r += rough / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    aspect = np.exp(rng.uniform(-0.45, 0.45))
    points = np.clip(r, 0.3, None)[:, None] * np.stack([np.cos(angle) * aspect, np.sin(angle) / aspect], 1) * radius
    turn = rng.uniform(0, np.pi)
    return points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + centre


def touching(shape: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``other``, moved until it touches ``shape`` in a random direction, without the overlap. bool [H, W]; it may be empty."""
    if not shape.any() or not other.any():
        return np.zeros_like(shape)
    height, width = shape.shape
    places, moved = np.argwhere(shape), np.argwhere(other)
    angle = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.sin(angle), np.cos(angle)])
    reach = (places @ direction).max() - (moved @ direction).min()
    across = places.mean(0) - moved.mean(0)
    shift = across - (across @ direction) * direction + (reach - 2) * direction
    moved = np.rint(moved + shift).astype(int)
    moved = moved[(moved >= 0).all(1) & (moved < (height, width)).all(1)]
    result = np.zeros_like(shape)
    result[moved[:, 0], moved[:, 1]] = True
    return result & ~shape


def shrunk(shape: np.ndarray, factor: float, centre: tuple[int, int]) -> np.ndarray:
    """``shape`` reduced by ``factor`` about the pixel ``centre`` (x, y), as far as it lies inside. bool [H, W]."""
    x, y = centre
    matrix = (1 / factor, 0.0, x - x / factor, 0.0, 1 / factor, y - y / factor)
    image = Image.fromarray(shape.astype(np.uint8) * 255)
    inner = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return (np.asarray(inner) > 127) & shape


def _polygon(draw: ImageDraw.ImageDraw, points: np.ndarray, fill: int = 255) -> None:
    draw.polygon([(float(x), float(y)) for x, y in points], fill=fill)


def _blob(draw: ImageDraw.ImageDraw, centre: np.ndarray, radius: float, rng: np.random.Generator) -> None:
    _polygon(draw, outline(centre, radius, rng))


def _lobes(draw: ImageDraw.ImageDraw, centre: np.ndarray, radius: float, rng: np.random.Generator) -> None:
    count = int(rng.integers(2, 5))
    for _ in range(count):
        _polygon(draw, outline(centre, radius / count**0.5, rng, 0.1))
        angle = rng.uniform(0, 2 * np.pi)
        centre = centre + radius / count**0.5 * rng.uniform(0.8, 1.3) * np.array([np.cos(angle), np.sin(angle)])


def _ring(draw: ImageDraw.ImageDraw, centre: np.ndarray, radius: float, rng: np.random.Generator) -> None:
    points = outline(centre, 1.2 * radius, rng, 0.1)
    _polygon(draw, points)
    _polygon(draw, centre + (points - centre) * rng.uniform(0.45, 0.75), fill=0)


def _elongated(draw: ImageDraw.ImageDraw, centre: np.ndarray, radius: float, rng: np.random.Generator) -> None:
    """A bent band of changing width."""
    length, steps = radius * rng.uniform(3.0, 6.0), 40
    half = np.pi * radius**2 / length / 2
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.04, steps) + rng.normal(0, 0.03))
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0) * length / steps
    path += centre - path.mean(0)
    widths = half * (1 + 0.3 * np.sin(np.linspace(0, rng.uniform(1, 6), steps) + rng.uniform(0, 6)))
    for (x, y), w in zip(path, widths):
        draw.ellipse((x - w, y - w, x + w, y + w), fill=255)


_DRAW: dict[str, Callable[[ImageDraw.ImageDraw, np.ndarray, float, np.random.Generator], None]] = {
    "blob": _blob,
    "elongated": _elongated,
    "lobes": _lobes,
    "ring": _ring,
}


def blend(pixels: np.ndarray, shapes: list[np.ndarray], texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``pixels`` with all ``shapes`` filled alike: another intensity, a part of ``texture``, or a texture of noise.

    Args:
        pixels: uint8 [H, W, 3]; shapes: bool [H, W] each; texture: uint8 [h, w, 3] of any size.

    The edge is hard or soft. In a grey image the filling is mostly grey.
    """
    height, width = pixels.shape[:2]
    union = np.any(shapes, axis=0)
    under = pixels.astype(np.float32)
    kind = rng.random()
    if kind < 0.35:
        filling = under * np.exp(rng.uniform(-0.5, 0.5)) + rng.choice([-1, 1]) * rng.uniform(12, 90)
    elif kind < 0.75:
        filling = _part(texture, height, width, rng)
        if rng.random() < 0.6:  # about the level of its surroundings, so that texture and a small step tell it apart
            step = rng.choice([-1, 1]) * rng.uniform(0, 70)
            filling = filling - filling[union].mean(0) + under[union].mean(0) + step
    else:
        filling = rng.uniform(0, 255, 3).astype(np.float32) + _smooth_noise(height, width, rng)
    if np.ptp(pixels[union].astype(np.int16), axis=1).max(initial=0) < 8 and rng.random() < 0.85:
        filling = np.repeat(filling.mean(2, keepdims=True), 3, axis=2)
    opacity = rng.uniform(0.7, 1.0)
    softness = float(np.exp(rng.uniform(np.log(0.4), np.log(3.0)))) if rng.random() < 0.7 else 0.0
    edge = Image.fromarray(union.astype(np.uint8) * 255)
    edge = edge.filter(ImageFilter.GaussianBlur(softness)) if softness else edge
    alpha = opacity * np.asarray(edge, np.float32)[..., None] / 255.0
    return np.clip(alpha * filling + (1 - alpha) * under, 0, 255).astype(np.uint8)


def _part(texture: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random part of a texture, enlarged or reduced to float32 [height, width, 3]."""
    h, w = texture.shape[:2]
    share = rng.uniform(0.25, 1.0)
    rows, columns = max(2, round(h * share)), max(2, round(w * share))
    y, x = int(rng.integers(h - rows + 1)) if h > rows else 0, int(rng.integers(w - columns + 1)) if w > columns else 0
    part = Image.fromarray(np.ascontiguousarray(texture[y : y + rows, x : x + columns]))
    return np.asarray(part.resize((width, height), Image.Resampling.BILINEAR), np.float32)


def _smooth_noise(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """[height, width, 1] noise with grains of a random size."""
    grain = np.exp(rng.uniform(0, np.log(8)))
    small = rng.normal(0, rng.uniform(4, 40), (max(1, round(height / grain)), max(1, round(width / grain))))
    enlarged = Image.fromarray(small.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(enlarged, np.float32)[..., None]
