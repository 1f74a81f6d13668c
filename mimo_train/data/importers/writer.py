"""The writer of imported data sets: case names, splits, file names and files.

Names of files and cases in a source often identify a person, so by default none of them is written. Files are numbered, and a
case is the beginning of the SHA-256 of its name. Pixels are encoded again, so no DICOM or EXIF tag is copied.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image

from mimo_runtime.data.dataset import FILE_NAME, INTENSITY_WINDOW, SPLITS, Dataset
from mimo_runtime.errors import RequestError
from mimo_runtime.utils.atomic import atomic_folder, check_output_folder

_CASE_DIGITS = 12


@dataclass(frozen=True, eq=False)
class Item:
    """One image to write into a set.

    Args:
        pixels: uint8 ``[H, W]`` or ``[H, W, 3]``.
        labels: class ids ``[H, W]`` from 0 to 65535, 0 is background; None for a negative image.
        classes: name of every id that may occur; ids of one name become one.
        source: the image's name in the source; written only with ``Target.keep_names``.
        case: from :meth:`Target.case_of`.
        spacing_mm: (row, column).
        instances: instance ids ``[H, W]``, 0 is none; any numbers, they are renumbered.
        window: (centre, width) that made the grey values, as ``ScanImage.window``.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    classes: Mapping[int, str]
    source: str
    case: str
    modality: str
    region: str
    spacing_mm: tuple[float, float] | None = None
    instances: np.ndarray | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)
    window: tuple[float, float] | None = None


@dataclass
class Plan:
    """The images of a source, in ``total`` groups (files or volumes).

    ``notes`` counts what was left out or changed; it is complete after the last group.
    """

    total: int
    groups: Iterator[Iterable[Item]]
    notes: Counter[str]


class SetSummary(TypedDict):
    """JSON about a written set; ``splits`` and ``classes`` count images."""

    folder: str
    images: int
    negatives: int
    cases: int
    splits: dict[str, int]
    classes: dict[str, int]
    notes: dict[str, int]


class DatasetRow(TypedDict, total=False):
    """A line of ``dataset.jsonl``."""

    image: str
    mask: str
    case: str
    split: str
    modality: str
    region: str
    classes: dict[str, str]
    pixel_spacing_mm: list[float]
    attributes: dict[str, object]
    instances: str


@dataclass(frozen=True)
class Target:
    """The output folder of a set, and the names and splits of its cases.

    Args:
        splits: shares of train, val and test; they add up to 1.
        seed: another seed gives other splits.
        case_pattern: regular expression whose first group, searched in the source's name of a file, is the case.
        keep_names: write the source's names of files and cases.
        force: replace a data set that is already there.

    Raises:
        RequestError: one of them is wrong, or the output cannot be written or is not empty.
    """

    output: Path
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    case_pattern: str | None = None
    keep_names: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        shares = self.splits
        if len(shares) != len(SPLITS) or not all(0 <= s <= 1 for s in shares) or abs(sum(shares) - 1) > 1e-6:
            text = ",".join(f"{s:g}" for s in shares)
            raise RequestError(f"--splits {text} is not three shares that add up to 1", "Write them as 0.8,0.1,0.1")
        try:
            groups = re.compile(self.case_pattern).groups if self.case_pattern is not None else 1
        except re.error as error:
            raise RequestError(f"--case-pattern is not a regular expression: {error}", "Escape special characters") from None
        if not groups:
            raise RequestError("--case-pattern has no group", r"Put the case in parentheses, e.g. '^(patient\d+)_'")
        check_output_folder(self.output, self.force, FILE_NAME)

    def case_of(self, name: str, default: str) -> str:
        """The case of the source's file ``name``; ``default`` without a pattern.

        Raises:
            RequestError: the pattern does not match.
        """
        if self.case_pattern is None:
            return default
        match = re.search(self.case_pattern, name)
        if not match or not match.group(1):
            raise RequestError(f"--case-pattern finds no case in {name}", "Write a pattern that fits every file name")
        return match.group(1)

    def split_of(self, case: str) -> str:
        """The split of a case; it depends on its name and the seed only, so further cases do not move it."""
        digest = hashlib.sha256(f"{self.seed}:{case}".encode()).hexdigest()
        place = int(digest[:13], 16) / 16**13
        for name, edge in zip(SPLITS, accumulate(self.splits)):
            if place < edge:
                return name
        return max(name for name, share in zip(SPLITS, self.splits) if share)  # rounding: the shares add up to nearly 1

    def check_sources(self, *sources: Path | None) -> None:
        """Refuse to replace a folder that contains a source."""
        output = Path(os.path.realpath(self.output))
        for source in sources:
            if source is not None and Path(os.path.realpath(source)).is_relative_to(output):
                raise RequestError(f"-o {self.output} holds the source {source}", "Choose another folder with -o")


