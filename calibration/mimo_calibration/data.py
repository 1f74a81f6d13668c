"""Which images and questions a calibration runs on, and which it is measured on: never the same ones.

A data set is named by its folder, or by a name that an installed package registers as an entry point of the group
``mimo_edge.datasets``: a function without arguments that returns the folder (and may have to make it first).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.dataset import Dataset, Record, read_datasets
from mimo_runtime.evaluation.evaluate import ImageQuestions

GROUP = "mimo_edge.datasets"
#: Fewer images than this leave the rare values of an activation to chance.
MIN_IMAGES = 16
#: Fewer held-out images than this decide nothing.
MIN_HELD_OUT = 8
#: Kinds of request that take turns; text alone comes twice because it depends on the image most.
KINDS = ("box", "point", "mask", "text", "text+box", "text")


@dataclass(frozen=True)
class Images:
    """Chosen records with the sets that they are of."""

    items: tuple[tuple[Dataset, Record], ...]
    seed: int

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of every image file, by the set and key that name it."""
        return {f"{data.name}/{data.key(r)}": _content(r) for data, r in self.items}

    @property
    def identity(self) -> str:
        """One hash of what was chosen, in which order, with which seed; masks count, because prompts are drawn from them."""
        masks = [_digest(r.mask) if r.mask else "" for _, r in self.items]
        text = "\n".join(f"{name} {digest} {mask}" for (name, digest), mask in zip(self.hashes.items(), masks))
        return hashlib.sha256(f"{self.seed}\n{text}".encode()).hexdigest()[:16]

    def counts(self) -> dict[str, int]:
        """Images by set."""
        found: dict[str, int] = {}
        for data, _ in self.items:
            found[data.name] = found.get(data.name, 0) + 1
        return found

    @property
    def modalities(self) -> set[str]:
        return {record.modality for _, record in self.items}


def registered() -> list[str]:
    """The names of registered data sets, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def open_data(names: Sequence[str | Path], option: str = "--calibration") -> list[Dataset]:
    """Data sets by registered name or folder.

    Raises:
        RequestError: neither; lists the known names.
    """
    folders: list[Path] = []
    for name in names:
        found = {point.name: point for point in entry_points(group=GROUP)}
        if str(name) in found and not Path(name).exists():
            folders.append(Path(found[str(name)].load()()))
        elif Path(name).is_dir():
            folders.append(Path(name))
        else:
            known = ", ".join(registered()) or "none"
            raise RequestError(f"{option} {name} is neither a folder nor a registered data set", f"Registered: {known}")
    return read_datasets(folders)


def choose(
    datasets: Sequence[Dataset], split: str, count: int, seed: int, skip: frozenset[str] = frozenset(), least: int = MIN_IMAGES
) -> Images:
    """``count`` images of a split, spread evenly over modalities, within these over sets, seeded.

    Args:
        skip: content hashes of images that must not be among them.
        least: fewer than this are refused.

    Raises:
        RequestError: too few to be had; says how many there are and how many are needed.
    """
    pools: dict[str, dict[str, list[tuple[Dataset, Record]]]] = {}
    for data in datasets:
        records = data.split(split)
        order = np.random.default_rng([seed, len(records)]).permutation(len(records))
        for record in (records[i] for i in order):
            pools.setdefault(record.modality, {}).setdefault(data.name, []).append((data, record))
    # Modalities take turns, and so do the sets of a modality: none fills the places of another.
    turns = [list(sets.values()) for _, sets in sorted(pools.items())]
    chosen: list[tuple[Dataset, Record]] = []
    while len(chosen) < count and turns:
        for sets in turns:
            item = _next(sets, skip) if len(chosen) < count else None
            if item:
                chosen.append(item)
        turns = [sets for sets in turns if sets]
    if len(chosen) < least:
        what = "calibrate on" if split == "train" else "decide on"
        told = f"the data has {len(chosen)} {'more ' if skip else ''}images of split '{split}', too few to {what}"
        raise RequestError(told, f"Give data with at least {least + len(skip)} images in that split")
    return Images(tuple(chosen), seed)


def _next(sets: list[list[tuple[Dataset, Record]]], skip: frozenset[str]) -> tuple[Dataset, Record] | None:
    """The next image of a modality, from its sets in turn; None if none is left."""
    while sets:
        pool = sets.pop(0)
        while pool:
            item = pool.pop(0)
            if not skip or _content(item[1]) not in skip:
                sets.append(pool)
                return item
    return None


def refuse_overlap(calibration: Images, held_out: Images) -> None:
    """No image may be calibrated on and measured on, under whatever name.

    Raises:
        RequestError: names both.
    """
    known = {digest: name for name, digest in calibration.hashes.items()}
    for name, digest in held_out.hashes.items():
        if digest in known:
            told = f"the image {name} of the held-out split is also {known[digest]} of the calibration data"
            raise RequestError(told, "Split the data by case, so that no image is in two splits")


def requests(images: Images, per_image: int = 2) -> Iterator[tuple[ImageQuestions, list[dict[str, Any]]]]:
    """A stand-in for users: per image what it is asked.

    Yields:
        the questions object, for its ``pixels``, and keyword arguments of ``Scan.ask``.
    """
    for turn, (data, record) in enumerate(images.items):
        questions = _Lazy(data, record, images.seed)
        targets = list(questions.targets())
        asks = []
        for k in range(per_image):
            kind = KINDS[(turn * per_image + k) % len(KINDS)]
            if not targets:
                names = data.class_names or [record.region]
                asks.append({"text": names[turn % len(names)]})
                continue
            name, whole, parts = targets[(turn + k) % len(targets)]
            part = whole if kind == "text" else parts[(turn + k) % len(parts)]
            asks.append(questions.request(kind, name, part, k))
        yield questions, asks


class _Lazy(ImageQuestions):
    """Questions about an image that no model has opened."""

    def __init__(self, data: Dataset, record: Record, seed: int) -> None:
        super().__init__(_Nobody(), data, record, seed)


class _Nobody:
    @staticmethod
    def open(pixels: np.ndarray) -> None:
        return None


def _content(record: Record) -> str:
    """SHA-256 of the image file, and the frame where it holds several."""
    return _digest(record.image, str(record.frame) if record.frame else "")


def _digest(path: Path, more: str = "") -> str:
    return hashlib.sha256(path.read_bytes() + more.encode()).hexdigest()
