"""Ultrasound-like images of the breast: linear or curvilinear probe, cysts and solid masses in layered tissue.

Everything acoustic happens in the probe's own frame (beams x depth): random complex scatterers, a point spread function
that widens away from the focus, attenuation summed along each beam. Shadows and enhancement behind a lesion are therefore
consequences of its attenuation, not painted. Scan conversion, then log compression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import CLASS_IDS, PhantomImage, grey, lesion_count
from .canvas import Canvas, blur, grown, place, smooth_noise, window


@dataclass(frozen=True)
class Probe:
    """Geometry in mm: ``radius`` 0 is a linear array of ``extent`` mm, otherwise a fan of ``extent`` radians."""

    radius: float
    extent: float
    depth: float

    def beam(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """mm -> (beam position 0..1, depth mm)."""
        if not self.radius:
            return x / self.extent + 0.5 + 0 * y, y + 0 * x
        return np.arctan2(x, y + self.radius) / self.extent + 0.5, np.hypot(x, y + self.radius) - self.radius

    def point(self, beam: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(beam position 0..1, depth mm) -> mm."""
        if not self.radius:
            return (beam - 0.5) * self.extent + 0 * depth, depth + 0 * beam
        angle = (beam - 0.5) * self.extent
        return (depth + self.radius) * np.sin(angle), (depth + self.radius) * np.cos(angle) - self.radius


def ultrasound_phantom(rng: np.random.Generator, height: int, width: int) -> PhantomImage:
    """A breast scan, 35 to 55 mm deep."""
    depth = rng.uniform(32, 52)
    curved = rng.random() < 0.35
    if curved:
        depth = rng.uniform(45, 70)
        radius = rng.uniform(38, 60)
        aspect = min(max(width / height, 0.9), 1.45)  # open the fan until it fills the frame
        angles = np.linspace(0.6, 1.75, 60)
        fans = 2 * (radius + depth) * np.sin(angles / 2) / (depth + radius * (1 - np.cos(angles / 2)))
        probe = Probe(radius, float(angles[np.argmin(np.abs(fans - aspect))]), depth)
        fan_width = 2 * (probe.radius + depth) * np.sin(probe.extent / 2)
        sag = probe.radius * (1 - np.cos(probe.extent / 2))
        canvas = Canvas.fit(height, width, (fan_width * 1.04, (depth + sag) * 1.06), (0.0, (depth - sag) / 2))
    else:
        extent = depth * width / height * rng.uniform(0.98, 1.12)
        probe = Probe(0.0, extent, depth)
        spacing = extent / width
        canvas = Canvas(height, width, spacing, (width / 2, 0.0))
    x, y = canvas.grid()
    beam, deep = probe.beam(x, y)
    field = (beam >= 0) & (beam <= 1) & (deep >= 0) & (deep <= depth)

    lesions = _place_lesions(rng, canvas, field, deep, depth)
    labels = np.zeros(canvas.shape, np.uint8)
    for kind, _, mask in lesions:
        labels[mask] = CLASS_IDS[kind]

    beams, samples = int(rng.integers(150, 210)), int(1.3 * depth / canvas.spacing)
    grid_beam = ((np.arange(beams, dtype=np.float32) + 0.5) / beams)[None, :]
    grid_deep = ((np.arange(samples, dtype=np.float32) + 0.5) * (depth / samples))[:, None]
    echo, absorb = _tissue(rng, (samples, beams), grid_deep, depth)
    px, py = probe.point(grid_beam, grid_deep)
    _insert(rng, canvas, lesions, px, py, echo, absorb)
    envelope = _beamform(rng, echo, absorb, depth)

    picture = _scan_convert(envelope, beam, deep / depth)
    span = rng.uniform(44, 56)  # dB shown
    gain = float(np.quantile(picture[field], 0.96))
    decibel = 20 * np.log10(np.maximum(picture / max(gain, 1e-9), 1e-5))
    tone = np.clip((decibel + span * 0.82) / span, 0, 1) ** rng.uniform(0.9, 1.15)
    pixels = window(np.where(field, tone, 0), 0.0, 1.0)
    _scale_marks(rng, pixels, canvas, probe)
    return PhantomImage(
        pixels=grey(pixels),
        labels=labels,
        modality="ultrasound",
        region="breast",
        spacing_mm=(round(canvas.spacing, 4), round(canvas.spacing, 4)),
        attributes={"lesions": len(lesions), "probe": "curvilinear" if curved else "linear"},
    )


