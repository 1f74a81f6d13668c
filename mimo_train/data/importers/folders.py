"""A folder of images and a folder of masks with the same names, or one sub-folder of masks per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.utils.messages import few

from .common import (
    check_first,
    class_name,
    find_images,
    modality_of,
    read_source,
    required_folder,
    required_region,
    required_source,
)
from .masks import count_turned, read_binary, read_ids
from .shapes import crop, paint
from .writer import Item, Plan, Target

KINDS = ("auto", "binary", "ids", "class-folders")


#: For each image, by path without suffix, its masks with their class id; id 0 says that the mask holds ids.
MasksByImage = dict[str, list[tuple[int, Path]]]


def plan_folders(
    source: Path,
    target: Target,
    *,
    masks: Path | None = None,
    classes: Mapping[int, str] | None = None,
    kind: str = "auto",
    threshold: int = 0,
    mask_suffix: str = "",
    modality: str | None = None,
    region: str | None = None,
    allow_missing_masks: bool = False,
) -> Plan:
    """Match images and masks by their paths without suffix, and plan their import.

    Args:
        source: the folder of images; or, without ``masks``, one with the folders ``images`` and ``masks``.
        classes: names by id; for class folders they define the ids (else 1, 2, ... in the order of the names).
        kind: ``binary`` (any value above the threshold is class 1), ``ids`` (values are class ids) or ``class-folders``.
            ``auto``: class folders if the masks lie in sub-folders that the images do not have, binary if only class 1 is
            named, else ids. With ``auto``, masks with several values where one is expected are refused.
        mask_suffix: the part of a mask's name that its image's name does not have, e.g. ``_mask``.
        modality: needed unless the images are DICOM.
        allow_missing_masks: images without a mask are negatives.

    Raises:
        RequestError: names the files that do not match, or the option.
    """
    required_source(source)
    region = required_region(region)
    if kind not in KINDS:
        raise RequestError(f"--kind {kind} is unknown", f"Choose one of {', '.join(KINDS)}")
    images_root, masks_root = _roots(source, masks)
    images, others = find_images(images_root, excluded=masks_root)
    mask_files, other_masks = find_images(masks_root)
    any_value = kind != "auto"  # an explicit kind decides what several values mean
    if kind == "auto":
        kind = _kind(classes or {}, images, mask_files, mask_suffix)
    by_image, names = _by_image(kind, dict(classes or {}), mask_files, mask_suffix)
    _check_matches(images, by_image, masks_root, mask_suffix, allow_missing_masks)
    cases = {key: target.case_of(path.relative_to(images_root).as_posix(), key) for key, path in images.items()}
    target.check_sources(images_root, masks_root)
    check_first(next(iter(images.values())), modality)
    notes = Counter({"other_files_ignored": others + other_masks})

    def items(key: str, path: Path) -> list[Item]:
        scan = count_turned(read_source(path, modality), notes)
        labels = _labels(kind, by_image.get(key), scan, threshold, any_value, notes)
        facts = cases[key], modality_of(modality, scan, path), region
        return [Item(scan.pixels, labels, names, key, *facts, scan.spacing_mm, window=scan.window)]

    return Plan(len(images), (items(key, path) for key, path in images.items()), notes)


def _roots(source: Path, masks: Path | None) -> tuple[Path, Path]:
    """The folders of images and of masks."""
    images_root = source if masks is not None else source / "images"
    masks_root = masks if masks is not None else source / "masks"
    remedy = "Name the folder of images, and that of masks with --masks"
    required_folder(images_root, "the folder of images", remedy)
    required_folder(masks_root, "the folder of masks", remedy)
    if masks_root.resolve() == images_root.resolve():
        raise RequestError("images and masks are in one folder", "Move the masks to a folder of their own: --masks")
    return images_root, masks_root


def _labels(
    kind: str,
    masks: list[tuple[int, Path]] | None,
    scan: ScanImage,
    threshold: int,
    any_value: bool,
    notes: Counter[str],
) -> np.ndarray | None:
    """The masks of an image as class ids; None without a mask."""
    if masks is None:
        return None
    if kind == "ids":
        return read_ids(masks[0][1], scan, notes)
    shapes = [(class_id, read_binary(path, scan, notes, threshold, any_value)) for class_id, path in masks]
    return _painted(shapes, (scan.height, scan.width), notes)


def _kind(classes: Mapping[int, str], images: Mapping[str, Path], masks: Mapping[str, Path], suffix: str) -> str:
    """The kind of the masks for ``auto``."""
    below = [_image_of(key.partition("/")[2], suffix) for key in masks]
    if all("/" in key and _image_of(key, suffix) not in images for key in masks) and any(key in images for key in below):
        return "class-folders"
    return "binary" if set(classes) == {1} else "ids"


def _image_of(key: str, suffix: str) -> str | None:
    """The path of the image that a mask is of, without file suffix; None if the mask's name lacks ``suffix``."""
    return key[: len(key) - len(suffix)] if key.endswith(suffix) else None


