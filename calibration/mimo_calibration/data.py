"""Which images and questions a calibration runs on, and which it is measured on: never the same ones.

A data set is named by its folder, or by a name that an installed package registers as an entry point of the group
``mimo_edge.datasets``: a function without arguments that returns the folder (and may have to make it first).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from mimo_runtime.data.dataset import Dataset, Record, read_datasets
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.questions import ImageQuestions

GROUP = "mimo_edge.datasets"
#: Fewer images than this leave the rare values of an activation to chance.
MIN_IMAGES = 16
#: Fewer held-out images than this decide nothing.
MIN_HELD_OUT = 8
#: Digits of a content hash that tell images apart where hashes are written down.
DIGITS = 16
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
        return {f"{data.name}/{data.key(r)}": content(r) for data, r in self.items}

    @property
    def identity(self) -> str:
        """One hash of what was chosen, in which order, with which seed, and of all that questions about it are made of: masks
        and instances, from which prompts are drawn, and the names that are asked for.
        """
        names = {data.name: data.class_names for data, _ in self.items}
        rows = [
            (f"{data.name}/{data.key(r)}", content(r), *(_digest(file) if file else "" for file in (r.mask, r.instances)),
             sorted(r.classes.items()), r.region, r.modality)
            for data, r in self.items
        ]  # fmt: skip
        return hashlib.sha256(json.dumps([self.seed, names, rows], sort_keys=True).encode()).hexdigest()[:DIGITS]

    @cached_property
    def shown(self) -> Images:
        """Those that show something of their classes: only there can Dice be measured. Reads every image, as questions will.

        Raises:
            RequestError: an image, its mask or its instances cannot be read or do not fit each other.
        """
        return Images(tuple((data, record) for data, record in self.items if _shows_something(record)), self.seed)

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
            if not skip or content(item[1]) not in skip:
                sets.append(pool)
                return item
    return None


def refuse_overlap(calibration: Sequence[Dataset], held_out: Sequence[Dataset]) -> None:
    """No image that may be calibrated on may be measured on, under whatever name: the whole splits, whatever is drawn of them.

    Raises:
        RequestError: names both; or a file cannot be read.
    """
    known = {content(record): f"{data.name}/{data.key(record)}" for data in calibration for record in data.split("train")}
    for data in held_out:
        for record in data.split("val"):
            if twin := known.get(content(record)):
                told = f"the image {data.name}/{data.key(record)} of the held-out split is also {twin} of the calibration data"
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


def content(record: Record) -> str:
    """SHA-256 of the image file, and of the frame where it holds several.

    Raises:
        RequestError: the file cannot be read.
    """
    digest = _digest(record.image)
    return hashlib.sha256(f"{digest} {record.frame}".encode()).hexdigest() if record.frame else digest


def _digest(path: Path) -> str:
    """SHA-256 of a file, which is read once as long as it stays the same."""
    try:
        status = path.stat()
        return _digest_of(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}", "Restore the file or remove the line") from None


@lru_cache(maxsize=1 << 17)
def _digest_of(path: Path, size: int, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _shows_something(record: Record) -> bool:
    """Whether any pixel is of a class; reads all files of the record."""
    _, labels = record.load()
    record.load_instances(labels.shape)
    return bool(labels.any())
