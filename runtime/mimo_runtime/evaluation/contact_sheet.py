"""The best, the median and the worst answers of a set side by side: the images behind the mean of a table.

Only the chosen few cases are opened again and asked the same question; before that, a case is a line of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ..data.dataset import Dataset
from ..data.prompt_sampling import mask_box
from ..viz.annotate import INK, WHITE, Colour, font, shorten
from ..viz.overlay import OKABE_ITO, paint_mask
from .questions import ImageQuestions, Outcome
from .summary import Overlap

if TYPE_CHECKING:
    from ..pipeline import Mimo

#: Prompts that a sheet shows, where they were asked.
PROMPTS = ("box", "text")
RANKS = ("best", "median", "worst")
#: Cases per prompt and rank.
COLUMNS = 3

_TRUTH, _ANSWER, _BOX = OKABE_ITO[1], OKABE_ITO[0], WHITE
_PAPER, _SOFT, _TILE = (24, 25, 29), (200, 201, 206), (12, 12, 14)
#: Side of a tile, height of its caption, distances, all in pixels.
_SIDE, _CAPTION, _GAP, _WIDE_GAP, _TOP, _LEFT = 232, 44, 12, 40, 92, 34
#: Side of the smallest part of an image that is shown, in its pixels.
_SMALLEST = 48


class Tile(NamedTuple):
    """One case, drawn."""

    picture: Image.Image
    zoom: float
    overlap: Overlap


def choose_cases(overlaps: Sequence[Overlap]) -> dict[str, list[Overlap]]:
    """Cases by rank: the highest Dice, those around the median, the lowest first; none twice, at most three each."""
    # Beyond Dice the order only has to be the same every time.
    ordered = sorted(overlaps, key=lambda row: (row.dice, row.image, row.class_name, row.number))
    count = min(COLUMNS, max(1, len(ordered) // len(RANKS)))
    rest, best = ordered[:-count], ordered[-count:]
    worst, rest = rest[:count], rest[count:]
    start = max(0, (len(rest) - count) // 2)
    return {"best": best[::-1], "median": rest[start : start + count][::-1], "worst": worst}


def contact_sheet(mimo: Mimo, data: Dataset, overlaps: Sequence[Overlap], seed: int) -> Image.Image | None:
    """The sheet of one set, RGB; None if neither of :data:`PROMPTS` was asked.

    Cases have numbers instead of names: a sheet may be shown to people who may not see whose images these are.

    Args:
        mimo: the model that was measured; asked again about the chosen cases.
        overlaps: of any sets and prompts, as ``accuracy.measure`` returns them.
        seed: the one that was measured with.
    """
    of_prompt = {p: [row for row in overlaps if row.set_name == data.name and row.prompt == p] for p in PROMPTS}
    of_prompt = {prompt: rows for prompt, rows in of_prompt.items() if rows}
    if not of_prompt:
        return None
    block = COLUMNS * _SIDE + (COLUMNS - 1) * _GAP
    width = _LEFT + len(of_prompt) * (block + _WIDE_GAP) - _WIDE_GAP + _GAP
    sheet = Image.new("RGB", (width, _TOP + len(RANKS) * (_SIDE + _CAPTION + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_LEFT, 26), data.name, WHITE, font(20), anchor="lm")
    _legend(draw, width - _GAP, 26)
    number = 0
    for column, (prompt, rows) in enumerate(of_prompt.items()):
        left = _LEFT + column * (block + _WIDE_GAP)
        message = f"prompt: {prompt}   mean Dice {np.mean([row.dice for row in rows]):.3f} of {len(rows)}"
        draw.text((left, 68), message, _SOFT, font(16), anchor="lm")
        for row, (rank, cases) in enumerate(choose_cases(rows).items()):
            top = _TOP + row * (_SIDE + _CAPTION + _GAP)
            if column == 0:
                _write_upwards(sheet, rank, (_LEFT // 2, top + _SIDE // 2))
            for k, tile in enumerate(_tiles(mimo, data, cases, seed)):
                number += 1
                x = left + k * (_SIDE + _GAP)
                sheet.paste(tile.picture, (x, top))
                _caption(draw, x, top + _SIDE, number, tile)
    return sheet


def _tiles(mimo: Mimo, data: Dataset, cases: Sequence[Overlap], seed: int) -> Iterator[Tile]:
    records = {data.key(record): record for record in data.records}
    for case in cases:
        run = ImageQuestions(mimo, data, records[case.image], seed)
        whole, parts = next((whole, parts) for name, whole, parts in run.targets() if name == case.class_name)
        truth = whole if case.prompt == "text" else parts[case.number]
        request = run.request(case.prompt, case.class_name, truth, case.number)
        answer = Outcome.of(run.ask(request), run.height, run.width)
        boxes = [box for box in request.get("boxes", ()) if case.prompt == "box"]
        left, top, right, bottom = _window(truth | answer.mask, boxes)
        shown = slice(top, bottom), slice(left, right)
        moved = [(x0 - left, y0 - top, x1 - left, y1 - top) for x0, y0, x1, y1 in boxes]
        zoom = max(run.height, run.width) / max(bottom - top, right - left)
        yield Tile(_draw(run.pixels[shown], truth[shown], answer.mask[shown], moved), zoom, case)


def _window(mask: np.ndarray, boxes: Sequence[Sequence[float]]) -> tuple[int, int, int, int]:
    """The part of the image to show: all of it, or the surroundings of what is small, as ``left, top, right, bottom``."""
    height, width = mask.shape
    edges = np.array([mask_box(mask), *boxes])
    (x0, y0), (x1, y1) = edges[:, :2].min(0), edges[:, 2:].max(0)
    side = max(_SMALLEST, math.ceil(3 * max(x1 - x0, y1 - y0)))
    if side > 0.6 * max(height, width):
        return 0, 0, width, height
    left = int(np.clip((x0 + x1 - side) / 2, 0, max(0, width - side)))
    top = int(np.clip((y0 + y1 - side) / 2, 0, max(0, height - side)))
    return left, top, min(width, left + side), min(height, top + side)


def _draw(pixels: np.ndarray, truth: np.ndarray, answer: np.ndarray, boxes: Sequence[Sequence[float]]) -> Image.Image:
    """Image, outlines and box in the middle of a tile."""
    factor = _SIDE / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor))
    # Outlines are drawn twice as large and scaled down, so that they are thin and smooth.
    large = (2 * size[0], 2 * size[1])
    picture = Image.fromarray(pixels).resize(large, Image.Resampling.BICUBIC)
    for mask, colour in ((truth, _TRUTH), (answer, _ANSWER)):
        scaled = np.asarray(Image.fromarray(mask).convert("L").resize(large, Image.Resampling.BILINEAR)) >= 128
        if scaled.any():
            paint_mask(picture, scaled, colour, 4, fill=0.0)
    for box in boxes:
        _dashed_box(ImageDraw.Draw(picture), [v * 2 * factor for v in box])
    tile = Image.new("RGB", (_SIDE, _SIDE), _TILE)
    tile.paste(picture.resize(size, Image.Resampling.LANCZOS), ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
    return tile


def _dashed_box(draw: ImageDraw.ImageDraw, box: Sequence[float]) -> None:
    x0, y0, x1, y1 = box
    for start, end in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x1, y1), (x0, y1)), ((x0, y1), (x0, y0))):
        length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
        steps = 2 * max(1, round(length / 16)) + 1  # odd: corners are always drawn
        along = [tuple(a + k / steps * (b - a) for a, b in zip(start, end)) for k in range(steps + 1)]
        for colour, width in ((INK, 5), (_BOX, 3)):
            for k in range(0, steps, 2):
                draw.line((*along[k], *along[k + 1]), colour, width)


def _caption(draw: ImageDraw.ImageDraw, x: int, y: int, number: int, tile: Tile) -> None:
    case = tile.overlap
    dice = f"Dice {case.dice:.2f}"
    name = f'"{case.class_name}"' if case.prompt == "text" else case.class_name
    room = _SIDE - round(font(14).getlength(dice)) - 8
    draw.text((x, y + 14), shorten(f"{number}  {name}", 14, room), WHITE, font(14), anchor="lm")
    draw.text((x + _SIDE, y + 14), dice, WHITE, font(14), anchor="rm")
    message = f"score {case.score:.2f}" if case.drawn else "nothing drawn"
    draw.text((x + _SIDE, y + 32), message, _SOFT, font(12), anchor="rm")
    if tile.zoom > 1:
        draw.text((x, y + 32), f"enlarged {tile.zoom:.1f} times", _SOFT, font(12), anchor="lm")


def _legend(draw: ImageDraw.ImageDraw, right: int, y: int) -> None:
    known: tuple[tuple[str, Colour], ...] = (("box given", _BOX), ("prediction", _ANSWER), ("truth", _TRUTH))
    for name, colour in known:
        right -= round(font(14).getlength(name))
        draw.text((right, y), name, WHITE, font(14), anchor="lm")
        right -= 34
        for k in range(2 if colour == _BOX else 1):
            draw.line((right + 16 * k, y, right + (10 + 16 * k if colour == _BOX else 26), y), colour, 3)
        right -= 22


def _write_upwards(sheet: Image.Image, text: str, centre: tuple[int, int]) -> None:
    plate = Image.new("RGB", (round(font(16).getlength(text)) + 2, 24), _PAPER)
    ImageDraw.Draw(plate).text((1, 12), text, _SOFT, font(16), anchor="lm")
    plate = plate.transpose(Image.Transpose.ROTATE_90)
    sheet.paste(plate, (centre[0] - plate.width // 2, centre[1] - plate.height // 2))
