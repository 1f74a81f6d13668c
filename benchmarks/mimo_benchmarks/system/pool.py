"""Requests about several images, as a service gets them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..request import Request, RequestKind, check_request, make_request

if TYPE_CHECKING:
    from mimo_runtime.bundle.archive import Bundle
    from mimo_runtime.pipeline import Mimo, Scan
    from mimo_runtime.results.answer import Answer

#: More images than a ``Mimo`` keeps encoded.
IMAGES = 12


def make_pool(
    bundle: Bundle,
    image: Path | None = None,
    text: str | None = None,
    boxes: Sequence[Sequence[float]] = (),
    points: Sequence[Sequence[float]] = (),
    *,
    seed: int = 0,
    max_tokens: int | None = None,
    count: int = IMAGES,
) -> list[Request]:
    """``count`` requests about different images: phantoms of consecutive seeds, or an image file moved sideways pixel by pixel.

    Raises:
        ImageError, PromptError: as ``make_request`` and ``check_request``.
    """
    options = {"text": text, "boxes": boxes, "points": points, "max_tokens": max_tokens, "bundle": Path(bundle.path)}
    if image is None:
        pool = [make_request(seed=seed + number, **options) for number in range(count)]  # type: ignore[arg-type]
    else:
        first = make_request(image, **options)  # type: ignore[arg-type]
        pool = [replace(first, pixels=np.ascontiguousarray(np.roll(first.pixels, k, axis=1))) for k in range(count)]
    for request in pool:
        check_request(request, bundle)
    return pool


def ask(mimo: Mimo, request: Request, kind: RequestKind, scan: Scan | None = None) -> Answer:
    """One answer.

    Args:
        scan: the opened image, for kinds with a known one.
    """
    opened = scan or mimo.open(request.pixels)
    return opened.ask(
        request.text, request.boxes, request.points,
        masks=kind.masks, text_answer=kind.text, max_tokens=request.max_tokens if kind.text else None,
    )  # fmt: skip
