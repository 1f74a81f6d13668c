"""CT-like axial slices of the upper abdomen, in Hounsfield units until the window.

Anatomy only; :mod:`.tomography` adds what a scanner adds.
"""

from __future__ import annotations

import numpy as np

from .base import CLASS_IDS, PhantomImage, grey, lesion_count, tidy
from .canvas import Canvas, blob, blur, ellipse, grown, place, rotate, smooth_noise, spline, window
from .tomography import artefacts

AIR, FAT, WATER = -1000.0, -100.0, 0.0


class Slice:
    """Paints Hounsfield values and labels together."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.hu = np.full(canvas.shape, AIR, dtype=np.float32)
        self.labels = np.zeros(canvas.shape, dtype=np.uint8)

    def paint(self, shape: np.ndarray, hu: float | np.ndarray, name: str | None = None, halo: float = 0.0) -> np.ndarray:
        """Fills a polygon (mm) or mask; ``halo`` mm of fat keep it apart from what lies below. Returns its mask."""
        mask = shape if shape.dtype == bool else self.canvas.polygon(shape)
        if halo:
            ring = self.canvas.polygon(grown(shape, halo)) & ~mask
            self.hu[ring], self.labels[ring] = FAT, 0
        self.hu[mask] = hu[mask] if isinstance(hu, np.ndarray) else hu
        self.labels[mask] = CLASS_IDS[name] if name else 0
        return mask


def ct_phantom(rng: np.random.Generator, height: int, width: int) -> PhantomImage:
    """An axial slice of the abdomen seen from the feet: the patient's right is on the left of the image."""
    half = np.array([rng.uniform(145, 190), rng.uniform(100, 135)])  # half axes of the body, mm
    margin = rng.uniform(1.04, 1.2)
    canvas = Canvas.fit(
        height, width, (2 * half[0] * margin, 2 * half[1] * margin + 12), (rng.uniform(-6, 6), rng.uniform(2, 10))
    )
    image = Slice(canvas)
    contrast = rng.uniform(0, 1)  # 0: before contrast agent, 1: portal venous phase
    inner, back, enclosed = _body(rng, image, half)
    kidneys = rng.random() < 0.85
    _bowel(rng, image, inner, kidneys)
    spine_y = _spine(rng, image, back, enclosed)
    _organs(rng, image, inner, spine_y, kidneys, contrast)
    lesions = _lesions(rng, image)
    hu = image.hu
    hu += smooth_noise(rng, canvas.shape, 7) * np.where(hu > -200, 5, 0)
    hu = blur(hu, 0.55)
    dose = float(10 ** rng.uniform(4.8, 5.8))
    hu += artefacts(rng, hu, canvas.spacing, dose)
    if rng.random() < 0.75:
        level, span, name = rng.uniform(30, 70), rng.uniform(300, 450), "soft tissue"
    else:
        level, span, name = rng.uniform(0, 150), rng.uniform(900, 1800), "wide"
    return PhantomImage(
        pixels=grey(window(hu, level - span / 2, level + span / 2)),
        labels=tidy(image.labels),
        modality="ct",
        region="abdomen",
        spacing_mm=(round(canvas.spacing, 4), round(canvas.spacing, 4)),
        attributes={"lesions": lesions, "window": name, "contrast": bool(contrast > 0.35)},
    )


