"""The canvas of all phantoms: millimetre coordinates, smooth shapes, filters and noise fields.

Shapes are polygons in millimetres, rasterised once. The label map and the image are painted from the same raster, so that a
mask is exact by construction. numpy and pillow only, no BLAS: results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw


@dataclass(frozen=True)
class Canvas:
    """A pixel grid of ``height`` x ``width`` with square pixels of ``spacing`` mm; (0, 0) mm is ``origin`` (x, y) in pixels."""

    height: int
    width: int
    spacing: float
    origin: tuple[float, float]

    @classmethod
    def fit(
        cls, height: int, width: int, extent_mm: tuple[float, float], centre_mm: tuple[float, float] = (0.0, 0.0)
    ) -> Canvas:
        """The smallest pixels for which an object of ``extent_mm`` (width, height) around ``centre_mm`` is inside."""
        spacing = max(extent_mm[0] / width, extent_mm[1] / height)
        return cls(height, width, spacing, (width / 2 - centre_mm[0] / spacing, height / 2 - centre_mm[1] / spacing))

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel centres in mm: x ``float32 [1, W]`` and y ``float32 [H, 1]`` (they broadcast)."""
        x = (np.arange(self.width, dtype=np.float32) + 0.5 - self.origin[0]) * self.spacing
        y = (np.arange(self.height, dtype=np.float32) + 0.5 - self.origin[1]) * self.spacing
        return x[None, :].astype(np.float32), y[:, None].astype(np.float32)

    def pixels(self, points_mm: np.ndarray, scale: int = 1) -> list[tuple[float, float]]:
        """``[N, 2]`` mm -> pillow's coordinates on a raster ``scale`` times finer (pillow's integers are pixel centres)."""
        points = (np.asarray(points_mm, dtype=np.float64) / self.spacing + self.origin) * scale - 0.5
        return [(float(x), float(y)) for x, y in points]

    def polygon(self, points_mm: np.ndarray) -> np.ndarray:
        """Filled polygon, ``bool [H, W]``."""
        image = Image.new("L", (self.width, self.height))
        ImageDraw.Draw(image).polygon(self.pixels(points_mm), fill=1)
        return np.asarray(image).astype(bool)

    def polygons(self, shapes: Sequence[np.ndarray]) -> np.ndarray:
        """Union of filled polygons, antialiased, ``float32 [H, W]`` in 0..1."""
        image = Image.new("L", (2 * self.width, 2 * self.height))
        draw = ImageDraw.Draw(image)
        for shape in shapes:
            draw.polygon(self.pixels(shape, 2), fill=255)
        return np.asarray(image.reduce(2), dtype=np.float32) / 255

    def lines(
        self, curves: Sequence[np.ndarray], widths_mm: Sequence[float], values: Sequence[float] | None = None
    ) -> np.ndarray:
        """Antialiased open curves, ``float32 [H, W]`` in 0..1; later curves cover earlier ones."""
        image = Image.new("L", (2 * self.width, 2 * self.height))
        draw = ImageDraw.Draw(image)
        for index, (curve, width) in enumerate(zip(curves, widths_mm, strict=True)):
            value = 1.0 if values is None else values[index]
            pixels = max(1, round(2 * width / self.spacing))
            draw.line(self.pixels(curve, 2), fill=int(round(255 * value)), width=pixels, joint="curve")
        return np.asarray(image.reduce(2), dtype=np.float32) / 255


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, points: int = 64) -> np.ndarray:
    """Ellipse as ``[N, 2]``; ``angle`` in radians, clockwise on screen."""
    t = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return rotate(np.stack([rx * np.cos(t), ry * np.sin(t)], 1), angle) + (x, y)


def blob(
    rng: np.random.Generator,
    x: float,
    y: float,
    rx: float,
    ry: float,
    angle: float = 0.0,
    rough: float = 0.08,
    orders: tuple[int, int] = (2, 6),
    points: int = 96,
) -> np.ndarray:
    """An ellipse whose radius is perturbed by harmonics ``orders`` with relative amplitude ``rough``: ``[N, 2]``."""
    t = np.linspace(0, 2 * np.pi, points, endpoint=False)
    order = np.arange(orders[0], orders[1] + 1)
    amplitude = rng.normal(0, rough, order.size) / np.sqrt(order / order[0])
    phase = rng.uniform(0, 2 * np.pi, order.size)
    radius = 1 + (amplitude[:, None] * np.cos(order[:, None] * t + phase[:, None])).sum(0)
    radius = np.clip(radius, 0.35, 1.8)
    return rotate(np.stack([rx * radius * np.cos(t), ry * radius * np.sin(t)], 1), angle) + (x, y)


def rotate(points: np.ndarray, angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([points[:, 0] * cosine - points[:, 1] * sine, points[:, 0] * sine + points[:, 1] * cosine], 1)


def spline(control: Sequence[Sequence[float]] | np.ndarray, closed: bool = True, per_segment: int = 10) -> np.ndarray:
    """Catmull-Rom curve through ``control [K, 2]`` -> ``[N, 2]``."""
    p = np.asarray(control, dtype=np.float64)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = (np.arange(per_segment) / per_segment)[None, :, None]
    a, b, c, d = (q[:, None, :] for q in (p[:-3], p[1:-2], p[2:-1], p[3:]))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def grown(points: np.ndarray, margin: float) -> np.ndarray:
    """Moves every vertex of a closed curve outwards by about ``margin`` (mm); negative shrinks. Good for mild curvature."""
    tangent = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    area = np.sum(points[:, 0] * np.roll(points[:, 1], -1) - points[:, 1] * np.roll(points[:, 0], -1))
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], 1) * np.sign(area)
    return points + margin * normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)


