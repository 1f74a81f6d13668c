"""``dataset.json`` of nnU-Net (v1 and v2) and of the Medical Segmentation Decathlon: labels and channels, in every spelling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mimo_runtime.errors import RequestError
from mimo_runtime.utils.messages import few, short

from .common import JsonObject, class_name, known_modality, whole_number

#: Names that data sets give to MR channels, without signs.
_MR = re.compile(r"mri?|t[12](w|gd|ce|c|wi)?|ce?t1\w*|flair|t2flair|adc|dwi|cine(mri)?|mrt[12]|pd")
_COLOURS = {"r": 0, "red": 0, "g": 1, "green": 1, "b": 2, "blue": 2}


@dataclass(frozen=True)
class Labels:
    """Names by class id, and the id of pixels without annotation (nnU-Net's "ignore")."""

    names: dict[int, str]
    ignored: int | None


@dataclass(frozen=True)
class Channels:
    """The channels that become the image: one, or red, green and blue in this order.

    Args:
        numbers: of the chosen channels.
        name: of the chosen channel, empty for colour.
        count: of the listed channels.
    """

    numbers: tuple[int, ...]
    name: str
    count: int

    @property
    def is_colour(self) -> bool:
        return len(self.numbers) == 3

    @property
    def modality(self) -> str:
        """The modality that the name implies, or nothing."""
        plain = re.sub(r"[^a-z0-9]", "", self.name.lower())
        return "ct" if plain == "ct" else "mri" if _MR.fullmatch(plain) else ""


def read_labels(path: Path, listed: object, own_names: Mapping[int, str]) -> Labels:
    """The labels of ``dataset.json``: ``{"liver": 1}``, ``{"1": "liver"}``, ``{"liver": "1"}`` or ``["background", "liver"]``.

    Args:
        own_names: names that replace those of the file.

    Raises:
        RequestError: names the label that is not understood.
    """
    if isinstance(listed, list) and all(isinstance(name, str) for name in listed):
        listed = {name: number for number, name in enumerate(listed)}
    if not isinstance(listed, dict) or not listed:
        raise RequestError(f"{path} has no labels", "Use the dataset.json of nnU-Net or MSD")
    names: dict[int, str] = {}
    regions: dict[str, list[int]] = {}
    for key, value in listed.items():
        number = whole_number(value)
        if isinstance(value, str) and key.isdecimal():  # also {"1": "2"}: the key is the id
            names[int(key)] = value
        elif number is not None:
            names[number] = key
        elif isinstance(value, list) and all(type(v) is int for v in value):
            regions[key] = value
        else:
            raise RequestError(
                f"{path}: label {_shown(key)} is neither an id nor a name", 'Write it as "liver": 1 or "1": "liver"'
            )
    ignored = next((i for i, name in names.items() if name.lower() == "ignore" and i not in own_names), None)
    names = {i: class_name(name) for i, name in names.items() if i not in (0, ignored)} | dict(own_names)
    unnamed = sorted({i for ids in regions.values() for i in ids if i} - set(names))
    if unnamed:
        raise RequestError(
            f"{path}: the regions {few(map(_shown, regions))} overlap, and ids {unnamed} have no name of their own",
            f"Name them: --classes '{unnamed[0]}=NAME'",
        )
    if not all(0 < i < 65536 and name for i, name in names.items()):
        raise RequestError(f"{path}: a label has an empty name, or an id outside 1 to 65535", "Repair the labels")
    return Labels(names, ignored)


def read_channels(path: Path, data: JsonObject, wanted: str | None) -> Channels:
    """The channels of ``dataset.json``: ``{"0": "CT"}``, ``{"0000": "CT"}``, ``{"CT": 0}``, ``["CT"]`` or ``"CT"``.

    Args:
        wanted: number or name of a channel; if left out, red, green and blue together where these are the channels, else the
            channel 0.

    Raises:
        RequestError: channels that are not understood, or no such channel.
    """
    listed = data.get("channel_names") or data.get("modality") or {"0": ""}
    listed = [listed] if isinstance(listed, str) else listed
    listed = {str(number): name for number, name in enumerate(listed)} if isinstance(listed, list) else listed
    channels: dict[int, str] = {}
    for key, value in listed.items() if isinstance(listed, dict) else ():
        number, name = (int(key), value) if key.isdecimal() else (whole_number(value), key)
        if number is None or number in channels or not isinstance(name, (str, int)):
            channels = {}
            break
        channels[number] = str(name)
    if not channels:
        raise RequestError(f"{path}: channel_names is not an object of number and name", 'Write it as {"0": "CT"}')
    if wanted is None:
        colours = {_COLOURS.get(name.strip().lower()): number for number, name in channels.items()}
        if len(channels) == 3 and set(colours) == {0, 1, 2}:
            return Channels((colours[0], colours[1], colours[2]), "", 3)
        wanted = "0"
    for number, name in sorted(channels.items()):
        if wanted in (str(number), name) or name and wanted.casefold() == name.casefold():
            return Channels((number,), name, len(channels))
    known = few((f"{number} ({_shown(name)})" if name else str(number) for number, name in channels.items()), 8)
    raise RequestError(f"--channel {wanted} is not in {path}", f"Choose one of {known}")


def modality_of_channels(option: str | None, channels: Channels) -> str:
    """The modality of the option, else that of the channel's name. Raises RequestError if there is neither."""
    modality = known_modality(option or "") or channels.modality
    if not modality:
        channel = "dataset.json" if channels.is_colour or not channels.name else f"channel '{_shown(channels.name)}'"
        example = "endoscopy" if channels.is_colour else "mri"
        raise RequestError(f"{channel} names no modality", f"Name it with --modality, e.g. {example}")
    return modality


def _shown(name: str) -> str:
    """A name in a message: short, and in characters that every terminal has."""
    return short(name)[1:-1]
