"""nnU-Net raw folders and Medical Segmentation Decathlon folders: volumes that become slices.

``dataset.json`` comes in two dialects. nnU-Net v2: ``labels {"liver": 1}``, ``channel_names``, and files identified by name
(``imagesTr/CASE_0000.nii.gz`` for each channel, ``labelsTr/CASE.nii.gz``). MSD (and nnU-Net v1): ``labels {"1": "liver"}``,
``modality``, ``training [{"image", "label"}]`` with the channels on a fourth axis. All slices of a volume are one case.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.image import check_size
from mimo_runtime.utils.names import few

from .common import JsonObject, class_name, inside, known_modality, read_json, required_folder, required_region
from .slices import Case, Slicing, slices
from .volume import Volume
from .writer import Item, Plan, Target

_ENDINGS = (".nii.gz", ".nii")
#: Case, image, label, and the channel's place on the fourth axis of the image.
_Files = tuple[str, Path, Path, int]
#: Names that data sets give to MR channels, without signs.
_MR = re.compile(r"mri?|t[12](w|gd|ce|c|wi)?|ce?t1\w*|flair|t2flair|adc|dwi|cine(mri)?|mrt[12]|pd")


def plan_nnunet(
    source: Path,
    target: Target,
    *,
    modality: str | None = None,
    region: str | None = None,
    classes: Mapping[int, str] | None = None,
    channel: str = "0",
    slicing: Slicing | None = None,
) -> Plan:
    """Check an nnU-Net v2 or MSD folder, all headers included, and plan its import.

    Args:
        modality: needed unless the channel's name implies it.
        classes: names that replace those of ``dataset.json``.
        channel: number or name of the channel that becomes the image.

    Raises:
        RequestError: names the file or the option.
    """
    slicing = slicing or Slicing()
    region = required_region(region)
    required_folder(source, "the source", "Name the folder that holds dataset.json")
    data = read_json(source / "dataset.json")
    if not isinstance(data, dict):
        raise RequestError(f"{source / 'dataset.json'} is not a JSON object", "Use the dataset.json of nnU-Net v2 or MSD")
    names, ignored = _labels(source / "dataset.json", data.get("labels"), classes or {})
    index, channel_name = _channel(source / "dataset.json", data, channel)
    modality = known_modality(modality or "") or _modality_of_channel(channel_name)
    if not modality:
        raise RequestError(f"channel '{channel_name}' names no modality", "Name it with --modality, e.g. mri")
    cases = [_opened(*files, slicing.plane, target) for files in _files(source, data, index)]
    target.check_sources(source)
    notes: Counter[str] = Counter()

    def groups() -> Iterator[Iterator[Item]]:
        for case in cases:
            yield slices(case, names, ignored, slicing, target.seed, notes, modality, region)

    return Plan(len(cases), groups(), notes)


def _labels(path: Path, labels: object, own_names: Mapping[int, str]) -> tuple[dict[int, str], int | None]:
    """Names by id, and the id of pixels without annotation (nnU-Net's "ignore")."""
    if not isinstance(labels, dict) or not labels:
        raise RequestError(f"{path} has no labels", "Use the dataset.json of nnU-Net v2 or MSD")
    names: dict[int, str] = {}
    regions: dict[str, list[int]] = {}
    for key, value in labels.items():
        if isinstance(value, str) and key.isdecimal():
            names[int(key)] = value
        elif isinstance(value, int):
            names[value] = key
        elif isinstance(value, list) and all(isinstance(v, int) for v in value):
            regions[key] = value
        else:
            raise RequestError(f"{path}: label {key} is neither an id nor a name", 'Write it as "liver": 1 or "1": "liver"')
    ignored = next((i for i, name in names.items() if name.lower() == "ignore" and i not in own_names), None)
    names = {i: class_name(name) for i, name in names.items() if i not in (0, ignored)} | dict(own_names)
    unnamed = sorted({i for ids in regions.values() for i in ids if i} - set(names))
    if unnamed:
        raise RequestError(
            f"{path}: the regions {few(regions)} overlap, and ids {unnamed} have no name of their own",
            f"Name them: --classes '{unnamed[0]}=NAME'",
        )
    if not all(0 < i < 65536 and name for i, name in names.items()):
        raise RequestError(f"{path}: a label has an empty name, or an id outside 1 to 65535", "Repair the labels")
    return names, ignored


def _channel(path: Path, data: JsonObject, wanted: str) -> tuple[int, str]:
    """Number and name of the requested channel."""
    listed = data.get("channel_names") or data.get("modality") or {"0": ""}
    if not isinstance(listed, dict) or not all(str(k).isdecimal() for k in listed):
        raise RequestError(f"{path}: channel_names is not an object of number and name", 'Write it as {"0": "CT"}')
    channels = {int(k): str(name) for k, name in listed.items()}
    for number, name in channels.items():
        if wanted in (str(number), name) or name and wanted.casefold() == name.casefold():
            return number, name
    known = few((f"{number} ({name})" if name else str(number) for number, name in channels.items()), 8)
    raise RequestError(f"--channel {wanted} is not in {path}", f"Choose one of {known}")


def _modality_of_channel(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return "ct" if plain == "ct" else "mri" if _MR.fullmatch(plain) else ""


def _files(source: Path, data: JsonObject, channel: int) -> list[_Files]:
    """The files of all cases, by name."""
    listing = source / "dataset.json"
    listed = data.get("training")
    if isinstance(listed, list) and listed:
        pairs = [(e.get("image"), e.get("label"), channel) if isinstance(e, dict) else (None, None, 0) for e in listed]
    elif isinstance(data.get("dataset"), dict) and data["dataset"]:  # nnU-Net v2 with files anywhere in the folder
        entries = [e if isinstance(e, dict) else {} for e in data["dataset"].values()]
        images = [e["images"] if isinstance(e.get("images"), list) else [] for e in entries]
        pairs = [(i[channel] if channel < len(i) else None, e.get("label"), 0) for i, e in zip(images, entries)]
    else:
        return _files_by_name(source, data, channel)
    files: dict[str, _Files] = {}
    for number, (*names, position) in enumerate(pairs, 1):
        image, label = (inside(source, name) for name in names)
        case = label and _stem(label.name)
        if image is None or label is None or not case:
            raise RequestError(
                f"{listing}: training case {number} does not name a NIfTI image and label inside the folder",
                'Write it as {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}',
            )
        if case in files:
            raise RequestError(f"{listing} lists the case {case} twice", "List every case once")
        stem = _stem(image.name) or ""
        single = image.with_name(f"{stem}_{channel:04d}{image.name[len(stem) :]}")  # nnU-Net v1 lists names without channel
        if not image.exists() and single.exists():
            image, position = single, 0
        files[case] = (case, image, label, position)
    return [files[case] for case in sorted(files)]


def _files_by_name(source: Path, data: JsonObject, channel: int) -> list[_Files]:
    """The cases of an nnU-Net v2 folder, from its file names."""
    ending = data.get("file_ending", ".nii.gz")
    if ending not in _ENDINGS:
        remedy = "Import pictures with: mimo-train data import folders; convert other volumes to .nii.gz"
        raise RequestError(f"{source / 'dataset.json'}: file_ending {ending} is not NIfTI", remedy)
    folders = (required_folder(source / n, "the source's", f"Put the files into {n}") for n in ("imagesTr", "labelsTr"))
    images, labels = folders

    def listed(folder: Path, suffix: str) -> dict[str, Path]:
        return {p.name[: -len(suffix)]: p for p in sorted(folder.glob(f"*{suffix}")) if not p.name.startswith(".")}

    pictures, truths = listed(images, f"_{channel:04d}{ending}"), listed(labels, ending)
    if not truths:
        raise RequestError(f"{labels} holds no *{ending}", "Put one label file per case there")
    for folder, missing in ((images, sorted(set(truths) - set(pictures))), (labels, sorted(set(pictures) - set(truths)))):
        if missing:
            raise RequestError(
                f"{folder} lacks {len(missing)} of {len(set(truths) | set(pictures))} cases: {few(missing)}",
                f"Name them CASE_{channel:04d}{ending} in imagesTr and CASE{ending} in labelsTr",
            )
    return [(name, pictures[name], truths[name], 0) for name in sorted(truths)]


def _stem(name: str) -> str | None:
    return next((name[: -len(ending)] for ending in _ENDINGS if name.endswith(ending)), None)


def _opened(name: str, image: Path, label: Path, channel: int, plane: str, target: Target) -> Case:
    """The headers of a case, checked."""
    picture, truth = Volume.open(image), Volume.open(label)
    if channel >= picture.channels:
        raise RequestError(f"{image} has {picture.channels} channel(s), not {channel + 1}", "Choose another with --channel")
    if truth.shape != picture.shape or truth.channels != 1:
        sizes = ["x".join(map(str, (*v.shape, v.channels)[: 3 if v.channels == 1 else 4])) for v in (truth, picture)]
        raise RequestError(f"{label} has {sizes[0]} voxels, its image {sizes[1]}", "Resample the label onto the image's grid")
    if not np.array_equal(truth.orientation, picture.orientation):
        raise RequestError(f"{label} is oriented otherwise than its image", "Give both files the same orientation (affine)")
    check_size(f"a slice of {image}", *picture.size(plane))
    return Case(name, picture, truth, channel, target.case_of(name, name))
