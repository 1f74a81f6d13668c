"""Requests: a text, boxes, points and a mask in any mix; what is refused, and how the rest becomes graph inputs.

Coordinates are pixels of the image as given, origin top left, x right, y down. A point ``(x, y)`` names the pixel in
column x and row y, so half a pixel is added to reach its centre; a box ``(x0, y0, x1, y1)`` names edges and is used as
it is: the box of the whole image is ``(0, 0, W, H)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from ..errors import PromptError
from ..model.config import MimoConfig
from ..model.tokenizer import Tokenizer
from .letterbox import Letterbox

Entry = TypeVar("Entry")

#: Longest text of a request. The graphs read a shorter form of it.
MAX_CHARACTERS = 400
#: Labels of the ``prompt_encoder`` inputs.
GIVEN, POSITIVE, NEGATIVE, PADDING = 1, 1, 0, -1


@dataclass(frozen=True, eq=False)
class Prompt:
    """One request about one image.

    Args:
        text: a name ("polyp"), a question, or "" if there is at least one reference.
        boxes: any number of ``(x0, y0, x1, y1)``.
        points: any number of ``(x, y)`` or ``(x, y, label)`` with label 1 = on the target (the default), 0 = not on it.
        mask: ``[H, W]``; bool, whole numbers (not 0 is inside) or real numbers (0.5 and more is inside).

    Whatever is passed, ``boxes`` become tuples of four floats, ``points`` of ``(float, float, int)``, ``mask`` bool.

    Raises:
        PromptError: something that cannot be read as these; whether it fits an image is for :meth:`validate`.
    """

    text: str = ""
    boxes: Sequence[Sequence[float]] = ()
    points: Sequence[Sequence[float]] = ()
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise PromptError(f"the text is a {type(self.text).__name__}", "Pass a string")
        boxes = tuple(_numbers(b, f"box {k}", (4,), "x0,y0,x1,y1") for k, b in _entries(self.boxes, "boxes"))
        points = (_numbers(p, f"point {k}", (2, 3), "x,y or x,y,label") for k, p in _entries(self.points, "points"))
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "points", tuple(_labelled(k, p) for k, p in enumerate(points, 1)))
        object.__setattr__(self, "mask", None if self.mask is None else _as_mask(self.mask))

    @property
    def has_references(self) -> bool:
        """Whether a box, a point or a mask is given."""
        return bool(self.boxes or self.points or self.mask is not None)

    def validate(self, height: int, width: int, config: MimoConfig, tokenizer: Tokenizer | None = None) -> None:
        """Check this request against an image of ``height x width`` pixels and a model.

        Args:
            height, width: of the image, in pixels.
            config: of the model.
            tokenizer: of the model; if given, the text as it is must be short enough for the model.

        Raises:
            PromptError: anything that does not fit, naming it and the limit.
        """
        self._validate_text(config, tokenizer)
        _limit("boxes", self.boxes, config.prompts.max_boxes)
        _limit("points", self.points, config.prompts.max_points)
        size = f"the image of {width} x {height} pixels"
        for k, (x0, y0, x1, y1) in enumerate(self.boxes, 1):
            box = f"box {k} ({x0:g},{y0:g},{x1:g},{y1:g})"
            if x0 > x1 or y0 > y1:
                raise PromptError(f"{box} is inverted", "Give its top left corner first: x0,y0,x1,y1")
            if x0 == x1 or y0 == y1:
                raise PromptError(f"{box} has no area", "Make x1 greater than x0 and y1 greater than y0")
            if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
                raise PromptError(f"{box} is outside {size}", f"Keep x within 0..{width} and y within 0..{height}")
        for k, (x, y, _) in enumerate(self.points, 1):
            if not (0 <= x < width and 0 <= y < height):
                limits = f"Keep x within 0..{width - 1} and y within 0..{height - 1}"
                raise PromptError(f"point {k} ({x:g},{y:g}) is outside {size}", limits)
        if self.mask is not None and self.mask.shape != (height, width):
            rows, columns = self.mask.shape
            raise PromptError(f"the mask has {columns} x {rows} pixels, not the size of {size}", "Draw it on the same image")
        if self.mask is not None and not self.mask.any():
            raise PromptError("the mask is empty", "Mark at least one pixel, or leave the mask out")

    def _validate_text(self, config: MimoConfig, tokenizer: Tokenizer | None) -> None:
        try:
            self.text.encode("utf-8")
        except UnicodeEncodeError:
            raise PromptError("the text is not valid Unicode", "Pass it as UTF-8") from None
        if len(self.text) > MAX_CHARACTERS:
            message = f"the text is too long: {len(self.text)} characters, at most {MAX_CHARACTERS} are read"
            raise PromptError(message, "Ask a shorter question")
        if self.text.strip():
            if tokenizer is not None:
                tokenizer.encode_query(self.text, config.text.max_length)
            return
        if not self.has_references:
            raise PromptError("the request is empty", "Give a text, a box, a point or a mask")
        if not self.boxes and self.mask is None and all(label == NEGATIVE for *_, label in self.points):
            raise PromptError("the request has negative points only", "Add a text, a box, a mask or a point on the target")


def encode_prompt(prompt: Prompt, letterbox: Letterbox, config: MimoConfig) -> dict[str, np.ndarray]:
    """What the graphs ``prompt_encoder`` and ``fusion`` take beside features, batch 1, for a prompt that
    :meth:`Prompt.validate` took.

    Returns:
        ``boxes`` float32 [1, max_boxes, 4], ``points`` float32 [1, max_points, 2] (fractions of the square),
        ``box_labels`` and ``point_labels`` int32, ``mask`` float32 [1, 1, S/4, S/4], ``mask_label`` int32 [1, 1],
        ``extent`` float32 [1, 2] (width and height of the image as fractions of the square).
        Unused places hold zeros and the label -1.
    """
    limits = config.prompts
    boxes = np.zeros((1, limits.max_boxes, 4), np.float32)
    box_labels = np.full((1, limits.max_boxes), PADDING, np.int32)
    points = np.zeros((1, limits.max_points, 2), np.float32)
    point_labels = np.full((1, limits.max_points), PADDING, np.int32)
    mask = np.zeros((1, 1, letterbox.size // 4, letterbox.size // 4), np.float32)
    mask_label = np.full((1, 1), PADDING, np.int32)
    if prompt.boxes:
        boxes[0, : len(prompt.boxes)] = letterbox.boxes(np.array(prompt.boxes))
        box_labels[0, : len(prompt.boxes)] = GIVEN
    if prompt.points:
        values = np.array(prompt.points, np.float64)
        # The centre of the named pixel; the minimum only matters for fractions beyond the last pixel's centre.
        centres = np.minimum(values[:, :2] + 0.5, (letterbox.width, letterbox.height))
        points[0, : len(values)] = letterbox.points(centres)
        point_labels[0, : len(values)] = values[:, 2]
    if prompt.mask is not None:
        mask[0] = letterbox.mask(prompt.mask)
        mask_label[:] = GIVEN
    return {
        "boxes": boxes,
        "box_labels": box_labels,
        "points": points,
        "point_labels": point_labels,
        "mask": mask,
        "mask_label": mask_label,
        "extent": letterbox.extent[None],
    }


#: Most boxes, points, or numbers of one that are read: an iterator may have no end. No model takes as many.
_MOST_ENTRIES = 1000


def _entries(values: Iterable[Entry], name: str) -> list[tuple[int, Entry]]:
    try:
        if isinstance(values, (str, bytes, Mapping, Set)):
            raise TypeError
        entries = list(enumerate(islice(values, _MOST_ENTRIES + 1), 1))
    except TypeError:
        raise PromptError(f"{name} is a {type(values).__name__}", "Pass a list") from None
    if len(entries) > _MOST_ENTRIES:
        raise PromptError(f"there are more than {_MOST_ENTRIES} {name}", "Give fewer")
    return entries


def _numbers(value: Iterable[float], name: str, lengths: tuple[int, ...], form: str) -> tuple[float, ...]:
    try:
        if isinstance(value, (str, bytes, Mapping, Set)) or np.ma.is_masked(value):
            raise TypeError
        numbers = tuple(_number(v) for v in islice(value, _MOST_ENTRIES))
    except (TypeError, ValueError, OverflowError):
        raise PromptError(f"{name} is not made of numbers", f"Give {form}") from None
    if len(numbers) not in lengths:
        raise PromptError(f"{name} has {len(numbers)} numbers", f"Give {form}")
    if not np.isfinite(numbers).all():
        raise PromptError(f"{name} holds NaN or infinity", "Give finite pixel coordinates")
    return numbers


def _number(value: float) -> float:
    if isinstance(value, (str, bytes)):  # which float() reads
        raise TypeError
    return float(value)


def _labelled(k: int, point: tuple[float, ...]) -> tuple[float, float, int]:
    label = point[2] if len(point) == 3 else POSITIVE
    if label not in (POSITIVE, NEGATIVE):
        raise PromptError(f"point {k} has the label {label:g}", "Use 1 for a point on the target, 0 for one beside it")
    return point[0], point[1], int(label)


def _as_mask(mask: np.ndarray) -> np.ndarray:
    try:
        array = np.asarray(mask)
    except ValueError:  # rows of different lengths
        raise PromptError("the mask has rows of different lengths", "Pass an array [height, width]") from None
    if array.ndim != 2:
        raise PromptError(f"the mask has the shape {list(array.shape)}", "Pass one of [height, width]")
    if array.dtype.kind not in "biuf":
        raise PromptError(f"the mask holds values of type {array.dtype}", "Pass bool or numbers")
    if array.dtype.kind != "f":
        return array.astype(bool)
    if np.isnan(array).any():
        raise PromptError("the mask holds NaN", "Use 0 outside and 1 inside")
    return array >= 0.5


def _limit(name: str, values: Sequence[object], limit: int) -> None:
    if len(values) > limit:
        raise PromptError(f"{len(values)} {name} are given", f"This model takes at most {limit}")