def resize(field: np.ndarray, height: int, width: int, bicubic: bool = False) -> np.ndarray:
    """``float32 [h, w]`` -> ``float32 [height, width]``, bilinear (with antialias when shrinking) or bicubic."""
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    method = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    return np.array(image.resize((width, height), method), dtype=np.float32)  # a copy: PIL's own memory cannot be written


def blur(field: np.ndarray, sigma: float | tuple[float, float]) -> np.ndarray:
    """Gaussian blur with edge replication; ``sigma`` in pixels, one number or (rows, columns). Keeps complex fields complex."""
    rows, columns = (sigma, sigma) if np.isscalar(sigma) else sigma
    field = np.asarray(field)
    if not np.iscomplexobj(field):
        field = field.astype(np.float32)
        if min(rows, columns) >= 4:  # a wide blur is a narrow blur of a smaller image
            step = int(min(rows, columns) // 2)
            small = resize(field, max(2, -(-field.shape[0] // step)), max(2, -(-field.shape[1] // step)))
            return resize(blur(small, (rows / step, columns / step)), *field.shape, bicubic=True)
    for axis, width in ((0, rows), (1, columns)):
        if width > 0:
            field = _convolve(field, width, axis)
    return field


def _convolve(field: np.ndarray, sigma: float, axis: int) -> np.ndarray:
    radius = max(1, int(np.ceil(2.5 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    pad = [(0, 0), (0, 0)]
    pad[axis] = (radius, radius)
    padded = np.pad(field, pad, mode="edge")
    length = field.shape[axis]
    shifted = [padded[i : i + length] if axis == 0 else padded[:, i : i + length] for i in range(2 * radius + 1)]
    result = kernel[radius] * shifted[radius]
    for offset in range(1, radius + 1):
        result += kernel[radius + offset] * (shifted[radius + offset] + shifted[radius - offset])
    return result


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], wavelength: float | tuple[float, float]) -> np.ndarray:
    """Smooth random field of about unit variance, ``float32 [H, W]``; ``wavelength`` in pixels, one or (rows, columns)."""
    rows, columns = (wavelength, wavelength) if np.isscalar(wavelength) else wavelength
    height, width = int(np.ceil(shape[0] / rows * 2)) + 3, int(np.ceil(shape[1] / columns * 2)) + 3
    field = rng.standard_normal((height, width), dtype=np.float32)
    out = resize(field, int(height * rows / 2) + 1, int(width * columns / 2) + 1, bicubic=True)
    top, left = int(rows / 2), int(columns / 2)
    return out[top : top + shape[0], left : left + shape[1]] * 1.4


def band_noise(rng: np.random.Generator, shape: tuple[int, int], wavelength: float, bandwidth: float = 0.3) -> np.ndarray:
    """Labyrinths: isotropic noise in a ring of spatial frequencies (1 / wavelength, pixels), ``float32 [H, W]``, variance 1."""
    spectrum = np.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    spectrum *= np.exp(-0.5 * ((frequency * wavelength - 1) / bandwidth) ** 2).astype(np.float32)
    field = np.fft.irfft2(spectrum, shape).astype(np.float32)
    return field / max(float(field.std()), 1e-6)


def place(
    rng: np.random.Generator,
    canvas: Canvas,
    allowed: np.ndarray,
    radius: float,
    ratio: float,
    turn: float = 1.6,
    rough: float = 0.08,
    orders: tuple[int, int] = (2, 6),
) -> tuple[np.ndarray, np.ndarray] | None:
    """Draws blobs around random allowed pixels until one lies wholly inside ``allowed`` (``bool [H, W]``) and the image.

    Half axes are ``radius`` and ``radius * ratio`` mm, turned by up to ``turn`` radians; the blob shrinks when nothing fits.

    Returns (polygon, mask), or None.
    """
    rows, columns = np.nonzero(allowed)
    if rows.size == 0:
        return None
    for attempt, pick in enumerate(rng.integers(0, rows.size, 40)):
        size = radius * 0.75 ** (attempt // 12)
        x = (float(columns[pick]) + 0.5 - canvas.origin[0]) * canvas.spacing
        y = (float(rows[pick]) + 0.5 - canvas.origin[1]) * canvas.spacing
        points = blob(rng, x, y, size, size * ratio, rng.uniform(-turn, turn), rough, orders)
        mask = canvas.polygon(points)
        if mask.sum() >= 12 and not np.any(mask & ~allowed) and _whole(canvas, points):
            return points, mask
    return None


def _whole(canvas: Canvas, points: np.ndarray) -> bool:
    pixels = points / canvas.spacing + canvas.origin
    return bool((pixels >= 1).all() and (pixels[:, 0] <= canvas.width - 1).all() and (pixels[:, 1] <= canvas.height - 1).all())


def window(field: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps ``low``..``high`` to 0..255, ``uint8``."""
    return np.clip((field - low) * (255.0 / max(high - low, 1e-6)) + 0.5, 0, 255).astype(np.uint8)
