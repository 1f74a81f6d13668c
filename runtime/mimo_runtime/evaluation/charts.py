"""Line charts with nothing but Pillow, drawn larger and scaled down, so that lines are smooth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

from ..viz.annotate import Colour, font
from ..viz.overlay import OKABE_ITO

#: Okabe and Ito's colours for lines on white, the ones that are dark enough.
COLOURS: tuple[Colour, ...] = (OKABE_ITO[6], OKABE_ITO[4], OKABE_ITO[2], OKABE_ITO[5], OKABE_ITO[0], OKABE_ITO[1])
BLACK: Colour = (34, 34, 34)
GREY: Colour = (150, 150, 150)
_PAPER, _GRID = (255, 255, 255), (228, 228, 230)
#: Everything is drawn this many times larger.
_SCALE = 3


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        name: in the legend; "" leaves it out.
        points: ``(x, y)`` in the units of the axes. A single one is drawn as its dot.
        width: in pixels.
        dots: radius in pixels of a disc at every point; empty draws none.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: Colour
    width: float = 2.0
    dots: Sequence[float] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``, with a tick and a line of the grid every ``step``."""

    title: str
    low: float
    high: float
    step: float

    def ticks(self) -> list[float]:
        return [self.low + k * self.step for k in range(round((self.high - self.low) / self.step) + 1)]


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line], size: tuple[int, int] = (720, 480)) -> Image.Image:
    """A chart of ``size`` pixels, RGB. Lines later in the list lie on top; the legend is to the right of the axes."""
    named = [line for line in lines if line.name]
    legend = max((font(13).getlength(line.name) for line in named), default=-60) + 60
    left, top, right, bottom = 64, 44, size[0] - 20 - legend, size[1] - 56

    def at(point: tuple[float, float]) -> tuple[float, float]:
        across, up = (point[0] - x.low) / (x.high - x.low), (point[1] - y.low) / (y.high - y.low)
        return _SCALE * (left + across * (right - left)), _SCALE * (bottom - up * (bottom - top))

    canvas = Image.new("RGB", (size[0] * _SCALE, size[1] * _SCALE), _PAPER)
    draw = ImageDraw.Draw(canvas)

    def write(place: tuple[float, float], text: str, points: int, anchor: str, colour: Colour = BLACK) -> None:
        draw.text((place[0] * _SCALE, place[1] * _SCALE), text, colour, font(points * _SCALE), anchor=anchor)

    write((left, 24), title, 16, "lm")
    for value in x.ticks():
        place = at((value, y.low))
        draw.line((place, at((value, y.high))), _GRID, _SCALE)
        write((place[0] / _SCALE, bottom + 8), f"{value:.10g}", 12, "mt")
    for value in y.ticks():
        place = at((x.low, value))
        draw.line((place, at((x.high, value))), _GRID, _SCALE)
        write((left - 8, place[1] / _SCALE), f"{value:.10g}", 12, "rm")
    draw.line((at((x.low, y.high)), at((x.low, y.low)), at((x.high, y.low))), BLACK, _SCALE)
    write(((left + right) / 2, size[1] - 16), x.title, 13, "mm")
    _write_upwards(canvas, y.title, (18 * _SCALE, _SCALE * (top + bottom) // 2))
    for line in lines:
        _draw_line(draw, [at(point) for point in line.points], line)
    for k, line in enumerate(named):
        here = top + 12 + 22 * k
        if len(line.points) > 1:
            ends = [((right + 16) * _SCALE, here * _SCALE), ((right + 44) * _SCALE, here * _SCALE)]
            _draw_line(draw, ends, replace(line, dots=()))
        if line.dots:
            _draw_line(draw, [((right + 30) * _SCALE, here * _SCALE)], replace(line, dots=(min(6.0, max(line.dots)),)))
        write((right + 52, here), line.name, 13, "lm")
    return canvas.resize(size, Image.Resampling.LANCZOS)


def _draw_line(draw: ImageDraw.ImageDraw, places: Sequence[tuple[float, float]], line: Line) -> None:
    width = round(line.width * _SCALE)
    for start, end in zip(places, places[1:]):
        if not line.dashed:
            # Discs at the joints: Pillow leaves a notch where thick lines meet at an angle.
            draw.line((start, end), line.colour, width)
            _disc(draw, end, width / 2, line.colour)
            continue
        length = ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5
        steps = max(1, round(length / (5 * _SCALE)))
        along = [tuple(a + k / steps * (b - a) for a, b in zip(start, end)) for k in range(steps + 1)]
        for k in range(0, steps, 2):
            draw.line((*along[k], *along[k + 1]), line.colour, width)
    for place, radius in zip(places, line.dots):
        _disc(draw, place, (radius + 1.5) * _SCALE, _PAPER)
        _disc(draw, place, radius * _SCALE, line.colour)


def _disc(draw: ImageDraw.ImageDraw, place: tuple[float, float], radius: float, colour: Colour) -> None:
    draw.ellipse((place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius), colour)


def _write_upwards(canvas: Image.Image, text: str, centre: tuple[int, int]) -> None:
    letters = font(13 * _SCALE)
    plate = Image.new("RGB", (round(letters.getlength(text)) + 2, 20 * _SCALE), _PAPER)
    ImageDraw.Draw(plate).text((1, plate.height / 2), text, BLACK, letters, anchor="lm")
    plate = plate.transpose(Image.Transpose.ROTATE_90)
    canvas.paste(plate, (centre[0] - plate.width // 2, centre[1] - plate.height // 2))