def write_set(plan: Plan, target: Target, progress: Callable[[int, int], None] | None = None) -> SetSummary:
    """Write all images of a plan; the folder appears only after everything is written and read back.

    Args:
        progress: called as ``progress(done, total)`` after every group.

    Raises:
        RequestError: the source is flawed, gives no image, or the disk cannot be written.
    """
    negatives, splits, classes, cases = 0, dict.fromkeys(SPLITS, 0), Counter[str](), set[str]()
    names = _Names(target.keep_names)
    with atomic_folder(target.output, target.force, FILE_NAME) as folder:
        lines = []
        for done, group in enumerate(plan.groups, 1):
            for item in group:
                record = _write(folder, item, names.next(item.source), target)
                lines.append(json.dumps(record, ensure_ascii=False) + "\n")
                negatives += not record["classes"]
                splits[record["split"]] += 1
                cases.add(record["case"])
                classes.update(set(record["classes"].values()))
            if progress:
                progress(done, plan.total)
        if not lines:
            raise RequestError("the source has no image to import", "Check the path and the options that leave images out")
        _saved(folder / FILE_NAME, lambda path: path.write_text("".join(lines), "utf-8", newline="\n"))
        Dataset.read(folder)
    notes = {name: count for name, count in sorted(plan.notes.items()) if count}
    return {
        "folder": str(target.output),
        "images": len(lines),
        "negatives": negatives,
        "cases": len(cases),
        "splits": splits,
        "classes": dict(sorted(classes.items())),
        "notes": notes,
    }


class _Names:
    """File names without suffix: 000001, 000002, ..., or the source's names, safe and unique."""

    def __init__(self, keep: bool) -> None:
        self._keep, self._count, self._used = keep, 0, set[str]()

    def next(self, source: str) -> str:
        self._count += 1
        if not self._keep:
            return f"{self._count:06d}"
        base = re.sub(r"[^\w.-]+", "_", source).strip("._") or "image"
        name, number = base, 1
        while name.casefold() in self._used:  # some file systems ignore case
            number += 1
            name = f"{base}-{number}"
        self._used.add(name.casefold())
        return name


def _write(folder: Path, item: Item, name: str, target: Target) -> DatasetRow:
    """Save one image with its masks; returns its line of ``dataset.jsonl``."""
    shape, labels, present = item.pixels.shape[:2], item.labels, {}
    if item.labels is not None:
        if item.labels.shape != shape:
            size = f"{item.labels.shape[1]}x{item.labels.shape[0]}, its image {shape[1]}x{shape[0]}"
            raise RequestError(f"the mask of {item.source} is {size}", "Save the mask at the size of the image")
        ids = [int(v) for v in np.unique(item.labels) if v]
        unknown = [i for i in ids if i not in item.classes]
        if unknown:
            few = f"{unknown[:5]}" + (" and more" if len(unknown) > 5 else "")
            raise RequestError(f"the mask of {item.source} holds class ids {few} without a name", "Name them: --classes")
        labels = _merged(item.labels, ids, item.classes)
        present = {str(i): item.classes[i] for i in np.unique(labels).tolist() if i}
    record: DatasetRow = {"image": f"images/{name}.png"}
    _png(folder / "images" / f"{name}.png", _without_equal_channels(item.pixels))
    if present:
        record["mask"] = f"masks/{name}.png"
        _png(folder / "masks" / f"{name}.png", _small(labels))
    case = item.case if target.keep_names else hashlib.sha256(item.case.encode()).hexdigest()[:_CASE_DIGITS]
    record |= {"case": case, "split": target.split_of(item.case), "modality": item.modality, "region": item.region}
    record["classes"] = present
    if item.spacing_mm is not None:
        record["pixel_spacing_mm"] = [float(v) for v in item.spacing_mm]
    window = {} if item.window is None else {INTENSITY_WINDOW: list(item.window)}
    if attributes := {**item.attributes, **window}:
        record["attributes"] = attributes
    if present and item.instances is not None:
        record["instances"] = f"instances/{name}.png"
        _png(folder / "instances" / f"{name}.png", _small(_renumbered(item.instances)))
    return record


def _merged(labels: np.ndarray, ids: list[int], classes: Mapping[int, str]) -> np.ndarray:
    """Class ids of one name become the lowest of them, in every image the same."""
    lowest: dict[str, int] = {}
    for i in sorted(classes):
        lowest.setdefault(classes[i], i)
    for i in ids:
        if lowest[classes[i]] != i:
            labels = np.where(labels == i, lowest[classes[i]], labels)
    return labels


def _renumbered(instances: np.ndarray) -> np.ndarray:
    """Instance ids as 1 to N; 0 stays."""
    values, inverse = np.unique(instances, return_inverse=True)
    return inverse.reshape(instances.shape) + (0 if values[0] == 0 else 1)


def _without_equal_channels(pixels: np.ndarray) -> np.ndarray:
    """Three equal channels become one grey channel."""
    grey = pixels.ndim == 3 and all(np.array_equal(pixels[..., 0], pixels[..., k]) for k in (1, 2))
    return np.ascontiguousarray(pixels[..., 0]) if grey else pixels


def _small(ids: np.ndarray) -> np.ndarray:
    """Ids as uint8 where they fit, else uint16."""
    if ids.max() > 65535:
        raise RequestError(f"an image has {ids.max()} instances", "Cut it into tiles: a mask holds at most 65535")
    return np.ascontiguousarray(ids.astype(np.uint8 if ids.max() < 256 else np.uint16))


def _png(path: Path, values: np.ndarray) -> None:
    def save(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(path, "PNG", compress_level=3)

    _saved(path, save)


def _saved(path: Path, save: Callable[[Path], object]) -> None:
    try:
        save(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RequestError(f"the output cannot be written: {reason}", "Choose a folder on a disk with room, with -o") from None
