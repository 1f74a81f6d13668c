"""X-ray-like chest radiographs: attenuation of soft tissue, lung and bone added up along the beam, then a detector.

Transmission by Beer-Lambert, scatter as a broad blur of the primary beam, Poisson quantum noise, logarithm and a display
curve, as in digital radiography. Left and right are the patient's (facing the viewer).
"""

from __future__ import annotations

import numpy as np

from .base import CLASS_IDS, PhantomImage, grey, lesion_count, tidy
from .canvas import Canvas, blob, blur, ellipse, grown, place, rotate, smooth_noise, spline, window


def xray_phantom(rng: np.random.Generator, height: int, width: int) -> PhantomImage:
    """A frontal chest radiograph. The heart covers the lung behind it; nodules cover the lung they lie in."""
    height, width = min(height, int(1.2 * width)), min(width, int(1.3 * height))  # cassettes are not that long
    scale = np.array([rng.uniform(0.92, 1.08), rng.uniform(0.92, 1.08)])
    zoom = rng.uniform(1.0, 1.13)
    canvas = Canvas.fit(
        height, width, (298 * zoom * scale[0], 288 * zoom * scale[1]), (rng.uniform(-7, 7), rng.uniform(-16, -4))
    )

    def jitter(points: np.ndarray | list, amount: float = 3.0) -> np.ndarray:
        return spline((np.asarray(points) + rng.normal(0, amount, (len(points), 2))) * scale)

    right_dome, left_dome = rng.uniform(68, 92), rng.uniform(80, 104)
    right = jitter(
        [(-40, -132), (-66, -128), (-96, -92), (-116, -30), (-126, 40), (-132, right_dome + 30), (-104, right_dome + 9),
         (-66, right_dome), (-24, right_dome + 12), (-17, 50), (-22, 0), (-20, -60), (-22, -112)]
    )  # fmt: skip
    left = jitter(
        [(40, -132), (22, -112), (20, -60), (22, -20), (20, 40), (26, left_dome + 10), (70, left_dome), (106, left_dome + 10),
         (134, left_dome + 32), (128, 40), (117, -30), (97, -92), (66, -128)]
    )  # fmt: skip
    size = rng.uniform(0.88, 1.2)
    base = 0.5 * (right_dome + left_dome) + 8
    silhouette = [
        (-12, -88),
        (-32, -62),
        (-43, -28),
        (-41, 6),
        (-36, 50),
        (20, 60),
        (78, 54),
        (88, 2),
        (77, -40),
        (50, -72),
        (24, -94),
    ]
    heart = jitter(np.array(silhouette) * size + (0, base), 2.0)
    lung_r, lung_l = canvas.polygon(right), canvas.polygon(left)
    x, _ = canvas.grid()
    heart_mask = canvas.polygon(heart) & ~_below(lung_r | lung_l, x, 42 * scale[0])
    labels = np.zeros(canvas.shape, np.uint8)
    labels[lung_r] = CLASS_IDS["right lung"]
    labels[lung_l] = CLASS_IDS["left lung"]
    labels[heart_mask] = CLASS_IDS["heart"]

    soft = _soft_tissue(rng, canvas, scale, (lung_r | lung_l), heart_mask)
    bone = _bones(rng, canvas, scale)
    lung = _lung_markings(rng, canvas, scale, labels)
    nodules = _nodules(rng, canvas, labels, soft)
    path = blur(soft, 0.7) * 0.021 + blur(bone, 0.6) * 0.052 + lung * 0.021  # attenuation per mm
    pixels = _detector(rng, path, canvas)
    return PhantomImage(
        pixels=grey(pixels),
        labels=tidy(labels),
        modality="xray",
        region="chest",
        spacing_mm=None,
        attributes={"lesions": nodules},
    )


def _below(lungs: np.ndarray, x: np.ndarray, middle: float) -> np.ndarray:
    """Pixels below the diaphragm: under the lowest lung pixel of their column, joined across |x| < ``middle`` mm."""
    height, width = lungs.shape
    last = np.where(lungs.any(0), height - 1 - np.argmax(lungs[::-1], axis=0), -1)
    known = np.flatnonzero((last >= 0) & (np.abs(x[0]) > middle))
    line = np.interp(np.arange(width), known, last[known]) if known.size else np.full(width, float(height))
    return np.arange(height)[:, None] > np.maximum(line, last)[None, :]