def _body(rng: np.random.Generator, image: Slice, half: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Table, skin, fat, muscle wall, ribs. Returns (half axes of the cavity, y of the back, mask inside the outer fat)."""
    a, b = half
    if rng.random() < 0.8:
        sag, top = rng.uniform(25, 60), b + rng.uniform(1, 5)
        x = np.linspace(-1.4 * a, 1.4 * a, 40)
        for depth, hu in ((0.0, -250.0), (rng.uniform(12, 25), -400.0)):
            curve = np.stack([x, top + depth - sag * (x / a) ** 2 * 0.5], 1)
            table = image.canvas.lines([curve], [rng.uniform(2, 4)])
            image.hu += (hu - AIR) * table
    t = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    power = 2 / rng.uniform(2.1, 2.5)
    sine, cosine = np.sin(t), np.cos(t)
    outline = np.stack([np.sign(cosine) * np.abs(cosine) ** power, np.sign(sine) * np.abs(sine) ** power], 1)
    outline[:, 1] *= np.where(outline[:, 1] > 0, rng.uniform(0.86, 0.96), 1.0)  # the back is flatter
    outline *= 1 + 0.012 * np.cos(3 * t + rng.uniform(0, 6))[:, None] + 0.012 * np.cos(2 * t + rng.uniform(0, 6))[:, None]
    image.paint(outline * half, -20)
    image.paint(outline * (half - 2), FAT)
    fat = rng.uniform(0.05, 0.19) * b
    wall = half - np.array([fat, fat * rng.uniform(0.7, 1.1)])
    image.paint(outline * wall, 55)
    thickness = rng.uniform(9, 14)
    inner = wall - thickness
    image.paint(outline * inner, FAT + 5)
    ring = outline * (wall - 0.55 * thickness)
    radius = np.hypot(*ring.T)
    for side in (0.0, np.pi):
        for angle in np.arange(-0.9, 1.0, rng.uniform(0.26, 0.36)) + rng.uniform(-0.1, 0.1):
            at = int((side + angle) / (2 * np.pi) * len(t)) % len(t)
            tangent = ring[(at + 2) % len(t)] - ring[at - 2]
            if radius[at] > 0.2 * a:
                turn, length = np.arctan2(tangent[1], tangent[0]), rng.uniform(6, 12)
                image.paint(ellipse(*ring[at], length, 3.2, turn), 480)
                image.paint(ellipse(*ring[at], length - 2, 1.4, turn), 180)
    back = float(outline[:, 1].max() * wall[1])
    return inner, back, image.canvas.polygon(outline * wall)


def _spine(rng: np.random.Generator, image: Slice, back: float, enclosed: np.ndarray) -> float:
    """Muscles of the back, psoas and a vertebra whose spinous process ends just below the skin. Returns its centre's y."""
    size = rng.uniform(0.9, 1.08)
    y = back - rng.uniform(61, 66) * size
    for side in (-1, 1):
        for x, below, rx, ry, turn, hu in ((37, 35, 28, 20, 0.25, 58), (68, 27, 18, 12, 0.5, 52)):
            muscle = blob(rng, side * x * size, y + below * size, rx * size, ry * size, side * turn, 0.05)
            image.paint(image.canvas.polygon(muscle) & enclosed, hu)
        image.paint(blob(rng, side * 34 * size, y + 3 * size, 11 * size, 15 * size, side * -0.3, 0.05), 56, halo=2)  # psoas
    body = blob(rng, 0, y, 22 * size, 17.5 * size, 0, 0.02)
    arch = [
        spline([(-13, 13), (-18, 22), (-36, 26), (-37, 31), (-18, 31), (-6, 37), (-4, 60), (4, 60), (6, 37), (18, 31),
                (37, 31), (36, 26), (18, 22), (13, 13)], per_segment=6)
    ]  # fmt: skip
    arch_mm = arch[0] * size + (0, y)
    image.paint(arch_mm, 430, "spine")
    image.paint(grown(arch_mm, -1.8), 250, "spine")
    image.paint(body, 420, "spine")
    image.paint(grown(body, -1.6), 190, "spine")
    image.paint(ellipse(0, y + 24 * size, 9.5 * size, 7.5 * size), 25, "spine")
    image.paint(ellipse(0, y + 24 * size, 5 * size, 4 * size), 45, "spine")
    return y


def _organs(rng: np.random.Generator, image: Slice, inner: np.ndarray, spine_y: float, kidneys: bool, contrast: float) -> None:
    """Paints organs, the later over the earlier; ``inner`` are the half axes of the cavity (mm)."""

    def outline(points: list[tuple[float, float]], jitter: float = 0.03) -> np.ndarray:
        points = np.asarray(points) + rng.normal(0, jitter, (len(points), 2))
        radius = np.sqrt((np.abs(points) ** 2.3).sum(1))[:, None]
        return spline(points * np.minimum(1, 0.985 / radius) * inner)

    canvas = image.canvas
    x = np.linspace(-30, rng.uniform(45, 66), 12)
    bend = spine_y - 48 - 9 * np.sin(np.linspace(0.3, 2.6, 12)) - np.linspace(-4, rng.uniform(0, 16), 12)
    thick = np.interp(np.arange(12), [0, 1, 4, 11], [5, 12, 7.5, 4]) * rng.uniform(0.8, 1.1)  # head, neck, tail
    upper = np.stack([x, bend - thick * rng.uniform(0.8, 1.25, 12)], 1)
    lower = np.stack([x, bend + thick * rng.uniform(0.6, 1.1, 12)], 1)
    pancreas = spline(np.concatenate([upper, lower[::-1]]), per_segment=5)
    image.paint(pancreas, 40 + 50 * contrast, halo=2)
    if rng.random() < 0.75:
        _stomach(rng, image, inner, contrast)
    liver_hu = 55 + 55 * contrast + rng.normal(0, 5)
    if rng.random() < 0.95:
        reach = rng.uniform(-0.1, 0.2)
        liver = outline(
            [(-0.95, 0.05), (-0.88, -0.42), (-0.55, -0.76), (-0.1, -0.82), (0.15 + reach, -0.7), (0.08 + reach, -0.5),
             (-0.1, -0.3), (-0.16, -0.02), (-0.34, 0.16), (-0.5, rng.uniform(0.25, 0.5)), (-0.78, 0.48)]
        )  # fmt: skip
        mask = image.paint(liver, liver_hu, "liver", halo=1.5)
        vessels, widths = [], []
        for _ in range(rng.integers(4, 8)):
            start = np.array([-0.28, -0.15]) * inner + rng.normal(0, 8, 2)
            end = np.array([rng.uniform(-0.85, -0.05), rng.uniform(-0.7, 0.3)]) * inner
            middle = (start + end) / 2 + rng.normal(0, 9, 2)
            vessels.append(spline([start, middle, end], closed=False))
            widths.append(rng.uniform(2.0, 5.5))
            branch = middle + (end - start) * 0.35 + rng.normal(0, 14, 2)
            vessels.append(spline([middle, (middle + branch) / 2 + rng.normal(0, 3, 2), branch], closed=False))
            widths.append(rng.uniform(1.4, 3.0))
        image.hu += canvas.lines(vessels, widths) * mask * (-8 + 55 * contrast)
    if rng.random() < 0.87:
        low = rng.uniform(0.25, 0.5)
        spleen = outline(
            [(0.95, 0.12), (0.93, -0.25), (0.8, -0.48), (0.7, -0.36), (0.72, -0.05), (0.62, low - 0.2), (0.7, low), (0.86, low)]
        )
        image.paint(spleen, 50 + 70 * contrast + rng.normal(0, 5), "spleen", halo=1.5)
    if rng.random() < 0.4:
        at = np.array([-0.32, -0.36]) * inner + rng.normal(0, 5, 2)
        shape = blob(rng, *at, rng.uniform(9, 15), rng.uniform(15, 24), rng.uniform(-0.2, 0.8), 0.04)
        image.paint(grown(shape, 1.6), 50 + 30 * contrast)
        image.paint(shape, rng.uniform(2, 18), "gallbladder")
    image.paint(blob(rng, -20, spine_y - 29, rng.uniform(9, 14), rng.uniform(7, 11), 0.2, 0.05), 42 + 80 * contrast, halo=2)
    radius = rng.uniform(8.5, 13)
    aorta = blob(rng, rng.uniform(4, 16), spine_y - 19.5 - radius, radius, radius, 0, 0.015)
    image.paint(aorta, 42 + 140 * contrast + rng.normal(0, 6), "aorta", halo=2)
    if rng.random() < 0.4:
        image.paint(ellipse(aorta[:, 0].max() - 2.5, spine_y - 19.5 - radius, 1.4, 4), 700, "aorta")  # calcified wall
    if kidneys:
        for name, side in (("right kidney", -1), ("left kidney", 1)):
            if rng.random() < 0.94:
                at = np.array([side * max(60.0, rng.uniform(0.44, 0.52) * inner[0]), spine_y + rng.uniform(-8, 8)])
                _kidney(rng, image, at, side, name, contrast)


def _bowel(rng: np.random.Generator, image: Slice, inner: np.ndarray, low: bool) -> None:
    """Small bowel loops in front, colon in the flanks, both with gas that rises to the front (up)."""
    gas = []
    dots = (rng.uniform((-0.6, -0.7), (0.75, 0.3), (40, 2)) * inner)[:, None, :] + rng.normal(0, 3, (40, 2, 2))
    image.hu += image.canvas.lines(list(dots), rng.uniform(1.0, 2.6, 40)) * 110  # vessels in the mesenteric fat
    for _ in range(rng.integers(5, 10)):
        at = np.array([rng.uniform(-0.3, 0.72), rng.uniform(-0.62, 0.1)]) * inner
        loop = blob(rng, *at, rng.uniform(9, 18), rng.uniform(8, 13), rng.uniform(0, 3), 0.08)
        image.paint(loop, rng.uniform(20, 60), halo=1.5)
        image.paint(grown(loop, -2.5), rng.uniform(5, 40) if rng.random() < 0.8 else rng.uniform(120, 220))
        if rng.random() < 0.3:
            gas.append(blob(rng, at[0], loop[:, 1].min() + 7, rng.uniform(4, 9), rng.uniform(3, 4.5), 0, 0.06))
    if low:
        for side in (-1, 1):
            at = np.array([side * rng.uniform(0.76, 0.82), rng.uniform(-0.2, 0.12)]) * inner
            colon = blob(rng, *at, rng.uniform(13, 18), rng.uniform(15, 22), 0, 0.06)
            image.paint(colon, 45, halo=2)
            content = image.paint(grown(colon, -2), 20)
            stool = smooth_noise(rng, image.canvas.shape, 5)
            image.hu[content] += (stool * 40 - np.where(stool > 0.9, 500, 0))[content]
            if rng.random() < 0.8:
                gas.append(blob(rng, at[0], colon[:, 1].min() + 9, rng.uniform(6, 10), rng.uniform(4, 7), 0, 0.06))
    for shape in gas:
        image.paint(shape, -960)


def _stomach(rng: np.random.Generator, image: Slice, inner: np.ndarray, contrast: float) -> None:
    at = np.array([rng.uniform(0.34, 0.46), rng.uniform(-0.52, -0.42)]) * inner
    rx, ry = rng.uniform(0.24, 0.34) * inner[0], rng.uniform(0.24, 0.34) * inner[1]
    wall = blob(rng, *at, rx, ry, rng.uniform(-0.5, 0.3), 0.05, (2, 4))
    image.paint(wall, 50 + 35 * contrast, "stomach", halo=2)
    lumen = image.paint(
        grown(wall, -rng.uniform(3, 5)), rng.uniform(5, 45) if rng.random() < 0.7 else rng.uniform(150, 260), "stomach"
    )
    food = smooth_noise(rng, image.canvas.shape, 8)
    image.hu[lumen] += 14 * food[lumen]
    if rng.random() < 0.8:  # the air-fluid level of a patient on the back
        _, y = image.canvas.grid()
        bubble = lumen & (y < at[1] - ry * rng.uniform(0.1, 0.6))
        image.paint(bubble, -950, "stomach")


def _kidney(rng: np.random.Generator, image: Slice, at: np.ndarray, side: int, name: str, contrast: float) -> None:
    """A bean whose hilum looks to the middle and front: cortex, medulla, sinus fat and vessels."""
    rx, ry = rng.uniform(23, 29), rng.uniform(28, 36)
    tilt = side * rng.uniform(0.2, 0.6)
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    notch = 0.33 * np.exp(-0.5 * (((t - np.pi + np.pi) % (2 * np.pi) - np.pi) / 0.42) ** 2)  # at angle 0
    radius = 1 - notch + 0.02 * np.cos(3 * t + rng.uniform(0, 6))
    bean = np.stack([-side * rx * radius * np.cos(t), ry * radius * np.sin(t)], 1)

    def turn(points: np.ndarray) -> np.ndarray:
        return rotate(points, tilt) + at

    image.paint(turn(bean), 35 + 150 * contrast, name, halo=4)
    image.paint(turn(bean * 0.72), 33 + 95 * contrast, name)
    for angle in np.arange(0.9, 5.5, 0.75) + rng.uniform(-0.1, 0.1):  # columns of cortex between the pyramids
        line = turn(np.array([[-side * 0.4 * rx * np.cos(angle), 0.4 * ry * np.sin(angle)],
                              [-side * 0.8 * rx * np.cos(angle), 0.8 * ry * np.sin(angle)]]))  # fmt: skip
        image.hu += image.canvas.lines([line], [3]) * 45 * contrast * (image.labels == CLASS_IDS[name])
    sinus = blob(rng, -side * 0.38 * rx, 0, 0.42 * rx, 0.36 * ry, 0, 0.12, (3, 7))
    image.paint(turn(sinus), -60)
    vessel = turn(np.array([[-side * 0.2 * rx, 0], [-side * 1.25 * rx, rng.uniform(-3, 3)]]))
    cover = image.canvas.lines([vessel], [5]) > 0.5
    cover &= (image.labels == 0) & (image.hu < -20)
    image.hu[cover] = 40 + 90 * contrast


def _lesions(rng: np.random.Generator, image: Slice) -> int:
    """Liver lesions (dark, bright or with a rim) and kidney cysts. Returns how many were drawn."""
    canvas = image.canvas
    liver = image.labels == CLASS_IDS["liver"]
    base = float(np.median(image.hu[liver])) if liver.any() else 60.0
    done, kind = 0, rng.choice(["cystic", "metastasis", "bright"], p=[0.3, 0.5, 0.2])
    free = liver.copy()
    for _ in range(lesion_count(rng)):
        kidneys = np.isin(image.labels, [CLASS_IDS["right kidney"], CLASS_IDS["left kidney"]])
        if kidneys.any() and (rng.random() < 0.4 or not liver.any()):
            done += _kidney_cyst(rng, image, kidneys)
            continue
        rough = 0.03 if kind == "cystic" else 0.09
        placed = place(rng, canvas, free, rng.uniform(5, 22), rng.uniform(0.75, 1), rough=rough)
        if placed:
            shape, mask = placed
            choices = {
                "cystic": rng.uniform(-2, 15),
                "metastasis": base - rng.uniform(30, 50),
                "bright": base + rng.uniform(35, 60),
            }
            image.paint(shape, choices[kind], "liver lesion")
            if kind == "metastasis" and rng.random() < 0.6:  # a dead core
                core = canvas.polygon(grown(shape, -0.3 * float(np.ptp(shape[:, 0])) / 2))
                image.hu[core & mask] = choices[kind] - 18
            free &= ~canvas.polygon(grown(shape, 4 + 2 * canvas.spacing))
            done += 1
    return done


def _kidney_cyst(rng: np.random.Generator, image: Slice, kidneys: np.ndarray) -> int:
    """A round water-like cyst on the outer edge of a kidney, growing into the fat, never into bone or another organ."""
    allowed = kidneys | ((image.labels == 0) & (image.hu < -20) & (image.hu > -300))
    rows, columns = np.nonzero(kidneys)
    for _ in range(25):
        pick = rng.integers(0, rows.size)
        x = (columns[pick] + 0.5 - image.canvas.origin[0]) * image.canvas.spacing
        y = (rows[pick] + 0.5 - image.canvas.origin[1]) * image.canvas.spacing
        r = rng.uniform(6, 18)
        shape = blob(rng, x, y, r, r * rng.uniform(0.88, 1), 0, 0.015)
        mask = image.canvas.polygon(shape)
        left = kidneys & ~mask
        if mask.sum() >= 12 and not np.any(mask & ~allowed) and left.sum() > 0.55 * kidneys.sum():
            image.paint(shape, rng.uniform(0, 14), "kidney cyst")
            return 1
    return 0
