"""Text on pictures: labels that can be read on any background, lie inside the picture and never on top of each other."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..postprocessing.masks import box_of_mask

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom

WHITE, INK = (255, 255, 255), (12, 12, 14)
#: Pixels of a target that represent it in the search for the nearest place of a label.
_SAMPLES = 200


@dataclass(frozen=True)
class Label:
    """A text to place.

    Args:
        text: one line.
        colour: of its frame and of the line that leads to its target.
        target: bool ``[H, W]``, what it names, or None: then it goes to the lower left corner.
    """

    text: str
    colour: Colour
    target: np.ndarray | None


@functools.lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    return math.ceil(font(size).getlength(text))


def shorten(text: str, size: int, width: int) -> str:
    """The text in one line of at most ``width`` pixels, with an ellipsis where it is cut."""
    text = " ".join(text.split())
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def wrap(text: str, size: int, width: int) -> list[str]:
    """Break a text into lines of at most ``width`` pixels, at spaces where there are any."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
            continue
        while text_width(word, size) > width and len(word) > 1:
            cut = max(1, next((k for k in range(1, len(word)) if text_width(word[: k + 1], size) > width), len(word)))
            lines.append(word[:cut])
            word = word[cut:]
        lines.append(word)
    return lines


def draw_labels(image: Image.Image, labels: Sequence[Label], size: int) -> Image.Image:
    """Draw labels next to what they name; those for which there is no room go into a strip below the picture.

    Args:
        image: RGB; not changed.
        size: of the font, in pixels.

    Returns:
        RGB, at least as large as ``image``, which fills its upper left part.
    """
    width, height = image.size
    taken: list[Rectangle] = []
    placed: list[tuple[Label, str, Rectangle]] = []
    homeless: list[tuple[Label, str]] = []
    # Covering a share of a target costs as much as covering so many pixels of a large one: a small one must not vanish.
    busy = np.zeros((height, width), np.float32)
    for label in labels:
        if label.target is not None and label.target.any():
            extent = math.prod(_size_of(label.text, size))
            np.maximum(busy, label.target * np.float32(max(1.0, extent / label.target.sum())), out=busy)
    sums = np.pad(busy.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    # Small targets first: their labels have fewer good places.
    for label in sorted(labels, key=lambda label: -1 if label.target is None else int(label.target.sum())):
        text = shorten(label.text, size, max(8 * size, width - 2 * size))
        rectangle = _place(label.target, _size_of(text, size), width, height, taken, sums)
        if rectangle is None:
            homeless.append((label, text))
        else:
            taken.append(rectangle)
            placed.append((label, text, rectangle))
    canvas = image.copy()
    for label, _, rectangle in placed:
        if label.target is not None:
            _draw_leader(canvas, label, rectangle, size)
    for label, text, rectangle in placed:
        _draw_label(canvas, text, label.colour, rectangle, size)
    return _with_strip(canvas, homeless, size) if homeless else canvas


def draw_caption(image: Image.Image, text: str, colour: Colour, size: int) -> None:
    """Draw a label into the lower left corner, in place; nothing where the image is too small for it.

    Args:
        text: one line; it is shortened where it is too long.
        size: of the font, in pixels.
    """
    margin, room = max(2, size // 5), image.width - size
    height = _size_of("", size)[1]
    if room < 3 * size or image.height < 2 * height:
        return
    text = shorten(text, size, room - 2 * margin)
    width = _size_of(text, size)[0]
    bottom = image.height - margin
    _draw_label(image, text, colour, (margin, bottom - height, margin + width, bottom), size)


# -- placing ---------------------------------------------------------------------------------------------------------


def _size_of(text: str, size: int) -> tuple[int, int]:
    return text_width(text, size) + size, round(1.5 * size)


def _place(
    target: np.ndarray | None,
    extent: tuple[int, int],
    width: int,
    height: int,
    taken: Sequence[Rectangle],
    sums: np.ndarray,
) -> Rectangle | None:
    """The free place that is nearest to the target and covers least of all targets, or None."""
    w, h = extent
    margin = max(2, h // 8)
    if w + 2 * margin > width or h + 2 * margin > height:
        return None
    step = max(4, h // 3)
    box = None if target is None else box_of_mask(target)
    xs, ys = np.arange(margin, width - w - margin + 1, step), np.arange(margin, height - h - margin + 1, step)
    if box is not None:  # the natural places: flush with the sides of the target, above, below and beside it
        x0, y0, x1, y1 = box
        natural_x = np.array([x0, x1 - w, (x0 + x1 - w) // 2, x1 + margin, x0 - w - margin])
        natural_y = np.array([y0 - h - margin, y1 + margin, (y0 + y1 - h) // 2, y0, y1 - h])
        xs = np.concatenate([natural_x.clip(margin, width - w - margin), xs])
        ys = np.concatenate([natural_y.clip(margin, height - h - margin), ys])
    else:
        ys = np.append(ys, height - h - margin)
    left, top = (grid.reshape(-1) for grid in np.meshgrid(xs, ys))
    free = np.ones(len(left), bool)
    for a, b, c, d in taken:
        free &= (left >= c + 2) | (left + w + 2 <= a) | (top >= d + 2) | (top + h + 2 <= b)
    if not free.any():
        return None
    left, top = left[free], top[free]
    right, bottom = left + w, top + h
    covered = (sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]) / (w * h)
    if box is None or target is None:
        away = left + (height - bottom).astype(float)
    else:
        # To the nearest of some pixels of the target, which may have many parts.
        rows, columns = _pixels(target)
        some = np.linspace(0, rows.size - 1, min(rows.size, _SAMPLES)).astype(int)
        x, y = columns[some, None], rows[some, None]
        gap_x = np.maximum(0, np.maximum(x - right, left - x))
        gap_y = np.maximum(0, np.maximum(y - bottom, top - y))
        off_centre = np.abs(left + right - box[0] - box[2]) / 2
        # Above or below reads better than beside, so a sideways gap costs a little more.
        away = (1.3 * gap_x + gap_y).min(axis=0) + 0.05 * off_centre
    best = int(np.argmin(away + 6 * h * covered))
    return int(left[best]), int(top[best]), int(right[best]), int(bottom[best])


def _pixels(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the mask's pixels; in large pictures only of some."""
    step = max(1, min(mask.shape) // 512)
    rows, columns = np.nonzero(mask[::step, ::step])
    if not rows.size:
        rows, columns = np.nonzero(mask)
        return rows, columns
    return rows * step, columns * step


# -- drawing ---------------------------------------------------------------------------------------------------------


def _draw_label(canvas: Image.Image, text: str, colour: Colour, rectangle: Rectangle, size: int) -> None:
    left, top, right, bottom = rectangle
    plate = Image.new("RGB", (right - left, bottom - top), INK)
    under = canvas.crop(rectangle)
    canvas.paste(Image.blend(under, plate, 0.82), (left, top))
    draw = ImageDraw.Draw(canvas)
    bar = max(3, size // 4)
    draw.rectangle((left, top, left + bar - 1, bottom - 1), fill=colour)
    # Centred on the height of capitals, not on each text's own extent: neighbouring labels share a baseline.
    draw.text((left + bar + (size - bar) // 2, (top + bottom) / 2), text, WHITE, font(size), anchor="lm")


def _draw_leader(canvas: Image.Image, label: Label, rectangle: Rectangle, size: int) -> None:
    """A line from a label to the nearest pixel of its target, if the two lie apart."""
    if label.target is None:
        return
    rows, columns = _pixels(label.target)
    if not rows.size:
        return
    near_x = np.clip(columns, rectangle[0], rectangle[2] - 1)
    near_y = np.clip(rows, rectangle[1], rectangle[3] - 1)
    distance = (near_x - columns) ** 2 + (near_y - rows) ** 2
    k = int(distance.argmin())
    if distance[k] <= (0.75 * size) ** 2:
        return
    # Some way into the target, so that the end is not lost in the outline.
    end = (int(columns[k]), int(rows[k]))
    start = (int(near_x[k]), int(near_y[k]))
    thickness = max(2, size // 7)
    draw = ImageDraw.Draw(canvas)
    draw.line((start, end), INK, thickness + 2)
    draw.line((start, end), label.colour, thickness)


def _with_strip(canvas: Image.Image, labels: Sequence[tuple[Label, str]], size: int) -> Image.Image:
    gap = max(3, size // 4)
    extents = [_size_of(text, size) for _, text in labels]
    width = max(canvas.width, *(w + 2 * gap for w, _ in extents))
    places: list[Rectangle] = []
    x, y = gap, canvas.height + gap
    for w, h in extents:
        if x > gap and x + w + gap > width:
            x, y = gap, y + h + gap
        places.append((x, y, x + w, y + h))
        x += w + gap
    taller = Image.new("RGB", (width, places[-1][3] + gap), INK)
    taller.paste(canvas)
    for (label, text), place in zip(labels, places, strict=True):
        _draw_label(taller, text, label.colour, place, size)
    return taller
