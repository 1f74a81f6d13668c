"""Large images with exact masks: mosaics of images of one class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.evaluation.questions import chosen_records


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Images side by side, at full size.

    Args:
        name: of the class.
        pixels: uint8 ``[H, W, 3]``.
        mask: bool ``[H, W]`` of the class.
        modality: of the images.
    """

    name: str
    pixels: np.ndarray
    mask: np.ndarray
    modality: str | None


def mosaics_of(data: Dataset, split: str, limit: int, seed: int, per_side: int = 2) -> list[Mosaic]:
    """Up to ``limit`` mosaics of ``per_side`` x ``per_side`` images that have the first class of the first image.

    Each image is cut to the smallest height and width of its mosaic, so that its scale stays.
    """
    wanted, name, mosaics, parts = per_side**2, None, list[Mosaic](), list[tuple[np.ndarray, np.ndarray]]()
    for record in chosen_records(data, split, len(data.records), seed):
        name = name or next(iter(record.classes.values()), None)
        parts += _parts(record, name)
        if len(parts) == wanted and name is not None:
            height, width = (min(mask.shape[axis] for _, mask in parts) for axis in (0, 1))
            cut = [(pixels[:height, :width], mask[:height, :width]) for pixels, mask in parts]
            rows = [cut[start : start + per_side] for start in range(0, wanted, per_side)]
            pixels, mask = (np.concatenate([np.concatenate([part[i] for part in row], 1) for row in rows]) for i in (0, 1))
            mosaics.append(Mosaic(name, pixels, mask, record.modality))
            parts = []
        if len(mosaics) == limit:
            break
    return mosaics


def _parts(record: Record, name: str | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for class_id, known in record.classes.items():
        if known == name:
            pixels, labels = record.load()
            yield record.image_of(pixels).pixels, record.whole_class(labels, class_id)
