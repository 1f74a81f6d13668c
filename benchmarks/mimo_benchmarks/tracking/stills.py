"""The images of which sequences are made: phantoms, or records of data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.evaluation.questions import chosen_records

from .sequences import Still

#: Targets cover this share of their image.
SHARES = 0.005, 0.4


def stills_of(datasets: Sequence[Dataset], split: str, limit: int, seed: int, known: Sequence[str]) -> list[Still]:
    """One target of up to ``limit`` images per set: the largest class whose name the model knows, else the largest."""
    stills = []
    for data in datasets:
        of_set = (still for record in chosen_records(data, split, 4 * limit, seed) for still in _of_record(record, known))
        stills += [still for _, still in zip(range(limit), of_set)]
    return stills


def phantom_stills(limit: int, seed: int, known: Sequence[str], size: int = 256) -> list[Still]:
    """One target of ``limit`` phantoms per modality (needs the package ``mimo_train``)."""
    from mimo_train.data.phantom.dataset import MODALITIES, phantom

    stills = []
    for modality in MODALITIES:
        count = 0
        for number in range(4 * limit):
            image = phantom(modality, (seed, number), size)
            masks = {name: image.mask(name) for name in image.classes.values()}
            still = _largest(masks, image.pixels, modality, f"phantom {modality} {number}", known)
            if still is not None and count < limit:
                stills.append(still)
                count += 1
    return stills


def _of_record(record: Record, known: Sequence[str]) -> Iterator[Still]:
    pixels, labels = record.load()
    masks = {name: record.whole_class(labels, class_id) for class_id, name in record.classes.items()}
    image = record.image_of(pixels)
    still = _largest(masks, image.pixels, record.modality, f"{record.set_name} {record.image.name}", known)
    if still is not None:
        yield still


def _largest(
    masks: dict[str, np.ndarray], pixels: np.ndarray, modality: str | None, source: str, known: Sequence[str]
) -> Still | None:
    shares = {name: float(np.mean(mask)) for name, mask in masks.items()}
    fitting = [name for name, share in shares.items() if SHARES[0] <= share <= SHARES[1]]
    best = max(fitting, key=lambda name: (name in known, shares[name]), default=None)
    return None if best is None else Still(best, pixels, masks[best], modality, source)
