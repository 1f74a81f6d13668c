"""MR-like axial slices of the brain: T1, T1 with contrast agent, T2 and FLAIR contrast.

Noise and artefacts are made where a scanner makes them, in k-space: complex noise (Rician after the magnitude), motion
ghosts along the phase direction, truncation ringing; the coil adds a bias field.
"""

from __future__ import annotations

import numpy as np

from .base import CLASS_IDS, PhantomImage, grey, lesion_count, tidy
from .canvas import Canvas, band_noise, blob, blur, grown, place, rotate, smooth_noise, window

#: Signal of each tissue per sequence, relative to the brightest.
TISSUES = ("white", "grey", "csf", "fat", "bone", "marrow", "muscle", "edema")
SIGNAL: dict[str, dict[str, float]] = {
    sequence: dict(zip(TISSUES, values, strict=True))
    for sequence, values in {
        "T1": (0.66, 0.44, 0.12, 0.98, 0.05, 0.32, 0.42, 0.42),
        "T1 contrast": (0.58, 0.41, 0.11, 0.98, 0.05, 0.30, 0.42, 0.36),
        "T2": (0.34, 0.50, 0.96, 0.62, 0.04, 0.25, 0.22, 0.70),
        "FLAIR": (0.42, 0.55, 0.08, 0.66, 0.04, 0.25, 0.28, 0.78),
    }.items()
}


def mr_phantom(rng: np.random.Generator, height: int, width: int) -> PhantomImage:
    """An axial slice at the height of the lateral ventricles, or just above them."""
    sequence = str(rng.choice(list(SIGNAL), p=[0.3, 0.3, 0.25, 0.15]))
    signal = {name: float(value * rng.uniform(0.94, 1.06)) for name, value in SIGNAL[sequence].items()}
    half = np.array([rng.uniform(63, 71), rng.uniform(80, 90)])  # half axes of the brain, mm
    tilt = float(rng.normal(0, 0.1))
    margin = rng.uniform(1.32, 1.55)
    canvas = Canvas.fit(height, width, (2 * half[0] * margin, 2 * half[1] * margin), tuple(rng.uniform(-5, 5, 2)))
    brain = _brain_outline(rng, half)

    def turned(points: np.ndarray) -> np.ndarray:
        return rotate(points, tilt)

    inside = canvas.polygon(turned(brain))
    field, labels = np.full(canvas.shape, 0.0, np.float32), np.zeros(canvas.shape, np.uint8)
    _head(rng, canvas, field, brain, turned, signal)

    wanted = lesion_count(rng)
    tumours = _place_tumours(rng, canvas, turned(grown(brain, -5)), wanted)
    x, y = canvas.grid()
    x, y = np.broadcast_arrays(x, y)
    x, y = _mass_effect(x, y, tumours)
    cosine, sine = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    u, v = x * cosine + y * sine, y * cosine - x * sine  # the patient's own axes, mm
    tissue, ventricles = _brain(rng, canvas, u, v, half, inside, signal)
    field[inside] = tissue[inside]
    labels[inside & ventricles] = CLASS_IDS["ventricles"]
    for shape, mask in tumours:
        _tumour(rng, canvas, field, labels, shape, mask, inside, sequence, signal)

    pixels = _scan(rng, blur(field, 0.5))
    high = max(float(np.quantile(pixels[inside], 0.995)), 0.9 * float(np.quantile(pixels, 0.995))) * rng.uniform(0.9, 1.15)
    return PhantomImage(
        pixels=grey(window(pixels, 0.0, high)),
        labels=tidy(labels),
        modality="mri",
        region="brain",
        spacing_mm=(round(canvas.spacing, 4), round(canvas.spacing, 4)),
        attributes={"lesions": len(tumours), "sequence": sequence},
    )


def _brain_outline(rng: np.random.Generator, half: np.ndarray) -> np.ndarray:
    """Egg-shaped, narrower at the front (top), with a slight notch where the hemispheres part."""
    t = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    x, y = np.cos(t), np.sin(t)
    x = x * (1 + rng.uniform(0.05, 0.12) * y)
    radius = 1 + 0.01 * np.cos(3 * t + rng.uniform(0, 6)) + 0.008 * np.cos(5 * t + rng.uniform(0, 6))
    return np.stack([x * radius * half[0], y * radius * half[1]], 1)


def _head(rng, canvas: Canvas, field: np.ndarray, brain: np.ndarray, turned, signal: dict[str, float]) -> None:
    """Scalp fat, skull with marrow, the fluid around the brain."""
    scalp, bone = rng.uniform(4, 8), rng.uniform(5.5, 8.5)
    wobble = 1 + 0.10 * np.cos(2 * np.arctan2(brain[:, 1], brain[:, 0]) + np.pi)[:, None]  # thicker in front and behind
    outer = grown(brain, 2.0)
    layers = [
        (outer + (grown(outer, 1.0) - outer) * (bone + scalp + 1.8) * wobble, signal["muscle"] * 0.9),
        (outer + (grown(outer, 1.0) - outer) * (bone + scalp) * wobble, signal["fat"]),
        (outer + (grown(outer, 1.0) - outer) * bone * wobble, signal["bone"]),
        (outer + (grown(outer, 1.0) - outer) * 0.66 * bone * wobble, signal["marrow"]),
        (outer + (grown(outer, 1.0) - outer) * 0.36 * bone * wobble, signal["bone"]),
        (outer, signal["csf"]),
    ]
    for shape, value in layers:
        field[canvas.polygon(turned(shape))] = value
    texture = smooth_noise(rng, canvas.shape, 6)
    field *= 1 + 0.1 * texture


