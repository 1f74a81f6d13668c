"""Pictures of answers: the image with outlines and labels, and the panel *image | prompt | result*.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which people with any colour vision tell apart; positive
and negative points differ in shape too. These pictures are for looking at; exact masks are in the mask files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ..postprocessing.masks import box_of_mask
from ..preprocessing.prompts import NEGATIVE, Prompt
from .annotate import INK, WHITE, Colour, Label, draw_labels, font, shorten, text_width, wrap

#: In the order of the findings: orange, sky blue, bluish green, yellow, vermilion, reddish purple, blue.
OKABE_ITO: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
_GREY = (170, 170, 176)
_PROMPT, _POSITIVE, _NEGATIVE = OKABE_ITO[1], OKABE_ITO[2], OKABE_ITO[4]
#: The longer side of an overlay in pixels is brought into this range.
SMALLEST, LARGEST = 512, 1600
_PAPER, _SOFT = (24, 25, 29), (200, 201, 206)
_GROUNDED = re.compile(r"<p>(.*?)</p>\s*(?:<seg\d*>)*|</?p>|<seg\d*>", re.DOTALL)


class FindingLike(Protocol):
    """The fields of a ``Finding`` that are drawn."""

    @property
    def phrase(self) -> str: ...
    @property
    def mask(self) -> np.ndarray: ...
    @property
    def score(self) -> float: ...
    @property
    def present(self) -> bool: ...
    @property
    def confident(self) -> bool: ...
    @property
    def inner(self) -> np.ndarray | None: ...
    @property
    def outer(self) -> np.ndarray | None: ...
    @property
    def coverage(self) -> float | None: ...


class AnswerLike(Protocol):
    """The fields of an ``Answer`` that are drawn."""

    @property
    def text(self) -> str | None: ...
    @property
    def findings(self) -> Sequence[FindingLike]: ...


def draw_overlay(
    pixels: np.ndarray, findings: AnswerLike | Iterable[FindingLike], *, smallest: int = SMALLEST, largest: int = LARGEST
) -> Image.Image:
    """The image with an outline, a translucent fill and a label "phrase score" for every finding.

    Args:
        pixels: uint8 ``[H, W, 3]``.
        findings: an ``Answer``, or any number of ``Finding`` (objects with ``phrase``, ``mask``, ``score``, ``present``,
            ``confident``, ``inner``, ``outer``, ``coverage``). One that is not present becomes a note in the lower left
            corner. One that is not confident has a dashed outline, a weaker fill, and "uncertain" in its label. The outer
            contour is a thin line, the inner one a thin dashed line; a note in the lower left corner names them.
        smallest, largest: range for the longer side of the picture; smaller images are enlarged by a whole factor.

    Returns:
        RGB. Higher than the image where not all labels fit into it.
    """
    findings = _listed(findings)
    height, width = pixels.shape[:2]
    longer = max(height, width)
    factor = math.ceil(smallest / longer) if longer < smallest else min(1.0, largest / longer)
    return _overlay(pixels, findings, factor)


def draw_panel(pixels: np.ndarray, prompt: Prompt, answer: AnswerLike, *, side: int = 512) -> Image.Image:
    """Image, prompt and result side by side, with titles, the question and the answer below.

    Args:
        pixels: uint8 ``[H, W, 3]``.
        prompt: the request.
        answer: the ``Answer`` to it (``text`` and ``findings`` are used).
        side: longer side of each of the three pictures in pixels.
    """
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    findings = _listed(answer)
    pictures = (_resized(pixels, factor), _draw_prompt(pixels, prompt, factor), _overlay(pixels, findings, factor))
    column = max(side // 2, *(p.width for p in pictures))
    size, small = max(15, side // 28), max(12, side // 34)
    captions = (
        [[(f"{width} x {height} pixels", _SOFT)]],
        _asked(prompt, small, column),
        _answered(answer, findings, small, column),
    )
    gap, line = size, round(1.45 * small)
    top = round(2.2 * size)
    middle = max(p.height for p in pictures)
    bottom = max(len(c) for c in captions) * line + gap
    panel = Image.new("RGB", (3 * column + 4 * gap, top + middle + gap // 2 + bottom), _PAPER)
    draw = ImageDraw.Draw(panel)
    for k, (title, picture, caption) in enumerate(zip(("Image", "Prompt", "Result"), pictures, captions, strict=True)):
        x = gap + k * (column + gap)
        draw.text((x, top / 2), title, WHITE, font(size), anchor="lm")
        panel.paste(picture, (x + (column - picture.width) // 2, top))
        for row, words in enumerate(caption):
            left, y = float(x), top + middle + gap // 2 + (row + 0.5) * line
            for word, colour in words:
                draw.text((left, y), word, colour, font(small), anchor="lm")
                left += font(small).getlength(word)
    return panel


# -- findings --------------------------------------------------------------------------------------------------------


def _listed(findings: AnswerLike | Iterable[FindingLike]) -> list[FindingLike]:
    return list(findings if isinstance(findings, Iterable) else findings.findings)


def _overlay(pixels: np.ndarray, findings: Sequence[FindingLike], factor: float) -> Image.Image:
    image = _resized(pixels, factor)
    thickness = max(2, round(max(image.size) / 256))
    masks = [_resized_mask(f.mask, image.size) if f.present else None for f in findings]
    colours = [OKABE_ITO[k % len(OKABE_ITO)] for k in range(len(findings))]
    shown = [(k, mask) for k, mask in enumerate(masks) if mask is not None and mask.any()]
    for k, mask in sorted(shown, key=lambda item: -int(item[1].sum())):  # small ones on top
        if findings[k].confident:
            paint_mask(image, mask, colours[k], thickness)
        else:
            paint_mask(image, mask, colours[k], thickness, fill=0.12, dashed=True)
    for k, _ in shown:
        _paint_contours(image, findings[k], colours[k], max(1, thickness // 2))
    labels = [
        Label(f"{finding.phrase} {finding.score:.2f}" + ("" if finding.confident else " uncertain"), colours[k], masks[k])
        if finding.present
        else Label(f"{finding.phrase}: not found", _GREY, None)
        for k, finding in enumerate(findings)
    ]
    labels += [Label(note, _GREY, None) for note in _contour_notes([findings[k] for k, _ in shown])]
    size = int(np.clip(max(image.size) / 38, 14, 36))
    return draw_labels(image, labels, size)


def _paint_contours(image: Image.Image, finding: FindingLike, colour: Colour, thickness: int) -> None:
    """Draw the outer contour of a finding as a thin line and the inner one as a thin dashed line, where it has them."""
    for contour, dashed in ((finding.outer, False), (finding.inner, True)):
        if contour is not None:
            paint_mask(image, _resized_mask(contour, image.size), colour, thickness, fill=0.0, dashed=dashed)


def _contour_notes(findings: Sequence[FindingLike]) -> list[str]:
    """What the thin lines are; nothing without any."""
    rates = sorted({finding.coverage for finding in findings if finding.coverage is not None})
    return [f"thin lines: outer, inner (dashed) contour, {100 * rate:.3g} % coverage" for rate in rates]


def paint_mask(
    image: Image.Image, mask: np.ndarray, colour: Colour, thickness: int, fill: float = 0.28, dashed: bool = False
) -> None:
    """Fill and outline a mask in place: colour inside the edge, and a thin dark line outside, which shows on bright images.

    Args:
        mask: bool ``[H, W]`` of the size of ``image``; an empty one leaves ``image`` as it is.
        thickness: of the outline, in pixels.
        fill: opacity of the inside.
        dashed: leave gaps in the outline.
    """
    box = box_of_mask(mask)
    if box is None:
        return
    pad = thickness + 3
    left, top = max(0, box[0] - pad), max(0, box[1] - pad)
    # Padding with zeros closes the outline along the border of the image.
    inside = np.pad(mask[top : box[3] + pad, left : box[2] + pad], pad)
    edge = inside & ~_eroded(inside, thickness)
    shadow = ~inside & ~_eroded(~inside, max(1, thickness // 2))
    if dashed:
        dashes = _dashes(inside, thickness)
        edge, shadow = edge & dashes, shadow & dashes
    for area, paint, weight in ((inside, colour, fill), (shadow, INK, 0.7), (edge, colour, 1.0)):
        opacity = Image.fromarray(area.astype(np.uint8) * np.uint8(255 * weight))
        if area is not inside:  # lines a little soft, so that steps of one pixel do not show
            opacity = opacity.filter(ImageFilter.GaussianBlur(0.7))
        opacity = opacity.crop((pad, pad, opacity.width - pad, opacity.height - pad))
        image.paste(paint, (left, top), opacity)


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """Take ``steps`` pixels off the edge, alternating between 4 and 8 neighbours, which together make an octagon."""
    for step in range(steps):
        smaller = mask.copy()
        smaller[:, 1:] &= mask[:, :-1]
        smaller[:, :-1] &= mask[:, 1:]
        across = smaller if step % 2 else mask
        smaller[1:] &= across[:-1]
        smaller[:-1] &= across[1:]
        mask = smaller
    return mask


def _dashes(mask: np.ndarray, thickness: int) -> np.ndarray:
    """Where a dashed outline of ``mask`` is drawn: about three fifths of its length, as bool ``[H, W]``."""
    canvas = Image.new("1", mask.shape[::-1])
    draw = ImageDraw.Draw(canvas)
    for outline in _outlines(mask):
        # A whole number of periods, so that the last dash does not run into the first.
        period = len(outline) / max(2, round(len(outline) / (7 * thickness)))
        for k in range(round(len(outline) / period)):
            dash = outline[round(k * period) : round((k + 0.6) * period)]
            if len(dash) > 1:
                draw.line(dash, 1, 2 * thickness + 2)
    return np.asarray(canvas)


def _outlines(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The closed lines between ``mask`` and its surroundings, as corners of pixels ``(x, y)``, one step apart each.

    The mask must not touch the border.
    """
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Clockwise around the mask: along the upper, right, lower, left side of its pixels, where the neighbour is outside.
    sides = (((0, -1), (0, 0), (1, 0)), ((1, 0), (1, 0), (1, 1)), ((0, 1), (1, 1), (0, 1)), ((-1, 0), (0, 1), (0, 0)))
    for (over_x, over_y), (from_x, from_y), (to_x, to_y) in sides:
        open_side = mask & ~np.roll(mask, (-over_y, -over_x), (0, 1))
        for y, x in np.argwhere(open_side).tolist():
            following.setdefault((x + from_x, y + from_y), []).append((x + to_x, y + to_y))
    outlines = []
    while following:
        corner, line = next(iter(following)), []
        while corner in following:  # as many lines leave a corner as enter it, so this ends where it began
            line.append(corner)
            ends = following[corner]
            if len(ends) == 1:
                del following[corner]
            corner = ends.pop()
        outlines.append(line)
    return outlines


