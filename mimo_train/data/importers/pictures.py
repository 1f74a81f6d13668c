"""Pictures (PNG and the like) of an nnU-Net folder with their labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.image import ScanImage

from .common import read_source
from .dataset_json import Channels, Labels
from .listing import Files
from .masks import count_turned, read_ids
from .writer import Item

_WHITE = 255


@dataclass(frozen=True)
class Picture:
    """A case of one picture, or of one picture each for red, green and blue; ``case`` is from ``Target.case_of``."""

    files: Files
    channels: Channels
    case: str


def check_picture(picture: Picture, modality: str) -> None:
    """Read one picture before the long work, so that a missing reader is refused first."""
    _read(picture, modality)


def picture_item(picture: Picture, labels: Labels, modality: str, region: str, notes: Counter[str]) -> Item | None:
    """The picture with its class ids; None if a part of it has no annotation.

    ``notes`` count masks that were not taken as they are. A mask of 0 and 255 shows the only class.
    """
    scan, path = count_turned(_read(picture, modality), notes), picture.files.label
    known = _WHITE in labels.names or labels.ignored == _WHITE
    ids = read_ids(path, scan, notes, ignore=None if known else "auto")
    if labels.ignored is not None and (ids == labels.ignored).any():
        notes["images_left_out_as_not_annotated"] += 1
        return None
    present = set(np.unique(ids).tolist()) - {0}
    if present == {_WHITE} and not known:
        if len(labels.names) != 1:
            what = f"{path} holds 255 only, and dataset.json names {len(labels.names)} classes"
            raise RequestError(what, "Save the class ids of dataset.json as a grey PNG")
        ids = np.where(ids == _WHITE, *labels.names, 0)
        notes["masks_of_0_and_255_taken_as_the_only_class"] += 1
    notes["images_in_colour"] += not (scan.pixels == scan.pixels[..., :1]).all()
    facts = picture.case, modality, region, scan.spacing_mm
    return Item(scan.pixels, ids, labels.names, picture.files.case, *facts, window=scan.window)


def _read(picture: Picture, modality: str) -> ScanImage:
    """One picture; a channel of a picture in colours is grey, and three grey pictures are one in colours."""
    paths = [path for path, _ in picture.files.images]
    scans = [read_source(path, modality) for path in dict.fromkeys(paths)]
    first = scans[0]
    if len(scans) == 3:
        if any(scan.pixels.shape != first.pixels.shape for scan in scans):
            raise RequestError(f"the channels of {picture.files.case} have several sizes", "Save them at one size")
        pixels = np.stack([scan.pixels[..., 0] for scan in scans], axis=-1)
        return ScanImage(pixels, first.spacing_mm, first.modality, orientation=first.orientation)
    number = picture.files.images[0][1]
    if not picture.channels.is_colour and number and number < 3:
        return ScanImage(
            np.repeat(first.pixels[..., number : number + 1], 3, axis=2),
            first.spacing_mm,
            first.modality,
            orientation=first.orientation,
        )
    return first
