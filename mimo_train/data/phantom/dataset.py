"""One phantom by seed, and whole datasets of them in the ``dataset.jsonl`` format."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mimo_runtime.errors import RequestError
from mimo_runtime.utils.atomic import atomic_folder

from .base import PhantomImage
from .ct import ct_phantom
from .mr import mr_phantom
from .ultrasound import ultrasound_phantom
from .xray import xray_phantom

_MAKERS: dict[str, Callable[[np.random.Generator, int, int], PhantomImage]] = {
    "ct": ct_phantom,
    "mri": mr_phantom,
    "xray": xray_phantom,
    "ultrasound": ultrasound_phantom,
}

#: The modalities in the order in which a dataset cycles through them.
MODALITIES: tuple[str, ...] = tuple(_MAKERS)

SIZES = (64, 1024)


def phantom(modality: str, seed: int | Sequence[int], size: int = 256) -> PhantomImage:
    """One phantom; the same arguments give the same bytes, in any process.

    Args:
        modality: one of :data:`MODALITIES`.
        seed: a non-negative integer, or several (hashed together).
        size: each side is drawn from 0.75 to 1.25 of this many pixels.

    Raises:
        RequestError: unknown modality, negative seed, or size outside :data:`SIZES`.
    """
    seeds = (seed,) if isinstance(seed, (int, np.integer)) else tuple(seed)
    _check((modality,), seeds, size)
    rng = np.random.default_rng([*seeds, MODALITIES.index(modality)])
    height, width = (int(side) for side in rng.integers(round(0.75 * size), round(1.25 * size) + 1, 2))
    return _MAKERS[modality](rng, height, width)


def _check(modalities: Sequence[str], seeds: Sequence[int], size: int) -> None:
    for modality in modalities:
        if modality not in _MAKERS:
            raise RequestError(f"unknown phantom modality {modality!r}", f"choose one of {', '.join(MODALITIES)}")
    if not SIZES[0] <= size <= SIZES[1]:
        raise RequestError(f"--size {size} is outside {SIZES[0]}..{SIZES[1]}", "Choose a size in that range, for example 256")
    if min(seeds) < 0:
        raise RequestError(f"--seed {min(seeds)} is negative", "give a seed of 0 or more")


def generate(
    folder: str | Path,
    count: int,
    seed: int = 0,
    size: int = 256,
    *,
    modalities: Sequence[str] = MODALITIES,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes ``count`` phantoms to ``folder``: ``dataset.jsonl``, ``images/`` and ``masks/`` (PNG, value = class id).

    Modalities take turns; image k is the same for every ``count``. Every case has one image; train / val / test hold
    80 / 10 / 10 % of the cases. The folder appears at once when everything is written (``atomic_folder``).

    Args:
        progress: called as ``progress(done, total)`` after every image.

    Returns:
        The folder.

    Raises:
        RequestError: the folder exists and is not empty, cannot be written, or count / size / seed / modality is out of range.
    """
    folder = Path(folder)
    if count < 1:
        raise RequestError(f"--count {count} is below 1", "use 1 or more")
    if not modalities:
        raise RequestError("there is no phantom modality", f"choose from {', '.join(MODALITIES)}")
    _check(modalities, (seed,), size)
    with atomic_folder(folder, option=None) as unfinished:
        (unfinished / "images").mkdir()
        (unfinished / "masks").mkdir()
        splits = _splits(count, seed, len(modalities))
        with (unfinished / "dataset.jsonl").open("w", encoding="utf-8", newline="\n") as index:
            for k in range(count):
                image = phantom(modalities[k % len(modalities)], (seed, k), size)
                index.write(json.dumps(_write(unfinished, image, k, splits[k])) + "\n")
                if progress:
                    progress(k + 1, count)
    return folder


def _splits(count: int, seed: int, modalities: int) -> list[str]:
    """80 / 10 / 10 %, balanced over the modalities; val and test get one case each as soon as there are three."""
    held = max(round(0.1 * count), 1 if count >= 3 else 0)
    rng = np.random.default_rng([seed, count])
    draw = rng.permutation(count)
    rank = np.empty(count, dtype=int)
    for first in range(modalities):
        members = np.arange(first, count, modalities)
        rank[members[np.argsort(draw[members])]] = np.arange(members.size)
    order = np.lexsort((draw, rank))  # the first of every modality, then the second of every modality, ...
    splits = ["train"] * count
    for position, k in enumerate(order[: 2 * held]):
        splits[k] = "test" if position < held else "val"
    return splits


def _write(root: Path, image: PhantomImage, k: int, split: str) -> dict[str, object]:
    """Saves one image and its mask; returns its record."""
    name = f"{image.modality}_{k:05d}.png"
    Image.fromarray(image.pixels[:, :, 0]).save(root / "images" / name, compress_level=3)
    Image.fromarray(image.labels).save(root / "masks" / name, compress_level=6)
    record: dict[str, object] = {
        "image": f"images/{name}",
        "mask": f"masks/{name}",
        "case": f"{image.modality}_{k:05d}",
        "split": split,
        "modality": image.modality,
        "region": image.region,
        "classes": {str(index): label for index, label in image.classes.items()},
    }
    if image.spacing_mm is not None:
        record["pixel_spacing_mm"] = list(image.spacing_mm)
    record["attributes"] = image.attributes
    return record