# -- prompts ---------------------------------------------------------------------------------------------------------


def _draw_prompt(pixels: np.ndarray, prompt: Prompt, factor: float) -> Image.Image:
    image = _resized(pixels, factor)
    scale_x, scale_y = image.width / pixels.shape[1], image.height / pixels.shape[0]
    thickness = max(2, round(max(image.size) / 256))
    if prompt.mask is not None:
        mask = _resized_mask(prompt.mask, image.size)
        if mask.any():
            paint_mask(image, mask, OKABE_ITO[5], thickness, fill=0.35)
    draw = ImageDraw.Draw(image)
    for x0, y0, x1, y1 in prompt.boxes:
        # Edges lie between pixels; the last one is the first beyond the box.
        left, top = round(x0 * scale_x), round(y0 * scale_y)
        corners = (left, top, max(left + 1, round(x1 * scale_x) - 1), max(top + 1, round(y1 * scale_y) - 1))
        outer = (corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1)
        draw.rectangle(outer, outline=INK, width=thickness + 2)
        draw.rectangle(corners, outline=_PROMPT, width=thickness)
    radius = max(7, round(max(image.size) / 60))
    for x, y, label in prompt.points:
        _draw_point(draw, (x + 0.5) * scale_x, (y + 0.5) * scale_y, radius, label == NEGATIVE)
    return image