def _soft_tissue(rng, canvas: Canvas, scale, lungs: np.ndarray, heart: np.ndarray) -> np.ndarray:
    """Thickness of water-like tissue along the beam, mm ``float32 [H, W]``."""
    x, y = canvas.grid()
    x, y = x / np.float32(scale[0]), y / np.float32(scale[1])
    stout = rng.uniform(0.0, 1.0)
    # half width of the outline: neck, shoulders with the arms, then the chest wall below the armpits
    side = np.interp(y, [-260, -168, -150, -128, -105, -60, -10, 60, 260], [58, 60, 92, 175, 215, 200, 156, 150, 150])
    side = blur(np.repeat((side + 14 * stout).astype(np.float32), 2, 1), (12 / canvas.spacing, 0.0))[:, :1]
    roundness = np.clip(1 - (np.abs(x) / side) ** 2, 0, None) ** 0.42
    body = (
        (105 + 25 * stout)
        * roundness
        * np.interp(y, [-260, -150, -60, 60, 260], [0.72, 0.74, 0.96, 1.0, 1.1]).astype(np.float32)
    )
    arms = 62 * np.sqrt(np.clip(1 - ((np.abs(x) - 200 - 0.06 * y) / 34) ** 2, 0, None)) * np.clip((y + 105) / 40, 0, 1)
    body = np.maximum(body, arms)
    inner = blur((lungs & ~heart).astype(np.float32), 9 / canvas.spacing)
    depth = np.where(lungs, 24 + 34 * np.clip(inner * 2 - 0.85, 0, 1), 0)  # water displaced by air
    depth = depth * np.where(heart, 0.48, 1.0)  # the heart displaces most of the air, not all
    total = body - blur(depth.astype(np.float32), 1.3)
    middle = 15 * np.exp(-((x / rng.uniform(17, 22)) ** 2)) * np.clip((120 - y) / 40, 0, 1)  # mediastinum
    knob = canvas.polygons([ellipse(26 * scale[0], -70 * scale[1], 13, 15)])
    total = total + middle + 14 * blur(knob, 1.5)
    fork = (2, -72)
    airways = [np.array(line) * scale for line in ([(0, -185), (1, -120), fork], [fork, (-24, -46)], [fork, (30, -42)])]
    trachea = canvas.lines(airways, [17, 11, 10], [1, 0.7, 0.6])
    total = total - 15 * blur(trachea, 1.6)
    belly = 14 * np.clip((y - 70) / 60, 0, 1) * (~lungs)
    total = total + blur(belly.astype(np.float32), 1.2)
    if rng.random() < 0.6:  # gas in the stomach under the left dome
        at = np.array([rng.uniform(55, 80), rng.uniform(120, 134)]) * scale
        gas = canvas.polygon(blob(rng, *at, rng.uniform(16, 30), rng.uniform(8, 14), 0, 0.08))
        total = total - 26 * blur((gas & ~lungs & ~heart).astype(np.float32), 1.5)
    if rng.random() < 0.45:  # breast shadows
        middle_y = rng.uniform(48, 62)
        breasts = canvas.polygons([ellipse(sign * 80 * scale[0], middle_y * scale[1], 54, 46) for sign in (-1, 1)])
        total = total + rng.uniform(8, 15) * blur(breasts, 3.0) * np.clip((y - 10) / 70, 0.1, 1)
    return np.maximum(total, 0).astype(np.float32)


