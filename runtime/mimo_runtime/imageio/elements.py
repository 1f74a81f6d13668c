"""Numbers out of DICOM elements, whatever their value representation says, and functional groups."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def group(data: Dataset, frame: int, keyword: str) -> Dataset | None:
    """The item of a functional group for a frame: its own, then the shared one, then None."""
    per_frame, shared = data.get("PerFrameFunctionalGroupsSequence"), data.get("SharedFunctionalGroupsSequence")
    for item in (per_frame[frame] if per_frame and frame < len(per_frame) else None, shared[0] if shared else None):
        sequence = item.get(keyword) if item is not None else None
        if sequence:
            value: Dataset | None = sequence[0]
            return value
    return None


def number(data: Dataset, keyword: str) -> float | None:
    """The first finite number of an element, or None."""
    try:
        value = data.get(keyword)
        if value is None or isinstance(value, str) and not value.strip():
            return None
        if not isinstance(value, str) and hasattr(value, "__len__"):
            value = value[0]
        number = float(value)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def pair(data: Dataset | None, keyword: str) -> tuple[float, float] | None:
    if data is None:
        return None
    try:
        first, second = (float(v) for v in data.get(keyword))
    except (TypeError, ValueError, AttributeError):
        return None
    valid = math.isfinite(first) and math.isfinite(second) and first > 0 and second > 0
    return (first, second) if valid else None