def _draw_point(draw: ImageDraw.ImageDraw, x: float, y: float, radius: int, negative: bool) -> None:
    """A disc with a plus, or a square with a minus."""
    shape = draw.rectangle if negative else draw.ellipse
    shape((x - radius, y - radius, x + radius, y + radius), _NEGATIVE if negative else _POSITIVE, WHITE, max(1, radius // 5))
    arm, bar = radius * 0.5, max(2, radius // 4)
    draw.line((x - arm, y, x + arm, y), WHITE, bar)
    if not negative:
        draw.line((x, y - arm, x, y + arm), WHITE, bar)


# -- captions: lines of (word, colour) -------------------------------------------------------------------------------

_Line = list[tuple[str, Colour]]


def _asked(prompt: Prompt, size: int, width: int) -> list[_Line]:
    lines: list[_Line] = []
    if prompt.text.strip():
        lines += [[(line, WHITE)] for line in wrap(f'"{" ".join(prompt.text.split())}"', size, width)]
    negative = sum(label == NEGATIVE for *_, label in prompt.points)
    positive = len(prompt.points) - negative
    counts = (
        (len(prompt.boxes), "box", "boxes"),
        (positive, "point", "points"),
        (negative, "negative point", "negative points"),
    )
    prompts = [f"{n} {many if n > 1 else one}" for n, one, many in counts if n] + ["mask"] * (prompt.mask is not None)
    return lines + [[(line, _SOFT)] for line in wrap(", ".join(prompts), size, width)]


def _answered(answer: AnswerLike, findings: Sequence[FindingLike], size: int, width: int) -> list[_Line]:
    """The answer's sentence, its grounded phrases in the colours of their masks."""
    words: list[tuple[str, Colour]] = []
    text, end = getattr(answer, "text", "") or "", 0
    for match in _GROUNDED.finditer(text):
        words += [(word, WHITE) for word in text[end : match.start()].split()]
        phrase = " ".join((match[1] or "").split())
        known = next((k for k, f in enumerate(findings) if f.phrase == phrase and f.present), None)
        words += [(word, WHITE if known is None else _text_colour(known)) for word in phrase.split()]
        end = match.end()
    words += [(word, WHITE) for word in text[end:].split()]
    return _lines(words, size, width)


def _text_colour(finding: int) -> Colour:
    """A finding's colour, lighter where it would be too dark for text on the panel's paper."""
    colour = OKABE_ITO[finding % len(OKABE_ITO)]
    lighter = max(0.0, 0.55 - (0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]) / 255)
    red, green, blue = (round(c + lighter * (255 - c)) for c in colour)
    return red, green, blue


def _lines(words: Sequence[tuple[str, Colour]], size: int, width: int) -> list[_Line]:
    """Words to lines, each with the space after it. Commas and full stops, which follow the markup, stay with their words."""
    lines: list[_Line] = []
    for word, colour in words:
        word = shorten(word, size, width)
        last = lines[-1] if lines else None
        if last and word[0] in ",.;:!?":
            last[-1] = (last[-1][0].rstrip(), last[-1][1])
            last.append((word + " ", colour))
        elif last and text_width("".join(w for w, _ in last) + word, size) <= width:
            last.append((word + " ", colour))
        else:
            lines.append([(word + " ", colour)])
    return lines


# -- sizes -----------------------------------------------------------------------------------------------------------


def _resized(pixels: np.ndarray, factor: float) -> Image.Image:
    height, width = pixels.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX)


def _resized_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at another size, its outline smoothed; no mask vanishes by shrinking."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    image = image.resize(size, Image.Resampling.BILINEAR)
    factor = size[0] / mask.shape[1]
    values = np.asarray(image.filter(ImageFilter.GaussianBlur(0.4 * factor)) if factor > 1.5 else image)
    return values >= 128 if (values >= 128).any() or not values.any() else values == values.max()
