"""A folder of images and a folder of masks with the same names, or one sub-folder of masks per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.reader import read_image

from .common import check_first, class_name, few, find_images, modality_of, required_folder, required_region
from .masks import read_binary, read_ids
from .shapes import crop, paint
from .writer import Item, Plan, Target

KINDS = ("auto", "binary", "ids", "class-folders")


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
    """Match images and masks by their paths without suffix, and say what they will give.

    Args:
        source: the folder of images; or, without ``masks``, one with the folders ``images`` and ``masks``.
        classes: names by id; for class folders they give the ids (else 1, 2, ... in the order of the names).
        kind: ``binary`` (any value above the threshold is class 1), ``ids`` (values are class ids) or ``class-folders``.
            ``auto``: class folders if the masks lie in sub-folders that the images do not have, binary if class 1 alone is
            named, else ids; and masks with several values where one is expected are refused.
        mask_suffix: what a mask's name has more than its image's, e.g. ``_mask``.
        modality: needed unless the images are DICOM.
        allow_missing_masks: images without a mask are negatives.

    Raises:
        RequestError: names the files that do not match, or the option.
    """
    region, given = required_region(region), dict(classes or {})
    if kind not in KINDS:
        raise RequestError(f"--kind {kind} is unknown", f"Choose one of {', '.join(KINDS)}")
    images_root = source if masks is not None else source / "images"
    masks_root = masks if masks is not None else source / "masks"
    remedy = "Name the folder of images, and that of masks with --masks"
    required_folder(images_root, "the folder of images", remedy)
    required_folder(masks_root, "the folder of masks", remedy)
    if masks_root.resolve() == images_root.resolve():
        raise RequestError("images and masks are in one folder", "Move the masks to a folder of their own: --masks")
    images, others = find_images(images_root)
    if masks_root.resolve().is_relative_to(images_root.resolve()):  # masks below the images are no images
        images = {key: path for key, path in images.items() if not path.resolve().is_relative_to(masks_root.resolve())}
    found, other_masks = find_images(masks_root)
    careful = kind == "auto"  # who names the kind is taken at his word
    if careful:
        kind = _kind(given, images, found, mask_suffix)
    wanted, names = _by_image(kind, given, found, mask_suffix)
    _check_matches(images, wanted, masks_root, mask_suffix, allow_missing_masks)
    cases = {key: target.case_of(path.relative_to(images_root).as_posix(), key) for key, path in images.items()}
    target.check_sources(images_root, masks_root)
    check_first(next(iter(images.values())), modality)
    notes = Counter({"other_files_ignored": others + other_masks})

    def groups() -> Iterator[list[Item]]:
        for key, path in images.items():
            scan = read_image(path)
            labels = None
            if kind == "ids" and key in wanted:
                labels = read_ids(wanted[key][0][1])
            elif key in wanted:
                shapes = [(i, read_binary(mask, threshold, any_value=not careful), mask) for i, mask in wanted[key]]
                labels = _painted(shapes, (scan.height, scan.width), notes)
            yield [
                Item(
                    pixels=scan.pixels,
                    labels=labels,
                    classes=names,
                    source=key,
                    case=cases[key],
                    modality=modality_of(modality, scan, path),
                    region=region,
                    spacing_mm=scan.spacing_mm,
                )
            ]

    return Plan(len(images), groups(), notes)


def _kind(given: Mapping[int, str], images: Mapping[str, Path], masks: Mapping[str, Path], suffix: str) -> str:
    """What the masks are, if nobody says."""
    below = [_image_of(key.partition("/")[2], suffix) for key in masks]
    if all("/" in key and _image_of(key, suffix) not in images for key in masks) and any(key in images for key in below):
        return "class-folders"
    return "binary" if set(given) == {1} else "ids"


def _image_of(key: str, suffix: str) -> str | None:
    """The path of the image that a mask is of, without file suffix; None if the mask's name lacks ``suffix``."""
    return key[: len(key) - len(suffix)] if key.endswith(suffix) else None


def _by_image(
    kind: str, given: dict[int, str], masks: Mapping[str, Path], suffix: str
) -> tuple[dict[str, list[tuple[int, Path]]], dict[int, str]]:
    """For each image its masks with their class id (0: the mask holds ids), and the names of the classes."""
    names = given
    if kind == "class-folders":
        folders = sorted({key.partition("/")[0] for key in masks if "/" in key})
        by_name = {name: i for i, name in given.items()} or {class_name(name): i for i, name in enumerate(folders, 1)}
        strange = [folder for folder in folders if class_name(folder) not in by_name]
        if strange or not folders or len(folders) > len({class_name(folder) for folder in folders}):
            told = f"the folders {few(strange or folders)} of masks are not one per class of --classes"
            raise RequestError(told, "Sort the masks as CLASS/NAME.png, and name these classes or none")
        names = {i: name for name, i in by_name.items()}
    elif not given:
        raise RequestError("the classes have no names", "Name them, e.g. --classes '1=polyp'")
    elif kind == "binary" and set(given) != {1}:
        raise RequestError("--kind binary has one class, with id 1", "Name it as --classes '1=NAME', or take --kind ids")
    wanted: dict[str, list[tuple[int, Path]]] = {}
    for key, path in masks.items():
        folder, _, rest = key.partition("/") if kind == "class-folders" else ("", "", key)
        image = _image_of(rest, suffix)
        if not image:
            raise RequestError(f"the name of the mask {path} does not end in '{suffix}'", "Check --mask-suffix")
        wanted.setdefault(image, []).append((by_name[class_name(folder)] if folder else int(kind == "binary"), path))
    return wanted, names


def _check_matches(
    images: Mapping[str, Path], wanted: Mapping[str, object], masks_root: Path, suffix: str, allow_missing: bool
) -> None:
    stray = sorted(set(wanted) - set(images))
    if stray:
        told = f"{len(stray)} of {len(wanted)} masks in {masks_root} have no image: {few(key + suffix for key in stray)}"
        raise RequestError(told, "Give image and mask the same name, say what differs with --mask-suffix, or remove the masks")
    bare = sorted(set(images) - set(wanted))
    if bare and not allow_missing:
        told = f"{len(bare)} of {len(images)} images have no mask in {masks_root}: {few(bare)}"
        raise RequestError(told, "Add the masks, or take these images as negatives: --allow-missing-masks")


def _painted(shapes: list[tuple[int, np.ndarray, Path]], size: tuple[int, int], notes: Counter[str]) -> np.ndarray:
    """The masks of an image as class ids, smaller structures on top."""
    for _, mask, path in shapes:
        if mask.shape != size:
            told = f"{path} is {mask.shape[1]}x{mask.shape[0]}, its image {size[1]}x{size[0]}"
            raise RequestError(told, "Save the mask at the size of the image")
    cropped = [(crop(mask), class_id, False) for class_id, mask, _ in shapes]
    labels, _, hidden = paint(cropped, *size)
    notes["masks_hidden_by_others"] += hidden - sum(not shape.area for shape, _, _ in cropped)
    return labels