def _place_lesions(rng, canvas: Canvas, field: np.ndarray, deep: np.ndarray, depth: float) -> list:
    """Separate (class name, polygon, mask): smooth cysts, rough solid masses."""
    free, lesions = field & (deep > 0.14 * depth) & (deep < 0.72 * depth), []
    for _ in range(lesion_count(rng)):
        kind, radius = rng.choice(["cyst", "solid mass"]), rng.uniform(0.06, 0.2) * depth
        rough, orders = (0.025, (2, 6)) if kind == "cyst" else (0.1, (2, 10))
        result = place(rng, canvas, free, radius, rng.uniform(0.55, 0.95), 0.4, rough, orders)
        if result:
            lesions.append((str(kind), *result))
            free = free & ~canvas.polygon(grown(result[0], 0.06 * depth))
    return lesions


def _tissue(rng, shape: tuple[int, int], deep: np.ndarray, depth: float) -> tuple[np.ndarray, np.ndarray]:
    """Echogenicity (amplitude) and attenuation (dB per mm of path, after the machine's own compensation)."""
    samples, beams = shape
    skin = rng.uniform(1.2, 2.2)
    fat = rng.uniform(0.14, 0.3) * depth + 0.03 * depth * smooth_noise(rng, shape, (samples, beams * 0.4))
    gland = rng.uniform(0.55, 0.72) * depth + 0.03 * depth * smooth_noise(rng, shape, (samples, beams * 0.5))
    muscle = gland + rng.uniform(0.1, 0.18) * depth
    absorb = 0.02 + 0.10 * np.abs(smooth_noise(rng, shape, (samples * 2.0, beams * 0.12))) * (deep > fat)
    lobules = np.abs(smooth_noise(rng, shape, (samples * 0.11, beams * 0.3)))
    septa = np.clip(1 - lobules / 0.14, 0, 1)
    streaks = smooth_noise(rng, shape, (samples * 0.025, beams * 0.22))
    fine = smooth_noise(rng, shape, (samples * 0.05, beams * 0.09))
    fatty = 0.22 + 0.9 * septa + 0.05 * fine
    patches = smooth_noise(rng, shape, (samples * 0.16, beams * 0.3))
    glandular = 0.62 * np.exp(rng.uniform(0.3, 0.6) * streaks + 0.3 * fine + rng.uniform(0.1, 0.5) * patches)
    stripes = 0.22 * np.exp(0.9 * smooth_noise(rng, shape, (samples * 0.016, beams * 0.5)))
    echo = np.where(deep < fat, fatty, glandular)
    echo = np.where(deep > gland, stripes, echo)
    fascia = np.exp(-(((deep - gland) / 0.5) ** 2)) + 0.8 * np.exp(-(((deep - muscle) / 0.4) ** 2))
    echo = echo + 1.6 * fascia + 0.7 * np.exp(-(((deep - fat) / 0.45) ** 2))
    echo = np.where(deep > muscle + 0.05 * depth, 0.14 + 0.1 * fine**2, echo)
    echo = np.where(deep < skin, 1.5, echo)
    echo = np.where((deep > 0.35 * skin) & (deep < 0.7 * skin), 0.6, echo)
    if rng.random() < 0.35:  # ribs below the muscle: a bright arc with a shadow
        for centre in np.arange(rng.uniform(0.05, 0.4), 1.0, rng.uniform(0.4, 0.6)):
            across = (np.arange(beams) + 0.5)[None, :] / beams - centre
            top = muscle + 0.02 * depth + 40 * across**2 * depth * 0.2
            rib = (np.abs(across) < 0.09) & (deep > top) & (deep < top + 0.8)
            echo, absorb = np.where(rib, 2.6, echo), np.where(rib, 14.0, absorb)
    return echo.astype(np.float32), absorb.astype(np.float32)


