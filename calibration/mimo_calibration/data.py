"""The images and questions that a calibration runs on, and those that it is measured on. No image is in both.

A data set is named by its folder, or by an entry point of the group ``mimo_edge.datasets`` that an installed package
registers. The entry point is a function without arguments that returns the folder, and may create it first.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np

from mimo_runtime.data.dataset import Dataset, Record, read_datasets, with_windows
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.questions import ImageQuestions, PromptArguments
from mimo_runtime.imageio.intensity import WINDOWS, Windows

GROUP = "mimo_edge.datasets"
#: Fewer images than this do not show the rare values of an activation.
MIN_IMAGES = 16
#: Fewer held-out images than this are too few to decide on.
MIN_HELD_OUT = 8
#: Digits of a content hash in reports and manifests.
DIGITS = 16
#: Kinds of request, in turn. Text alone comes twice: it depends on the image most.
KINDS = ("box", "point", "mask", "text", "text+box", "text")


@dataclass(frozen=True)
class Images:
    """Drawn images, each with its data set, and the seed that drew them."""

    items: tuple[tuple[Dataset, Record], ...]
    seed: int

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of every image file, by the set and key that name it."""
        return {f"{data.name}/{data.key(r)}": content_hash(r) for data, r in self.items}

    @property
    def identity(self) -> str:
        """One hash of the images, their order, the seed, and all that questions are made of: masks, instances and names."""
        names = {data.name: data.class_names for data, _ in self.items}
        rows = [
            (f"{data.name}/{data.key(r)}", content_hash(r), *(_digest(file) if file else "" for file in (r.mask, r.instances)),
             sorted(r.classes.items()), r.region, r.modality, *([sorted(r.windows.items())] if r.windows != WINDOWS else []))
            for data, r in self.items
        ]  # fmt: skip
        return hashlib.sha256(json.dumps([self.seed, names, rows], sort_keys=True).encode()).hexdigest()[:DIGITS]

    @cached_property
    def shown(self) -> Images:
        """The images that show something of their classes: Dice can only be measured there. Reads every image.

        Raises:
            RequestError: an image, its mask or its instances cannot be read, or their sizes differ.
        """
        return Images(tuple((data, record) for data, record in self.items if _shows_something(record)), self.seed)

    def with_windows(self, windows: Windows) -> Images:
        """The same images, read by the intensity windows of a model."""
        return Images(tuple((data, replace(record, windows=windows)) for data, record in self.items), self.seed)

    def counts(self) -> dict[str, int]:
        """Number of images by set."""
        return dict(Counter(data.name for data, _ in self.items))

    @property
    def modalities(self) -> set[str]:
        return {record.modality for _, record in self.items}


@dataclass(frozen=True)
class ImageSplit:
    """Disjoint images of a calibration.

    Attributes:
        held_out: the sets that ``search`` and ``gate`` are drawn from.
        calibration: statistics are collected on these.
        search: recipes are compared on these.
        gate: the accuracy gate decides on these.
    """

    held_out: tuple[Dataset, ...]
    calibration: Images
    search: Images
    gate: Images

    def with_windows(self, windows: Windows) -> ImageSplit:
        """The same images, read by the intensity windows of a model."""
        parts = (images.with_windows(windows) for images in (self.calibration, self.search, self.gate))
        return ImageSplit(tuple(with_windows(self.held_out, windows)), *parts)


