"""COCO instances: one JSON file of images, annotations and categories, and a folder of images.

Class ids are the category ids, or 1, 2, ... in their order if a used one does not fit a mask (0, or above 65535). All
annotations of an image become one class-id mask and one mask of instance ids; see :func:`.shapes.paint` for overlaps and
crowds. Images without annotations are negatives.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.imageio.reader import read_image

from .common import (
    JsonObject,
    check_first,
    class_name,
    inside,
    missing_files,
    modality_of,
    read_json,
    required_folder,
    required_region,
    stem_of,
)
from .shapes import check, draw, paint
from .writer import Item, Plan, Target

#: Id of an image.
Key = int | str

_SKIP = "Repair it, or leave out the images with such annotations: --skip-unclear"


@dataclass(frozen=True)
class _Entry:
    """An image of the file; ``size`` (height, width) as the file states it."""

    path: Path
    file_name: str
    size: tuple[object, object]


@dataclass(frozen=True)
class _Annotation:
    """An annotation of a known image and category; ``label`` identifies it in messages."""

    label: str
    category: int
    segmentation: object
    crowd: bool


@dataclass(frozen=True)
class _Drawing:
    """An image with its masks."""

    scan: ScanImage
    labels: np.ndarray
    instances: np.ndarray


def plan_coco(
    source: Path,
    target: Target,
    *,
    images: Path | None = None,
    modality: str | None = None,
    region: str | None = None,
    skip_unclear: bool = False,
) -> Plan:
    """Check a COCO file and plan its import.

    Args:
        source: the JSON file.
        images: the folder that ``file_name`` is relative to; that of the JSON file if left out.
        modality: needed unless the images are DICOM.
        skip_unclear: leave out images with an annotation that has no usable outline, instead of refusing the file.

    Raises:
        RequestError: names the file, and the image or annotation.
    """
    region = required_region(region)
    root = required_folder(images or source.parent, "--images", "Name the folder of the images with --images")
    data = read_json(source)
    lists = {key: data.get(key) if isinstance(data, dict) else None for key in ("images", "annotations", "categories")}
    for key, value in lists.items():
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise RequestError(f"{source} has no list of {key}", "Export it as COCO instances (object detection)")
    entries = _images(source, lists["images"], root)
    missing_files([entry.path for entry in entries.values()], "--images")
    names = _categories(source, lists["categories"])
    notes: Counter[str] = Counter()
    annotations, unclear = _annotations(source, lists["annotations"], entries, names, skip_unclear)
    classes = _class_ids(names, {a.category for group in annotations.values() for a in group})
    cases = {key: target.case_of(entry.file_name, stem_of(entry.file_name)) for key, entry in entries.items()}
    target.check_sources(source, root)
    if entries:
        check_first(next(iter(entries.values())).path, modality)

    def groups() -> Iterator[list[Item]]:
        for key in sorted(entries, key=lambda k: entries[k].file_name):
            try:
                if key in unclear:
                    raise ValueError(unclear[key])
                drawing = _draw(source, entries[key], annotations[key], classes, notes)
                yield [_item(entries[key], cases[key], drawing, dict(classes.values()), modality, region)]
            except ValueError as error:
                if not skip_unclear:
                    raise RequestError(f"{source}: {error}", _SKIP) from None
                notes["images_skipped_as_unclear"] += 1
                yield []

    return Plan(len(entries), groups(), notes)


def _images(source: Path, listed: list[JsonObject], root: Path) -> dict[Key, _Entry]:
    entries: dict[Key, _Entry] = {}
    names = set()
    for position, image in enumerate(listed, 1):
        key, name = image.get("id"), image.get("file_name")
        path = inside(root, name)
        if not isinstance(key, (int, str)) or path is None:
            raise RequestError(
                f"{source}: image {position} has no id, or no file_name inside the folder",
                "Write file_name relative to --images",
            )
        if key in entries or name in names:
            raise RequestError(f"{source}: image {key} ({name}) is listed twice", "List every image once")
        names.add(name)
        entries[key] = _Entry(path, str(name), (image.get("height"), image.get("width")))
    return entries


def _categories(source: Path, listed: list[JsonObject]) -> dict[int, str]:
    names: dict[int, str] = {}
    for category in listed:
        key, name = category.get("id"), category.get("name")
        if isinstance(key, bool) or not isinstance(key, int) or not isinstance(name, str) or not class_name(name):
            raise RequestError(f"{source}: category {key} has no number or no name", "Give every category an id and a name")
        if key in names:
            raise RequestError(f"{source}: category {key} is listed twice", "Give every category an id of its own")
        names[key] = class_name(name)
    return names


def _annotations(
    source: Path, listed: list[JsonObject], entries: dict[Key, _Entry], names: dict[int, str], skip_unclear: bool
) -> tuple[dict[Key, list[_Annotation]], dict[Key, str]]:
    """Annotations by image, and the images that have one without a usable outline, with the reason."""
    annotations: dict[Key, list[_Annotation]] = defaultdict(list)
    unclear: dict[Key, str] = {}
    for position, annotation in enumerate(listed, 1):
        label = f"annotation {annotation.get('id', f'number {position}')}"
        key, category = annotation.get("image_id"), annotation.get("category_id")
        if not isinstance(key, (int, str)) or key not in entries:
            message = f"{source}: {label} is of image {key}, which is not listed"
            raise RequestError(message, "Export images and annotations again")
        if not isinstance(category, int) or category not in names:
            raise RequestError(f"{source}: {label} is of category {category}, which is not listed", "List it in categories")
        segmentation = annotation.get("segmentation")
        annotations[key].append(_Annotation(label, category, segmentation, bool(annotation.get("iscrowd"))))
        height, width = entries[key].size
        if isinstance(height, int) and isinstance(width, int):
            try:
                check(segmentation, height, width)
            except ValueError as error:
                if not skip_unclear:
                    raise RequestError(f"{source}: {label}: {error}", _SKIP) from None
                unclear.setdefault(key, f"{label}: {error}")
    return annotations, unclear


def _class_ids(names: dict[int, str], used: set[int]) -> dict[int, tuple[int, str]]:
    """For each category its class id and name."""
    kept = all(0 < key < 65536 for key in used)
    return {key: (key if kept else number, names[key]) for number, key in enumerate(sorted(used), 1)}


def _draw(
    source: Path,
    entry: _Entry,
    annotations: list[_Annotation],
    classes: dict[int, tuple[int, str]],
    notes: Counter[str],
) -> _Drawing:
    """Read one image and draw its masks. Raises ValueError for an outline that cannot be drawn."""
    scan = read_image(entry.path)
    size = scan.height, scan.width
    if entry.size not in (size, (None, None)):
        raise RequestError(
            f"{entry.path} is {scan.width}x{scan.height}, in {source.name} it is {entry.size[1]}x{entry.size[0]}",
            "Export again with the images as they are, or turn them upright first (EXIF)",
        )
    shapes = []
    for annotation in annotations:
        try:
            check(annotation.segmentation, *size)
            shape = draw(annotation.segmentation, *size)
        except ValueError as error:
            raise ValueError(f"{annotation.label}: {error}") from None
        shapes.append((shape, classes[annotation.category][0], annotation.crowd))
    labels, instances, hidden = paint(shapes, *size)
    notes["annotations_hidden_or_below_a_pixel"] += hidden
    notes["crowds_without_instances"] += sum(crowd for _, _, crowd in shapes)
    return _Drawing(scan, labels, instances)


def _item(entry: _Entry, case: str, drawing: _Drawing, classes: dict[int, str], modality: str | None, region: str) -> Item:
    return Item(
        pixels=drawing.scan.pixels,
        labels=drawing.labels,
        classes=classes,
        source=stem_of(entry.file_name),
        case=case,
        modality=modality_of(modality, drawing.scan, entry.path),
        region=region,
        spacing_mm=drawing.scan.spacing_mm,
        instances=drawing.instances,
    )