def _bones(rng, canvas: Canvas, scale) -> np.ndarray:
    """Equivalent thickness of bone, mm: ribs, clavicles, shoulder blades, spine."""
    total = np.zeros(canvas.shape, np.float32)
    pitch, first = rng.uniform(23, 26), -128 + rng.uniform(-5, 5)
    drop = rng.uniform(0.9, 1.15)
    ribs: dict[str, list] = {"back": [], "front": []}
    widths: dict[str, list] = {"back": [], "front": []}
    for k in range(10):
        top = first + k * pitch
        reach = 60 + 78 * np.sqrt(min(1.0, (k + 0.6) / 5.5)) if k < 9 else 118
        fall = (18 + 5.2 * k) * drop
        for sign in (-1, 1):
            rib = [(7, top + 3), (26, top - 4), (0.55 * reach, top + 0.22 * fall), (0.86 * reach, top + 0.72 * fall),
                   (reach, top + 1.25 * fall), (0.985 * reach, top + 1.7 * fall)]  # fmt: skip
            ribs["back"].append(spline(np.array(rib) * (sign, 1) * scale, closed=False))
            widths["back"].append(rng.uniform(8.5, 10.5))
            if k < 7:
                start = top + 1.7 * fall
                rib = [
                    (0.985 * reach, start),
                    (0.88 * reach, start + 15),
                    (0.66 * reach, start + 30),
                    (0.46 * reach, start + 31),
                ]
                ribs["front"].append(spline(np.array(rib) * (sign, 1) * scale, closed=False))
                widths["front"].append(rng.uniform(9, 12))
    for group, outer, core in (("back", 5.6, 2.6), ("front", 3.2, 1.3)):  # tubes: the walls are denser than the middle
        body = canvas.lines(ribs[group], widths[group])
        marrow = canvas.lines(ribs[group], [w - 3.6 for w in widths[group]])
        total += blur(body, 0.5) * outer - blur(marrow, 0.7) * core
    y = canvas.grid()[1]
    total *= np.clip(1 - (y - 70 * scale[1]) / 90, 0.35, 1)  # ribs fade behind the belly
    clavicles, blades, rise = [], [], rng.uniform(-6, 6)
    for sign in (-1, 1):
        clavicle = np.array([(11, -104), (35, -112 + 0.3 * rise), (75, -122 + rise), (112, -130 + rise), (150, -136 + rise)])
        clavicles.append(spline(clavicle * (sign, 1) * scale, closed=False))
        blades.append(
            spline(np.array([(134, -124), (120, -70), (128, -5), (142, -20), (156, -90), (168, -118)]) * (sign, 1) * scale)
        )
    total += canvas.lines(clavicles, [11, 11]) * 6.0 - canvas.lines(clavicles, [5.5, 5.5]) * 2.0
    total += blur(canvas.polygons(blades), 1.2) * 1.8
    total += canvas.lines([np.concatenate([b, b[:1]]) for b in blades], [3, 3]) * 1.2
    heads = [ellipse(sign * 182 * scale[0], -106 * scale[1], 21, 23) for sign in (-1, 1)]
    shafts = [np.array([(sign * 186, -100), (sign * 215, 300)]) * scale for sign in (-1, 1)]
    total += blur(np.maximum(canvas.polygons(heads), canvas.lines(shafts, [22, 22])), 1.2) * 5
    plates, pedicles, spines = [], [], []
    for top in np.arange(-190, 190, rng.uniform(19, 22)):  # vertebrae: bodies, pedicles, spinous processes
        w = 15 + 0.02 * (top + 150)
        shape = [(-w, top + 2), (-w + 2, top + 9), (-w, top + 17), (w, top + 17), (w - 2, top + 9), (w, top + 2)]
        plates.append(spline(np.array(shape) * scale, per_segment=5))
        pedicles += [ellipse(sign * 9 * scale[0], (top + 8) * scale[1], 3, 4) for sign in (-1, 1)]
        spines.append(ellipse(0, (top + 14) * scale[1], 2.4, 5.5))
    total += blur(canvas.polygons(plates), 0.8) * 2.6 + canvas.polygons(pedicles) * 0.9 + canvas.polygons(spines) * 1.3
    return total * rng.uniform(0.85, 1.2)


