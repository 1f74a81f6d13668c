"""The domain check on one image: flags of it and of its turned copies, and what the check costs."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from mimo_runtime.data.dataset import Record
from mimo_runtime.domain.check import check_domain
from mimo_runtime.pipeline import Mimo

#: How an image is turned, and how much: quarter turns counterclockwise, and whether it is mirrored.
TURNED_COPIES = {"quarter turn": (1, False), "half turn": (2, False), "mirrored": (0, True)}


class CheckTimes(NamedTuple):
    """Seconds for one image."""

    encode: float
    check: float


def is_flagged(image: object) -> bool | None:
    """Whether an image is borderline or out of domain; None from a model that does not check.

    Args:
        image: an answer about it, or an open image: what has ``domain``.
    """
    domain = getattr(image, "domain", None)
    if domain is None:
        return None
    return str(getattr(domain, "verdict", domain)) != "in"


def turned_flags(mimo: Mimo, record: Record, pixels: np.ndarray) -> dict[str, bool]:
    """Whether each turned copy of uint8 ``[H, W, 3]`` is flagged; empty without a domain check."""
    if getattr(mimo, "domain", None) is None:
        return {}
    flags = {}
    for name, (quarters, mirrored) in TURNED_COPIES.items():
        copy = np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters)
        flags[name] = bool(is_flagged(mimo.open(record.image_of(np.ascontiguousarray(copy)))))
    return flags


def check_times(mimo: Mimo, record: Record, pixels: np.ndarray) -> CheckTimes | None:
    """One encode of an image and one check of its features, one after the other; None without a domain check."""
    statistics = getattr(mimo, "domain", None)
    if statistics is None:
        return None
    start = time.perf_counter()
    encoded = mimo.graphs.encode_image(pixels, f"check {record.image} {record.frame}")
    middle = time.perf_counter()
    check_domain(encoded.features, encoded.letterbox, statistics, record.modality)
    return CheckTimes(middle - start, time.perf_counter() - middle)