def _mass_effect(x: np.ndarray, y: np.ndarray, tumours: list) -> tuple[np.ndarray, np.ndarray]:
    """Pushes the anatomy away from each tumour: looks up what used to lie closer to its centre."""
    for shape, _ in tumours:
        centre = shape.mean(0)
        radius = float(np.sqrt(((shape - centre) ** 2).sum(1)).mean())
        dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
        pull = np.float32(0.45) * np.exp(-(dx * dx + dy * dy) / np.float32((2.2 * radius) ** 2))
        x, y = x - dx * pull, y - dy * pull
    return x, y


def _brain(rng, canvas: Canvas, u: np.ndarray, v: np.ndarray, half: np.ndarray, inside: np.ndarray, signal: dict[str, float]):
    """Cortical folds, white matter, deep nuclei and ventricles at patient coordinates u, v (mm): (signal, ventricle mask)."""
    spacing = canvas.spacing
    a, b = np.float32(half[0]), np.float32(half[1])
    wander = [smooth_noise(rng, canvas.shape, 38 / spacing) * np.float32(rng.uniform(0.8, 2.0)) for _ in range(2)]
    u, v = u + wander[0], v + wander[1]  # no brain is symmetric
    rho = np.sqrt((u / (a * (1 + 0.08 * v / b))) ** 2 + (v / b) ** 2)
    depth = (1 - rho) * np.float32(half.mean())  # mm below the surface, about
    folding = rng.uniform(17, 22)  # mm from gyrus to gyrus
    folds = band_noise(rng, canvas.shape, folding / spacing, 0.25)
    atrophy = rng.uniform(0.0, 1.0)
    reach = np.clip(1.15 - depth / rng.uniform(24, 32), 0, 1)  # folds are deep near the surface and end in white matter
    ridge = np.abs(folds)
    grey = (ridge < 0.66 * reach + 0.02) & (reach > 0.12)
    grey |= depth < 4.0 + 0.8 * folds
    fissure = np.clip((np.abs(v) - np.float32(rng.uniform(0.36, 0.45)) * b) / 14, 0, 1)  # where the hemispheres part
    grey |= np.abs(u) < (5.0 + 0.8 * folds) * np.sqrt(fissure)  # it is lined by cortex too
    # sulci are thinner than a pixel: their coverage, by distance to the centre line in pixels, is what is painted
    slope = np.float32(2 * np.pi * spacing / folding)
    sulcus = np.clip(((0.06 + 0.12 * atrophy) * reach**1.5 - ridge) / slope + 0.5, 0, 1) * ((depth < 26) & (reach > 0.3))
    midline = ((0.6 + 0.7 * atrophy) * fissure - np.abs(u + 0.8 * np.sin(v / 9))) / np.float32(spacing) + 0.5
    sulcus = np.maximum(sulcus, np.clip(midline, 0, 1) * (fissure > 0))
    tissue = np.where(grey, np.float32(signal["grey"]), np.float32(signal["white"]))
    deep = np.abs(u)

    def oval(cx: float, cy: float, rx: float, ry: float, turn: float = 0.0) -> np.ndarray:
        """The same ellipse in both hemispheres."""
        across, along = deep - np.float32(cx), v - np.float32(cy)
        cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        return ((across * cosine + along * sine) / rx) ** 2 + ((along * cosine - across * sine) / ry) ** 2 < 1

    low = rng.random() < 0.75  # at the height of the nuclei, otherwise above them
    wide = rng.uniform(0.8, 1.2) + 0.5 * atrophy
    if low:
        mix = 0.75
        nuclei = oval(10.5, 10, 8, 13, 0.35) | oval(26, -6, 5.5, 16, -0.22) | oval(11 + 2 * wide, -22, 5, 10, -0.25)
        tissue = np.where(nuclei, np.float32(mix * signal["grey"] + (1 - mix) * signal["white"]), tissue)
        course = deep - (0.57 * a + 2.2 * np.sin(v / 6) + 1.2 * folds)
        insula = (np.abs(course) < 0.6 + 0.8 * atrophy) & (v > -22) & (v < 12)
        insula |= (np.abs(v + 5 - 0.25 * (deep - 0.57 * a)) < 0.5 + 0.6 * atrophy) & (course > 0)  # Sylvian fissure
        rim = np.abs(course) < 4.2
        tissue = np.where(rim & (v > -28) & (v < 18), np.float32(signal["grey"]), tissue)
        sulcus = np.maximum(sulcus, 0.85 * insula)
        ventricles = oval(4.5 + 3.2 * wide, -27, 2.6 * wide + 0.6, 13, -0.42)  # frontal horns
        ventricles |= oval(17 + 2 * wide, 35, 3.2 * wide, 14, -0.35)  # trigones and occipital horns
        third = (np.abs(u) < 0.9 + 1.2 * wide * 0.8) & (np.abs(v - 4) < 12)
        ventricles |= third
    else:
        ventricles = oval(6 + 2.6 * wide, 2, 3.6 * wide, rng.uniform(30, 38), -0.16)
    ventricles &= inside & (depth > 8)
    septum = (np.abs(u) < 0.9) & (v < -8)
    ventricles &= ~septum
    tissue = tissue + sulcus * np.float32(0.9) * (np.float32(signal["csf"]) - tissue)
    tissue = np.where(ventricles, np.float32(signal["csf"]), tissue)
    tissue = tissue * (1 + 0.03 * smooth_noise(rng, canvas.shape, 9 / spacing))
    return tissue.astype(np.float32), ventricles