def _by_image(kind: str, names: dict[int, str], masks: Mapping[str, Path], suffix: str) -> tuple[MasksByImage, dict[int, str]]:
    """The masks of each image, and the names of the classes."""
    if kind == "class-folders":
        folders = sorted({key.partition("/")[0] for key in masks if "/" in key})
        by_name = {name: i for i, name in names.items()} or {class_name(name): i for i, name in enumerate(folders, 1)}
        unknown = [folder for folder in folders if class_name(folder) not in by_name]
        if unknown or not folders or len(folders) > len({class_name(folder) for folder in folders}):
            message = f"the folders {few(unknown or folders)} of masks are not one per class of --classes"
            raise RequestError(message, "Sort the masks as CLASS/NAME.png, and name these classes or none")
        names = {i: name for name, i in by_name.items()}
    elif not names:
        raise RequestError("the classes have no names", "Name them, e.g. --classes '1=polyp'")
    elif kind == "binary" and set(names) != {1}:
        raise RequestError("--kind binary has one class, with id 1", "Name it as --classes '1=NAME', or take --kind ids")
    by_image: MasksByImage = {}
    for key, path in masks.items():
        folder, _, rest = key.partition("/") if kind == "class-folders" else ("", "", key)
        image = _image_of(rest, suffix)
        if not image:
            raise RequestError(f"the name of the mask {path} does not end in '{suffix}'", "Check --mask-suffix")
        by_image.setdefault(image, []).append((by_name[class_name(folder)] if folder else int(kind == "binary"), path))
    return by_image, names


def _check_matches(
    images: Mapping[str, Path], by_image: MasksByImage, masks_root: Path, suffix: str, allow_missing: bool
) -> None:
    stray = sorted(set(by_image) - set(images))
    if stray:
        raise RequestError(
            f"{len(stray)} of {len(by_image)} masks in {masks_root} have no image: {few(key + suffix for key in stray)}",
            "Give image and mask the same name, name the difference with --mask-suffix, or remove the masks",
        )
    unmasked = sorted(set(images) - set(by_image))
    if unmasked and not allow_missing:
        message = f"{len(unmasked)} of {len(images)} images have no mask in {masks_root}: {few(unmasked)}"
        raise RequestError(message, "Add the masks, or take these images as negatives: --allow-missing-masks")


def _painted(shapes: list[tuple[int, np.ndarray]], size: tuple[int, int], notes: Counter[str]) -> np.ndarray:
    """The masks of an image as class ids, smaller structures on top."""
    cropped = [(crop(mask), class_id, False) for class_id, mask in shapes]
    labels, _, hidden = paint(cropped, *size)
    notes["masks_hidden_by_others"] += hidden - sum(not shape.area for shape, _, _ in cropped)
    return labels