def registered_datasets() -> list[str]:
    """The names of registered data sets, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def open_data(names: Sequence[str | Path], option: str = "--calibration") -> list[Dataset]:
    """Data sets by registered name or folder.

    Raises:
        RequestError: a name is neither; lists the known names.
    """
    folders: list[Path] = []
    for name in names:
        points = {point.name: point for point in entry_points(group=GROUP)}
        if str(name) in points and not Path(name).exists():
            folders.append(Path(points[str(name)].load()()))
        elif Path(name).is_dir():
            folders.append(Path(name))
        else:
            known = ", ".join(registered_datasets()) or "none"
            raise RequestError(f"{option} {name} is neither a folder nor a registered data set", f"Registered: {known}")
    return read_datasets(folders)


def draw_images(
    datasets: Sequence[Dataset], split: str, count: int, seed: int, skip: frozenset[str] = frozenset(), least: int = MIN_IMAGES
) -> Images:
    """Images of a split, drawn evenly from its modalities, and within a modality evenly from its sets.

    Args:
        count: how many at most.
        seed: decides the order within each set.
        skip: content hashes of images that are left out.
        least: fewer images than this are refused.

    Raises:
        RequestError: there are fewer than ``least``; says how many there are and how many are needed.
    """
    pools: dict[str, dict[str, list[tuple[Dataset, Record]]]] = {}
    for data in datasets:
        records = data.split(split)
        order = np.random.default_rng([seed, len(records)]).permutation(len(records))
        for record in (records[i] for i in order):
            pools.setdefault(record.modality, {}).setdefault(data.name, []).append((data, record))
    # Modalities take turns, and so do the sets of a modality, so that a large one does not crowd out the others.
    turns = [list(sets.values()) for _, sets in sorted(pools.items())]
    drawn: list[tuple[Dataset, Record]] = []
    while len(drawn) < count and turns:
        for sets in turns:
            item = _next(sets, skip) if len(drawn) < count else None
            if item:
                drawn.append(item)
        turns = [sets for sets in turns if sets]
    if len(drawn) < least:
        what = "calibrate on" if split == "train" else "decide on"
        message = f"the data has {len(drawn)} {'more ' if skip else ''}images of split '{split}', too few to {what}"
        raise RequestError(message, f"Give data with at least {least + len(skip)} images in that split")
    return Images(tuple(drawn), seed)


def _next(sets: list[list[tuple[Dataset, Record]]], skip: frozenset[str]) -> tuple[Dataset, Record] | None:
    """The next image of a modality, from its sets in turn; None if none is left."""
    while sets:
        pool = sets.pop(0)
        while pool:
            item = pool.pop(0)
            if not skip or content_hash(item[1]) not in skip:
                sets.append(pool)
                return item
    return None


def refuse_overlap(calibration: Sequence[Dataset], held_out: Sequence[Dataset]) -> None:
    """Refuse an image that is in the ``train`` split of the calibration data and the ``val`` split of the held-out data.

    Images are compared by content, and whole splits are checked, not only the images that are drawn.

    Raises:
        RequestError: names both images; or a file cannot be read.
    """
    known = {content_hash(record): f"{data.name}/{data.key(record)}" for data in calibration for record in data.split("train")}
    for data in held_out:
        for record in data.split("val"):
            if twin := known.get(content_hash(record)):
                message = (
                    f"the image {data.name}/{data.key(record)} of the held-out split is also {twin} of the calibration data"
                )
                raise RequestError(message, "Split the data by case, so that no image is in two splits")


def simulated_requests(images: Images, per_image: int = 2) -> Iterator[tuple[ImageQuestions, list[PromptArguments]]]:
    """Requests as users would make them, drawn from the annotations of each image.

    Yields:
        the questions about an image, for its ``pixels``, and keyword arguments of ``Scan.ask``.
    """
    for turn, (data, record) in enumerate(images.items):
        questions = ImageQuestions(_NoModel(), data, record, images.seed)  # type: ignore[arg-type]  # opens nothing
        targets = list(questions.targets())
        requests: list[PromptArguments] = []
        for k in range(per_image):
            kind = KINDS[(turn * per_image + k) % len(KINDS)]
            if not targets:
                names = data.class_names or [record.region]
                requests.append({"text": names[turn % len(names)]})
                continue
            name, whole, parts = targets[(turn + k) % len(targets)]
            part = whole if kind == "text" else parts[(turn + k) % len(parts)]
            requests.append(questions.request(kind, name, part, k))
        yield questions, requests


class _NoModel:
    """For questions that are made before a model opens the image."""

    @staticmethod
    def open(pixels: np.ndarray) -> None:
        return None


def content_hash(record: Record) -> str:
    """SHA-256 of the image file, and of the frame number where the file holds several.

    Raises:
        RequestError: the file cannot be read.
    """
    digest = _digest(record.image)
    return hashlib.sha256(f"{digest} {record.frame}".encode()).hexdigest() if record.frame else digest


def _digest(path: Path) -> str:
    """SHA-256 of a file, cached while size and time of the file stay the same."""
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