def _insert(rng, canvas: Canvas, lesions: list, px, py, echo: np.ndarray, absorb: np.ndarray) -> None:
    """Puts the lesions into the probe's frame (arrays changed in place)."""
    column = np.clip(px / canvas.spacing + canvas.origin[0], 0, canvas.width - 1).astype(np.int32)
    row = np.clip(py / canvas.spacing + canvas.origin[1], 0, canvas.height - 1).astype(np.int32)
    for kind, shape, mask in lesions:
        inside = mask[row, column]
        if kind == "cyst":
            rim = canvas.polygon(grown(shape, 1.0 * canvas.spacing + 0.3))[row, column] & ~inside
            echo[rim] = np.maximum(echo[rim], 0.9)
            debris = rng.uniform(0.002, 0.012)
            echo[inside] = debris
            absorb[inside] = -rng.uniform(0.35, 0.75)  # fluid absorbs less than the compensation assumes
        else:
            halo = canvas.polygon(grown(shape, 0.9))[row, column] & ~inside
            echo[halo] = echo[halo] * 0.5 + 0.45
            texture = smooth_noise(rng, echo.shape, 7)
            level = rng.uniform(0.07, 0.17)
            echo[inside] = (level * np.exp(0.3 * texture))[inside]
            absorb[inside] = rng.uniform(0.15, 1.5)
            if rng.random() < 0.3:  # microcalcifications
                echo[inside & (rng.random(echo.shape, dtype=np.float32) < 0.004)] = 4.0


def _beamform(rng, echo: np.ndarray, absorb: np.ndarray, depth: float) -> np.ndarray:
    """Speckle envelope ``float32 [samples, beams]``: scatterers times echogenicity and two-way loss, blurred by the beam."""
    samples, beams = echo.shape
    loss = np.cumsum(absorb, axis=0) * (depth / samples)
    loss = blur(loss.astype(np.float32), (0.0, 1.2))
    amplitude = echo * 10 ** (-np.clip(loss, -8, 40) / 20)
    level = (np.arange(samples, dtype=np.float32)[:, None] + 0.5) / samples
    away = np.clip(np.abs(level - rng.uniform(0.3, 0.55)) * 1.6, 0, 1)
    axial, lateral = rng.uniform(0.85, 1.2), rng.uniform(0.7, 1.1)
    power, looks = np.zeros(echo.shape, np.float32), int(rng.integers(1, 4))
    for _ in range(looks):  # spatial compounding: several looks from other angles, speckle decorrelated
        scatter = rng.standard_normal((2, samples, beams), dtype=np.float32)
        field = (scatter[0] + 1j * scatter[1]).astype(np.complex64) * amplitude
        sharp = blur(field, (axial, lateral))
        wide = blur(sharp, (0.0, 2.0 * lateral))
        # a wider blur of white scatterers is weaker by the square root of its area
        mixed = sharp * (1 - away) + wide * away * np.float32(np.sqrt(2.2))
        power += mixed.real**2 + mixed.imag**2
    wobble = rng.uniform(0.05, 0.3) * np.sin(2 * np.pi * level * rng.uniform(0.3, 0.9) + rng.uniform(0, 6))
    envelope = np.sqrt(power / looks) * np.exp(wobble - rng.uniform(0.0, 1.1) * level)  # imperfect compensation in depth
    envelope = envelope + 0.0008 * 10 ** (rng.uniform(0.5, 1.2) * level)  # electronic noise grows with the compensation
    return blur(envelope, (0.4, 0.4))


def _scan_convert(envelope: np.ndarray, beam: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Bilinear lookup of ``envelope`` at (beam, level) in 0..1."""
    samples, beams = envelope.shape
    column = np.clip(beam * beams - 0.5, 0, beams - 1.001).astype(np.float32)
    row = np.clip(level * samples - 0.5, 0, samples - 1.001).astype(np.float32)
    left, top = column.astype(np.int32), row.astype(np.int32)
    fx, fy = column - left, row - top
    flat, index = envelope.ravel(), top * beams + left
    upper = flat[index] * (1 - fx) + flat[index + 1] * fx
    lower = flat[index + beams] * (1 - fx) + flat[index + beams + 1] * fx
    return upper * (1 - fy) + lower * fy


def _scale_marks(rng, pixels: np.ndarray, canvas: Canvas, probe: Probe) -> None:
    """Depth ticks every centimetre along one edge, as consoles draw them."""
    if rng.random() < 0.5:
        edge = canvas.width - 4
        for centimetre in range(1, int(probe.depth // 10) + 1):
            row = int(centimetre * 10 / canvas.spacing + canvas.origin[1])
            if 0 <= row < canvas.height:
                pixels[row, edge : edge + (4 if centimetre % 5 == 0 else 3)] = 200
