"""COCO instances: one JSON file of images, annotations and categories, and a folder of images.

Class ids are the category ids, or 1, 2, ... in their order if a used one does not fit a mask (0, or above 65535). All
annotations of an image become one class-id mask and one mask of instance ids; see :func:`.shapes.paint` for overlaps and
crowds. Images without annotations are negatives. Numbers may be texts ("1"), as some exporters write them.

Exporters such as CVAT mark every brush mask as a crowd. A crowd of one connected part is one object, and so is every crowd of
CVAT, which marks each object's annotation with ``attributes.occluded``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.imageio.masks import upright
from mimo_runtime.postprocessing.connected_components import label_components
from mimo_runtime.utils.messages import short

from .common import (
    JsonObject,
    check_first,
    class_name,
    inside,
    missing_files,
    modality_of,
    read_json,
    read_source,
    required_folder,
    required_region,
    required_source,
    stem_of,
    whole_number,
)
from .masks import count_turned
from .shapes import Shape, check, crop, draw, paint
from .writer import Item, Plan, Target

#: Id of an image.
Key = int | str

#: Values of ``iscrowd``, as number, true or text.
_FLAGS: dict[object, bool] = {
    0: False,
    1: True,
    "0": False,
    "1": True,
    "false": False,
    "true": True,
    "": False,
    "0.0": False,
    "1.0": True,
}
#: EXIF orientations that exchange height and width.
_QUARTER_TURNS = (5, 6, 7, 8)
_SKIP = "Repair it, or leave out the images with such annotations: --skip-unclear"


@dataclass(frozen=True)
class _Entry:
    """An image of the file; ``size`` (height, width) as the file states it, None if it does not."""

    path: Path
    file_name: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class _Annotation:
    """An annotation of a known image and category.

    Args:
        label: identifies it in messages.
        crowd: whether the file calls it a group of objects.
        one_object: whether its exporter is known to write one object per annotation.
    """

    label: str
    category: int
    segmentation: object
    crowd: bool
    one_object: bool


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
    required_source(source)
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
                drawing = _draw(source, entries[key], annotations[key], classes, modality, notes)
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
        key, name = _key(image.get("id")), image.get("file_name")
        path = inside(root, name)
        if key is None or path is None:
            raise RequestError(
                f"{source}: image {position} has no id, or no file_name inside the folder",
                "Write file_name relative to --images",
            )
        if key in entries or name in names:
            raise RequestError(f"{source}: image {key} ({name}) is listed twice", "List every image once")
        sides = [image.get("height"), image.get("width")]
        numbers = [whole_number(side) for side in sides]
        if sides != [None, None] and (numbers[0] is None or numbers[1] is None):
            what = f"{source}: image {key} has the height {short(sides[0])} and the width {short(sides[1])}"
            raise RequestError(what, "Write both as numbers of pixels, or leave both out")
        names.add(name)
        size = (numbers[0], numbers[1]) if numbers[0] is not None and numbers[1] is not None else None
        entries[key] = _Entry(path, str(name), size)
    return entries


def _key(value: object) -> Key | None:
    """An id: a whole number where it is one ("1" and 1.0 are 1), another text as it is."""
    number = whole_number(value)
    return number if number is not None else value if isinstance(value, str) and value else None


def _find(value: object, entries: dict[Key, _Entry]) -> Key | None:
    """The listed image of an id; 397133 is also "000000397133" where no other image has this number."""
    key = _key(value)
    if key is None or key in entries:
        return key
    same = [k for k in entries if isinstance(k, str) and k.isdecimal() and len(k) < 20 and int(k) == key]
    return same[0] if len(same) == 1 else None


def _categories(source: Path, listed: list[JsonObject]) -> dict[int, str]:
    names: dict[int, str] = {}
    for category in listed:
        key, name = whole_number(category.get("id")), category.get("name")
        if key is None or not isinstance(name, str) or not class_name(name):
            what = f"{source}: category {short(category.get('id'))} has no number or no name"
            raise RequestError(what, "Give every category an id and a name")
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
    for position, data in enumerate(listed, 1):
        annotation, key = _annotation(source, data, position, entries, names)
        annotations[key].append(annotation)
        if size := entries[key].size:
            try:
                check(annotation.segmentation, *size)
            except ValueError as error:
                if not skip_unclear:
                    raise RequestError(f"{source}: {annotation.label}: {error}", _SKIP) from None
                unclear.setdefault(key, f"{annotation.label}: {error}")
    return annotations, unclear


def _annotation(
    source: Path, data: JsonObject, position: int, entries: dict[Key, _Entry], names: dict[int, str]
) -> tuple[_Annotation, Key]:
    """One annotation, and the id of its image."""
    label = f"annotation {data['id']}" if whole_number(data.get("id")) is not None else f"annotation number {position}"
    key, category = _find(data.get("image_id"), entries), whole_number(data.get("category_id"))
    if key is None or key not in entries:
        message = f"{source}: {label} is of image {short(data.get('image_id'))}, which is not listed"
        raise RequestError(message, "Export images and annotations again")
    if category is None or category not in names:
        what = f"{source}: {label} is of category {short(data.get('category_id'))}, which is not listed"
        raise RequestError(what, "List it in categories")
    flag = data.get("iscrowd")
    crowd = _FLAGS.get(flag.strip().lower() if isinstance(flag, str) else flag if isinstance(flag, (int, float)) else None)
    if crowd is None and flag is not None:
        raise RequestError(f"{source}: {label} has iscrowd {short(flag)}", "Write it as 0 or 1")
    attributes = data.get("attributes")
    one_object = isinstance(attributes, dict) and "occluded" in attributes
    return _Annotation(label, category, data.get("segmentation"), bool(crowd), one_object), key


def _class_ids(names: dict[int, str], used: set[int]) -> dict[int, tuple[int, str]]:
    """For each category its class id and name."""
    kept = all(0 < key < 65536 for key in used)
    return {key: (key if kept else number, names[key]) for number, key in enumerate(sorted(used), 1)}


def _draw(
    source: Path,
    entry: _Entry,
    annotations: list[_Annotation],
    classes: dict[int, tuple[int, str]],
    modality: str | None,
    notes: Counter[str],
) -> _Drawing:
    """Read one image and draw its masks. Raises ValueError for an outline that cannot be drawn."""
    scan = count_turned(read_source(entry.path, modality), notes)
    size = scan.height, scan.width
    turned = entry.size == size[::-1] != size and scan.orientation in _QUARTER_TURNS
    if entry.size not in (size, None) and not turned:
        raise RequestError(
            f"{entry.path} is {scan.width}x{scan.height}, in {source.name} it is {entry.size[1]}x{entry.size[0]}",
            "Export again with the images as they are",
        )
    if turned:
        notes["images_with_outlines_drawn_on_the_stored_pixels_and_turned_like_them"] += 1
    elif scan.orientation != 1 and not (entry.size == size != size[::-1] and scan.orientation in _QUARTER_TURNS):
        notes["images_with_outlines_taken_as_drawn_on_the_upright_image"] += bool(annotations)
    shapes = []
    for annotation in annotations:
        try:
            shape = _shape(annotation.segmentation, size[::-1] if turned else size, scan.orientation if turned else 1)
        except ValueError as error:
            raise ValueError(f"{annotation.label}: {error}") from None
        single = annotation.crowd and (annotation.one_object or label_components(shape.mask)[1] == 1)
        notes["crowds_taken_as_one_object_each"] += single
        shapes.append((shape, classes[annotation.category][0], annotation.crowd and not single))
    labels, instances, hidden = paint(shapes, *size)
    notes["annotations_hidden_or_below_a_pixel"] += hidden
    notes["crowds_without_instances"] += sum(crowd for _, _, crowd in shapes)
    return _Drawing(scan, labels, instances)


def _shape(segmentation: object, size: tuple[int, int], orientation: int) -> Shape:
    """The pixels of a segmentation on an image of this stored size, upright."""
    check(segmentation, *size)
    shape = draw(segmentation, *size)
    if orientation == 1:
        return shape
    whole = np.zeros(size, dtype=bool)
    whole[shape.top : shape.top + shape.mask.shape[0], shape.left : shape.left + shape.mask.shape[1]] = shape.mask
    return crop(upright(whole, orientation))


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
        window=drawing.scan.window,
    )
