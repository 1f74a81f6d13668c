"""Pictures of a result: a frame with the outlines of its structures, their measurements, and the mark of research use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ..imageio.image import ScanImage
from ..viz.annotate import font
from ..viz.overlay import draw_overlay
from .measurements import measure
from .study import Structure, StudyResult

#: The mark at the bottom of every picture.
RESEARCH_USE = "AI result. Research use only, not for diagnosis. Not verified by a person."
_SHOWN = ("area", "long axis", "short axis", "volume")


@dataclass(frozen=True)
class _Shown:
    """A structure in one frame, as the overlay draws it."""

    phrase: str
    mask: np.ndarray
    score: float
    confident: bool
    inner: np.ndarray | None
    outer: np.ndarray | None
    coverage: float | None
    present: bool = True


def draw_frame(result: StudyResult, frame: int, image: ScanImage, *, measures: bool = True) -> Image.Image:
    """The picture of a frame with the outlines of its structures, their measurements below, and the mark of research use.

    Args:
        image: the frame's.
        measures: write measurements below the picture.
    """
    shown = [s for s in result.structures if frame in s.masks]
    picture = draw_overlay(image.pixels, [_drawn(structure, frame) for structure in shown])
    lines = []
    for structure in shown if measures else ():
        if structure.largest_frame == frame:
            measured = [m for m in measure(result, structure) if m.name in _SHOWN]
            lines += [f"{structure.tracking_id}: " + ", ".join(str(m) for m in measured)]
    return _captioned(picture, [*lines, RESEARCH_USE])


def _drawn(structure: Structure, frame: int) -> _Shown:
    inner, outer = structure.inner.get(frame), structure.outer.get(frame)
    return _Shown(
        structure.name, structure.masks[frame], structure.score, structure.confident, inner, outer, structure.coverage
    )  # fmt: skip


def _captioned(picture: Image.Image, lines: list[str]) -> Image.Image:
    size = max(12, picture.width // 48)
    letters = font(size)
    wrapped = [part for line in lines for part in _wrapped(line, letters, picture.width - 2 * size)]
    height = round(1.4 * size) * len(wrapped) + size
    result = Image.new("RGB", (picture.width, picture.height + height))
    result.paste(picture, (0, 0))
    draw = ImageDraw.Draw(result)
    for number, line in enumerate(wrapped):
        draw.text((size, picture.height + size // 2 + round(1.4 * size) * number), line, font=letters, fill=(235, 235, 235))
    return result


def _wrapped(text: str, letters: object, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and letters.getlength(longer) > width:  # type: ignore[attr-defined]
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
