"""The request of a benchmark: an image in memory, a text, boxes and points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    from mimo_runtime.bundle.archive import Bundle

#: The default phantom: a CT slice has 512 x 512 pixels.
PHANTOM_MODALITY, PHANTOM_SIZE = "ct", 512


@dataclass(frozen=True)
class RequestKind:
    """A kind of request. ``known``: the image was encoded before, in another request. ``repeated``: the question was asked."""

    known: bool
    masks: bool
    text: bool
    repeated: bool = False


#: The kinds of docs/reference/json.md, in its order.
KINDS: dict[str, RequestKind] = {
    "first_ask": RequestKind(known=False, masks=True, text=True),
    "second_ask": RequestKind(known=True, masks=True, text=True),
    "mask_only": RequestKind(known=False, masks=True, text=False),
    "second_ask_mask_only": RequestKind(known=True, masks=True, text=False),
    "repeated_ask_mask_only": RequestKind(known=True, masks=True, text=False, repeated=True),
    "text_only": RequestKind(known=False, masks=False, text=True),
}


class RequestDict(TypedDict):
    """A request in the JSON of a benchmark."""

    image: str
    height: int
    width: int
    text: str
    boxes: list[list[float]]
    points: list[list[float]]
    max_tokens: int | None


@dataclass(frozen=True, eq=False)
class Request:
    """One request, the same for every contender.

    Args:
        pixels: uint8 [H, W, 3]; reading a file is not measured.
        text, boxes, points: as ``Scan.ask`` takes them.
        source: where the image is from, for the report.
        max_tokens: longest text answer; None is the model's limit.
    """

    pixels: np.ndarray
    text: str
    boxes: tuple[tuple[float, ...], ...] = ()
    points: tuple[tuple[float, ...], ...] = ()
    source: str = ""
    max_tokens: int | None = None

    def to_dict(self) -> RequestDict:
        height, width = self.pixels.shape[:2]
        return {
            "image": self.source, "height": height, "width": width, "text": self.text,
            "boxes": [list(b) for b in self.boxes], "points": [list(p) for p in self.points], "max_tokens": self.max_tokens,
        }  # fmt: skip


def check_request(request: Request, bundle: Bundle) -> None:
    """Refuse a request that does not fit the image or the model, before any process starts.

    Raises:
        PromptError: as ``Scan.ask`` would.
    """
    from mimo_runtime.errors import PromptError
    from mimo_runtime.preprocessing.prompts import Prompt

    height, width = request.pixels.shape[:2]
    Prompt(request.text, request.boxes, request.points).validate(height, width, bundle.config)
    limit = bundle.config.text_decoder.max_length - 1
    if request.max_tokens is not None and request.max_tokens > limit:
        raise PromptError(f"max_tokens is {request.max_tokens}", f"Use 1 to {limit}")


def make_request(
    image: Path | None = None,
    text: str | None = None,
    boxes: Sequence[Sequence[float]] = (),
    points: Sequence[Sequence[float]] = (),
    *,
    seed: int = 0,
    max_tokens: int | None = None,
    bundle: Path | None = None,
) -> Request:
    """A request about an image file, or about a seeded phantom if there is none.

    Args:
        bundle: whose intensity windows read the file.
        text: the question; None is "Where is the X?" for a phantom's first organ, and "" for a file with a box or point.

    Raises:
        ImageError: the image cannot be read.
    """
    if image is None:
        # Needs numpy and pillow only.
        from mimo_train.data.phantom import phantom

        image_and_truth = phantom(PHANTOM_MODALITY, seed, PHANTOM_SIZE)
        pixels, source = image_and_truth.pixels, f"{PHANTOM_MODALITY} phantom, seed {seed}"
        text = f"Where is the {next(iter(image_and_truth.classes.values()))}?" if text is None else text
    else:
        from mimo_runtime.bundle.archive import Bundle
        from mimo_runtime.imageio.reader import read_image

        # Only the name: a path says whose computer it was, and often which patient.
        windows = None if bundle is None else Bundle.open(bundle, this_machine=False).windows
        pixels, source = read_image(image, windows=windows).pixels, Path(image).name
        text = ("" if boxes or points else "What do you see?") if text is None else text
    return Request(pixels, text, tuple(map(tuple, boxes)), tuple(map(tuple, points)), source, max_tokens)
