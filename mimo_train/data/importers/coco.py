"""COCO instances: one JSON file of images, annotations and categories, and a folder of images.

Class ids are the category ids, or 1, 2, ... in their order if a used one does not fit a mask (0, or above 65535). All
annotations of an image become one class-id mask and one mask of instance ids; see :func:`.shapes.paint` for overlaps and
crowds. Images without annotations are negatives.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.reader import read_image

from .common import (
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

_SKIP = "Repair it, or leave out the images with such annotations: --skip-unclear"


def plan_coco(
    source: Path,
    target: Target,
    *,
    images: Path | None = None,
    modality: str | None = None,
    region: str | None = None,
    skip_unclear: bool = False,
) -> Plan:
    """Check a COCO file and say what it will give.

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
    missing_files([entry["path"] for entry in entries.values()], "--images")
    names = _categories(source, lists["categories"])
    notes: Counter[str] = Counter()
    annotations, unclear = _annotations(source, lists["annotations"], entries, names, skip_unclear)
    classes = _class_ids(names, {a["category_id"] for group in annotations.values() for a in group})
    for entry in entries.values():
        entry["case"] = target.case_of(entry["file_name"], stem_of(entry["file_name"]))
    target.check_sources(source, root)
    if entries:
        check_first(next(iter(entries.values()))["path"], modality)

    def groups() -> Iterator[list[Item]]:
        for key in sorted(entries, key=lambda k: entries[k]["file_name"]):
            try:
                if key in unclear:
                    raise ValueError(unclear[key])
                yield [_item(source, entries[key], annotations[key], classes, notes, modality, region)]
            except ValueError as error:
                if not skip_unclear:
                    raise RequestError(f"{source}: {error}", _SKIP) from None
                notes["images_skipped_as_unclear"] += 1
                yield []

    return Plan(len(entries), groups(), notes)


def _images(source: Path, listed: list[dict[str, Any]], root: Path) -> dict[Any, dict[str, Any]]:
    entries: dict[Any, dict[str, Any]] = {}
    names = set()
    for position, image in enumerate(listed, 1):
        key, name = image.get("id"), image.get("file_name")
        path = inside(root, name)
        if not isinstance(key, (int, str)) or path is None:
            told = f"{source}: image {position} has no id, or no file_name inside the folder"
            raise RequestError(told, "Write file_name relative to --images")
        if key in entries or name in names:
            raise RequestError(f"{source}: image {key} ({name}) is listed twice", "List every image once")
        names.add(name)
        entries[key] = {"path": path, "file_name": name, "size": (image.get("height"), image.get("width"))}
    return entries


def _categories(source: Path, listed: list[dict[str, Any]]) -> dict[int, str]:
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
    source: Path, listed: list[dict[str, Any]], entries: dict[Any, Any], names: dict[int, str], skip_unclear: bool
) -> tuple[dict[Any, list[dict[str, Any]]], dict[Any, str]]:
    """Annotations by image, and the images that have one without a usable outline, with the reason."""
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    unclear: dict[Any, str] = {}
    for position, annotation in enumerate(listed, 1):
        told = f"annotation {annotation.get('id', f'number {position}')}"
        key, category = annotation.get("image_id"), annotation.get("category_id")
        if not isinstance(key, (int, str)) or key not in entries:
            raise RequestError(f"{source}: {told} is of image {key}, which is not listed", "Export images and annotations anew")
        if not isinstance(category, int) or category not in names:
            raise RequestError(f"{source}: {told} is of category {category}, which is not listed", "List it in categories")
        found[key].append(annotation | {"told": told})
        height, width = entries[key]["size"]
        if isinstance(height, int) and isinstance(width, int):
            try:
                check(annotation.get("segmentation"), height, width)
            except ValueError as error:
                if not skip_unclear:
                    raise RequestError(f"{source}: {told}: {error}", _SKIP) from None
                unclear.setdefault(key, f"{told}: {error}")
    return found, unclear


def _class_ids(names: dict[int, str], used: set[int]) -> dict[int, tuple[int, str]]:
    """For each category its class id and name."""
    kept = all(0 < key < 65536 for key in used)
    return {key: (key if kept else number, names[key]) for number, key in enumerate(sorted(used), 1)}


def _item(
    source: Path,
    entry: dict[str, Any],
    annotations: list[dict[str, Any]],
    classes: dict[int, tuple[int, str]],
    notes: Counter[str],
    modality: str | None,
    region: str,
) -> Item:
    """One image with its masks. Raises ValueError for an outline that cannot be drawn."""
    scan = read_image(entry["path"])
    size = scan.height, scan.width
    if entry["size"] not in (size, (None, None)):
        told = f"{entry['path']} is {scan.width}x{scan.height}, in {source.name} it is {entry['size'][1]}x{entry['size'][0]}"
        raise RequestError(told, "Export again with the images as they are, or turn them upright first (EXIF)")
    shapes = []
    for annotation in annotations:
        try:
            check(annotation.get("segmentation"), *size)
            shape = draw(annotation["segmentation"], *size)
        except ValueError as error:
            raise ValueError(f"{annotation['told']}: {error}") from None
        shapes.append((shape, classes[annotation["category_id"]][0], bool(annotation.get("iscrowd"))))
    labels, instances, hidden = paint(shapes, *size)
    notes["annotations_hidden_or_below_a_pixel"] += hidden
    notes["crowds_without_instances"] += sum(crowd for _, _, crowd in shapes)
    return Item(
        pixels=scan.pixels,
        labels=labels,
        classes=dict(classes.values()),
        source=stem_of(entry["file_name"]),
        case=entry["case"],
        modality=modality_of(modality, scan, entry["path"]),
        region=region,
        spacing_mm=scan.spacing_mm,
        instances=instances,
    )
