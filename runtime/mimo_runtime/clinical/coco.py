"""Structures as COCO annotations with run-length encoded masks (the format of pycocotools, uncompressed)."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from ..postprocessing.masks import box_of_mask
from .study import StudyResult, size_at


class RunLengths(TypedDict):
    """``counts``: lengths of runs of 0 and 1 in turn, down the columns, the first of 0; ``size``: ``[H, W]``."""

    counts: list[int]
    size: list[int]


class CocoImage(TypedDict):
    """An image; ``file_name`` is a number, because names of files may identify a patient."""

    id: int
    file_name: str
    height: int
    width: int


class CocoAnnotation(TypedDict):
    """A structure in one image; ``track_id`` is the same in all images of a series."""

    id: int
    image_id: int
    category_id: int
    segmentation: RunLengths
    area: int
    bbox: list[int]
    iscrowd: int
    score: float
    track_id: int


class CocoCategory(TypedDict):
    """A name."""

    id: int
    name: str


class CocoData(TypedDict):
    """The file."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def encode_mask(mask: np.ndarray) -> RunLengths:
    """Run lengths of a bool mask ``[H, W]``."""
    flat = np.concatenate(([False], np.asarray(mask, bool).T.reshape(-1)))
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate(([0], edges, [mask.size])))
    return {"counts": [int(c) for c in counts], "size": [int(mask.shape[0]), int(mask.shape[1])]}


def decode_mask(runs: RunLengths) -> np.ndarray:
    """Inverse of :func:`encode_mask`."""
    height, width = runs["size"]
    values = np.arange(len(runs["counts"])) % 2 == 1
    return np.repeat(values, runs["counts"]).reshape(width, height).T.copy()


def coco_of(result: StudyResult) -> CocoData:
    """The content of a COCO file."""
    names = list(dict.fromkeys(structure.name for structure in result.structures))
    sizes = [size_at(result.images, index) for index in range(len(result.images))]
    annotations: list[CocoAnnotation] = []
    for track, structure in enumerate(result.structures, 1):
        for frame, mask in sorted(structure.masks.items()):
            box = box_of_mask(mask)
            if box is None:
                continue
            x0, y0, x1, y1 = box
            annotations.append({
                "id": len(annotations) + 1, "image_id": frame + 1, "category_id": names.index(structure.name) + 1,
                "segmentation": encode_mask(mask), "area": int(mask.sum()), "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": 0, "score": round(structure.score, 6), "track_id": track,
            })  # fmt: skip
    return {
        "images": [{"id": k + 1, "file_name": f"frame_{k:04d}", "height": h, "width": w} for k, (h, w) in enumerate(sizes)],
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
    }
