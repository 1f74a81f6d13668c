"""Dice of a name on large images, with and without tiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np

from mimo_runtime.evaluation.metrics import dice
from mimo_runtime.pipeline import Mimo, Scan
from mimo_runtime.request import AskRequest
from mimo_runtime.tiling.grid import Tiles

from ..report.machine import Machine, describe, finish
from .mosaics import Mosaic

Progress = Callable[[int, int], None]


class WayResult(TypedDict):
    """One way to ask.

    ``dice``: mean over images. ``seconds``: mean of one answer, encoding included.
    """

    dice: float
    seconds: float


class TileResult(TypedDict):
    """The JSON of ``mimo-bench tiles``. ``per_image``: Dice by way, in the order of the images."""

    machine: Machine
    images: int
    largest: list[int]
    ways: dict[str, WayResult]
    per_image: dict[str, list[float]]


def measure_tiles(
    mimo: Mimo, mosaics: Sequence[Mosaic], sides: Sequence[int], *, progress: Progress | None = None
) -> TileResult:
    """Ask the name about every image: as a whole, with the crop pass, and with tiles of each of ``sides`` (0: "auto")."""
    machine = describe()
    tiled = {f"tiles of {side or mimo.config.image_size}": Tiles(side) for side in sides}
    ways: list[tuple[str, bool, Tiles | None]] = [("whole", False, None), ("whole, crop pass", True, None)]
    ways += [(name, True, tiles) for name, tiles in tiled.items()]
    scores: dict[str, list[float]] = {way: [] for way, *_ in ways}
    seconds: dict[str, list[float]] = {way: [] for way, *_ in ways}
    for number, mosaic in enumerate(mosaics):
        if progress:
            progress(number, len(mosaics))
        for way, refine, tiles in ways:
            request = AskRequest.of(mosaic.name, text_answer=False, any_domain=True, refine=refine, tiles=tiles)
            started = time.perf_counter()
            scan = mimo.open(mosaic.pixels, modality=mosaic.modality)
            mask = _mask(scan, request)
            seconds[way].append(time.perf_counter() - started)
            scores[way].append(round(dice(mask, mosaic.mask), 4))
            mimo.graphs.clear_caches(texts=False)
    finish(machine)
    return {
        "machine": machine,
        "images": len(mosaics),
        "largest": [max(m.mask.shape[axis] for m in mosaics) for axis in (0, 1)],
        "ways": {
            way: {"dice": round(float(np.mean(scores[way])), 4), "seconds": round(float(np.mean(seconds[way])), 3)}
            for way in scores
        },
        "per_image": scores,
    }


def _mask(scan: Scan, request: AskRequest) -> np.ndarray:
    mask = np.zeros((scan.height, scan.width), bool)
    for finding in scan.ask_request(request).findings:
        mask |= finding.mask
    return mask
