"""The files of an nnU-Net or MSD folder: as ``dataset.json`` lists them, or by their names.

nnU-Net v2 names files (``imagesTr/CASE_0000.nii.gz`` for each channel, ``labelsTr/CASE.nii.gz``) or lists them (``dataset``).
MSD and nnU-Net v1 list them under ``training``, with or without the channel's ``_0000``, and sometimes by the absolute paths of
another machine. MSD has the channels on a fourth axis.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mimo_runtime.errors import RequestError
from mimo_runtime.utils.messages import few, short

from .common import SUFFIXES, JsonObject, inside, required_folder
from .dataset_json import Channels

_VOLUMES = (".nii.gz", ".nii")
_ENDINGS = (*_VOLUMES, *SUFFIXES)
#: Folders of nnU-Net and MSD; what lies below them in a path of another machine is looked for in the source.
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


@dataclass(frozen=True)
class Files:
    """A case. ``images`` holds one file with its channel, or the files of red, green and blue.

    The channel is the place on the fourth axis of a volume; a picture in colours has only one file.
    """

    case: str
    images: tuple[tuple[Path, int], ...]
    label: Path


def find_files(source: Path, data: JsonObject, channels: Channels, notes: Counter[str]) -> list[Files]:
    """The files of all cases, by name.

    Args:
        notes: counts paths that were not taken as they are.

    Raises:
        RequestError: names the entry, or the files that are missing.
    """
    listed, entries = data.get("training"), data.get("dataset")
    if isinstance(listed, list) and listed:
        pairs = [(e.get("image"), e.get("label")) if isinstance(e, dict) else (None, None) for e in listed]
    elif isinstance(entries, dict) and entries:  # nnU-Net v2 with files anywhere in the folder
        pairs = [(e.get("images"), e.get("label")) if isinstance(e, dict) else (None, None) for e in entries.values()]
    else:
        return _by_name(source, data, channels)
    files: dict[str, Files] = {}
    for number, (names, label_name) in enumerate(pairs, 1):
        label = _path(source, label_name, notes)
        images = [_path(source, name, notes) for name in (names if isinstance(names, list) else [names])]
        case = label and stem(label.name)
        if label is None or not case or not images or any(path is None for path in images):
            raise RequestError(
                f"{source / 'dataset.json'}: training case {number} does not name an image and label inside the folder",
                'Write it as {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}',
            )
        if case in files:
            raise RequestError(f"{source / 'dataset.json'} lists the case {case} twice", "List every case once")
        files[case] = Files(case, _of_channels(case, [path for path in images if path is not None], channels), label)
    return [files[case] for case in sorted(files)]


def stem(name: str) -> str:
    """A file name without the ending of a volume or picture."""
    return next((name[: -len(ending)] for ending in _ENDINGS if name.lower().endswith(ending)), name)


def _path(source: Path, name: object, notes: Counter[str]) -> Path | None:
    """The file that a listing names: inside the folder, with the missing ending added. None if it lies elsewhere."""
    path = inside(source, name)
    if path is None and isinstance(name, str):
        parts = Path(name.replace("\\", "/")).parts
        below = max((k for k, part in enumerate(parts) if part in _FOLDERS), default=None)
        if below is not None and ".." not in parts[below:]:
            path = inside(source, "/".join(parts[below:]))
            notes["absolute_paths_taken_inside_the_folder"] += 1
    if path is None or path.name == "":
        return None
    if not path.exists() and stem(path.name) == path.name:
        for ending in _ENDINGS:
            if (full := path.with_name(path.name + ending)).exists() or path.with_name(f"{path.name}_0000{ending}").exists():
                return full
    return path


def _of_channels(case: str, listed: list[Path], channels: Channels) -> tuple[tuple[Path, int], ...]:
    """The files of the chosen channels, from the one or several that a case lists."""
    if len(listed) > 1:  # one file per channel
        chosen = [listed[number] for number in channels.numbers if number < len(listed)]
        if len(chosen) < len(channels.numbers):
            wanted = few(str(number) for number in channels.numbers)
            raise RequestError(f"a case lists {len(listed)} images, not channel {wanted}", "List one image per channel")
        return tuple((path, 0) for path in chosen)
    path = listed[0]
    base, ending = stem(path.name), path.name[len(stem(path.name)) :]
    single = base[:-5] == case and re.fullmatch(r"_\d{4}", base[-5:]) is not None
    for name in ([case] if single else []) + ([base] if not path.exists() else []):
        parts = [path.with_name(f"{name}_{number:04d}{ending}") for number in channels.numbers]
        if all(part.exists() for part in parts):
            return tuple((part, 0) for part in parts)
    if not path.exists():
        return ((path, 0),)
    return tuple((path, number) for number in channels.numbers)


def _by_name(source: Path, data: JsonObject, channels: Channels) -> list[Files]:
    """The cases of an nnU-Net v2 folder, from its file names."""
    ending = data.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or ending.lower() not in _ENDINGS:
        shown = short(ending).strip("'")
        what = f"{source / 'dataset.json'}: file_ending {shown} is neither NIfTI nor a picture"
        raise RequestError(what, "Convert the files to .nii.gz, and write this as file_ending")
    folders = (required_folder(source / n, "the source's", f"Put the files into {n}") for n in ("imagesTr", "labelsTr"))
    images, labels = folders

    def listed(folder: Path, suffix: str) -> dict[str, Path]:
        return {p.name[: -len(suffix)]: p for p in sorted(folder.glob(f"*{suffix}")) if not p.name.startswith(".")}

    truths = listed(labels, ending)
    if not truths:
        raise RequestError(f"{labels} holds no *{ending}", "Put one label file per case there")
    pictures = [listed(images, f"_{number:04d}{ending}") for number in channels.numbers]
    if channels.is_colour and not any(pictures[1:]) and not any(pictures[:1]):
        pictures = [listed(images, f"_0000{ending}")]
    if channels.is_colour and sum(map(bool, pictures)) == 1:  # the colours are in one file
        pictures = [part for part in pictures if part]
    every = set(truths).union(*pictures)
    without_image = {name for name in every if not all(name in part for part in pictures)}
    for folder, missing in ((images, without_image), (labels, every - set(truths))):
        if missing:
            raise RequestError(
                f"{folder} lacks {len(missing)} of {len(every)} cases: {few(sorted(missing))}",
                f"Name them CASE_{channels.numbers[0]:04d}{ending} in imagesTr and CASE{ending} in labelsTr",
            )
    in_one = channels.is_colour and len(pictures) == 1
    numbers = channels.numbers if in_one else (0,) * len(pictures)
    files = pictures * 3 if in_one else pictures
    return [Files(name, tuple((f[name], n) for f, n in zip(files, numbers)), truths[name]) for name in sorted(truths)]