def _place_tumours(rng, canvas: Canvas, outline: np.ndarray, wanted: int) -> list:
    """Up to ``wanted`` separate (polygon, mask) inside ``outline``; the first may be large."""
    free, lesions = canvas.polygon(outline), []
    for index in range(wanted):
        radius = rng.uniform(6, 20) if index == 0 else rng.uniform(4, 9)
        result = place(rng, canvas, free, radius, rng.uniform(0.7, 1.0), rough=0.09)
        if result:
            lesions.append(result)
            free = free & ~canvas.polygon(grown(result[0], 8))
    return lesions


def _tumour(rng, canvas: Canvas, field, labels, shape, mask, inside, sequence: str, signal: dict[str, float]) -> None:
    """Edema in fingers (white matter only, not part of the mask), then the tumour: solid, ring-like or with dead core."""
    size = float(np.sqrt(mask.sum()) * canvas.spacing)
    if rng.random() < 0.75:
        spread = blob(
            rng, *shape.mean(0), size * rng.uniform(0.9, 1.3), size * rng.uniform(0.8, 1.1), rng.uniform(0, 3), 0.16, (2, 7)
        )
        amount = blur(canvas.polygon(spread).astype(np.float32), 2.0 / canvas.spacing)
        amount *= inside & (labels == 0)
        middle = 0.5 * (signal["white"] + signal["grey"])
        white = np.abs(field - signal["white"]) < abs(middle - signal["white"])
        field += amount * np.where(white, 1.0, 0.35) * (signal["edema"] - field)
    kind = rng.choice(["solid", "ring", "mixed"])
    bright = {"T1": 0.32, "T1 contrast": 0.95, "T2": 0.86, "FLAIR": 0.92}[sequence] * rng.uniform(0.92, 1.08)
    core = {"T1": 0.22, "T1 contrast": 0.22, "T2": 0.95, "FLAIR": 0.5}[sequence] * rng.uniform(0.9, 1.1)
    texture = smooth_noise(rng, canvas.shape, rng.uniform(5, 9) / canvas.spacing)
    value = bright * (1 + 0.06 * texture)
    field[mask] = value[mask]
    if kind != "solid":
        margin = size * (rng.uniform(0.10, 0.16) if kind == "ring" else rng.uniform(0.18, 0.26))
        centre = canvas.polygon(grown(shape, -max(margin, 1.2))) & mask
        if kind == "mixed":
            centre &= texture > -0.2
        field[centre] = (core * (1 + 0.06 * texture))[centre]
    labels[mask] = CLASS_IDS["brain lesion"]


def _scan(rng: np.random.Generator, field: np.ndarray) -> np.ndarray:
    """Bias field, k-space with ghosts and truncation, complex noise, magnitude: ``float32 [H, W]``."""
    height, width = field.shape
    bias = np.exp(rng.uniform(0.04, 0.14) * smooth_noise(rng, field.shape, 0.9 * max(height, width)))
    kspace = np.fft.fft2((field * bias).astype(np.float32))
    if rng.random() < 0.5:  # motion: a periodic phase error along the phase-encode lines
        axis = int(rng.integers(0, 2))
        lines = np.fft.fftfreq(field.shape[axis]) * field.shape[axis]
        period, strength = rng.uniform(2.5, 7), rng.uniform(0.03, 0.12)
        wobble = np.exp(1j * strength * np.sin(2 * np.pi * lines / period) * np.minimum(np.abs(lines) / 6, 1)).astype(
            np.complex64
        )
        kspace *= wobble[:, None] if axis == 0 else wobble[None, :]
    keep = rng.uniform(0.78, 1.0)  # a smaller acquisition matrix rings at edges
    kspace *= (np.abs(np.fft.fftfreq(height)) <= keep / 2)[:, None] & (np.abs(np.fft.fftfreq(width)) <= keep / 2)[None, :]
    complex_image = np.fft.ifft2(kspace)
    sigma = rng.uniform(0.008, 0.035)
    noise = rng.standard_normal((2, height, width), dtype=np.float32) * np.float32(sigma)
    return np.hypot(complex_image.real + noise[0], complex_image.imag + noise[1]).astype(np.float32)