def _lung_markings(rng, canvas: Canvas, scale, labels: np.ndarray) -> np.ndarray:
    """Hila and vessels that branch and thin towards the edge, mm of water."""
    curves, widths = [], []
    for sign in (-1, 1):
        root = np.array([sign * 32.0, -32.0])
        for angle in np.linspace(-1.35, 1.4, 8) + rng.normal(0, 0.1, 8):
            heading = np.array([sign * np.cos(angle), 1.2 * np.sin(angle)])
            stem = (
                root
                + 8 * heading
                + np.cumsum(rng.normal(0, 2.5, (4, 2)), 0)
                + np.linspace(0, rng.uniform(50, 80), 4)[:, None] * heading
            )
            for part, width in enumerate((3.2, 2.2, 1.4)):  # every part thinner than the one before
                curves.append(spline(stem[part : part + 2] + rng.normal(0, 0.5, (2, 2)), closed=False))
                widths.append(width * rng.uniform(0.8, 1.2))
            for _ in range(3):
                at = int(rng.integers(0, 3))
                turn = rotate(heading[None], rng.choice([-1, 1]) * rng.uniform(0.4, 0.9))[0]
                tip = stem[at] + turn * rng.uniform(15, 32)
                curves.append(spline([stem[at], (stem[at] + tip) / 2 + rng.normal(0, 2.5, 2), tip], closed=False))
                widths.append(rng.uniform(1.0, 1.8))
    curves = [curve * scale for curve in curves]
    values = np.clip(np.array(widths) / 3.2, 0.35, 1.0)
    vessels = blur(canvas.lines(curves, widths, values), 0.8)
    knots = []
    for sign in (-1, 1):
        for _ in range(4):
            at = np.array([sign * rng.uniform(30, 42), rng.uniform(-50, -8)]) * scale
            knots.append(blob(rng, *at, rng.uniform(6, 11), rng.uniform(8, 15), sign * -0.5, 0.1))
    hila = canvas.polygons(knots)
    lungs = blur((labels > 0).astype(np.float32), 1.5)
    texture = 2.2 * smooth_noise(rng, canvas.shape, 5) + 2.0 * smooth_noise(rng, canvas.shape, 12)
    return (8 * vessels + 5 * blur(hila, 3.0) + 0.5 * texture) * lungs


def _nodules(rng, canvas: Canvas, labels: np.ndarray, soft: np.ndarray) -> int:
    """Round opacities in the aerated lung, adding their own chord to the path (``soft`` is changed in place)."""
    lungs = np.isin(labels, [CLASS_IDS["right lung"], CLASS_IDS["left lung"]])
    free, done = lungs & (blur(lungs.astype(np.float32), 2.0) > 0.95), 0
    for _ in range(lesion_count(rng)):
        r, rough = rng.uniform(5, 17), rng.choice([0.04, 0.1], p=[0.6, 0.4])  # smooth or spiculated
        placed = place(rng, canvas, free, r, rng.uniform(0.8, 1), rough=rough, orders=(2, 9))
        if placed:
            shape, mask = placed
            edge = blur(mask.astype(np.float32), 0.25 * r / canvas.spacing)
            soft += mask * np.clip(edge * 1.5 - 0.25, 0.25, 1) * np.float32(9 + 1.1 * r)
            labels[mask] = CLASS_IDS["lung nodule"]
            free &= ~canvas.polygon(grown(shape, 5 + 2 * canvas.spacing))
            done += 1
    return done


def _detector(rng, path: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Line integrals -> displayed grey values ``uint8``, dense = white."""
    x, y = canvas.grid()
    angle, heel = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.12)
    beam = 1 + heel * (np.cos(angle) * x + np.sin(angle) * y) / 170  # heel effect and centring
    primary = np.exp(-path) * beam
    scatter = blur(primary, 30 / canvas.spacing) * rng.uniform(0.3, 0.8)
    photons = rng.uniform(4e3, 3e4)
    signal = primary + scatter
    counts = signal * photons
    counts = counts + np.sqrt(counts) * rng.standard_normal(path.shape, dtype=np.float32)  # Poisson, many photons
    density = -np.log(np.maximum(counts, 1) / photons)
    density = density + rng.uniform(0.3, 0.6) * (density - blur(density, 18 / canvas.spacing))  # unsharp masking as consoles do
    low, high = np.quantile(density, [0.01, 0.99])
    tone = 2.9 * ((density - low) / (high - low) - rng.uniform(0.5, 0.58))  # a display curve with toe and shoulder
    tone = 0.5 + 0.5 * np.tanh(tone * rng.uniform(0.75, 0.95)) / np.tanh(1.6)
    return window(tone, 0.0, 1.03)
