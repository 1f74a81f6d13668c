"""Mutated COCO and dataset.json files: imported, or refused in one line."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_source import rle_runs
from PIL import Image

from mimo_runtime.errors import MimoError
from mimo_train.data.importers import Target, plan_coco, plan_nnunet, write_set
from mimo_train.data.importers.slices import Slicing

nibabel = pytest.importorskip("nibabel")
from nnunet_source import AFFINE, truth, volume, write_folder  # noqa: E402

VALUES: list[Any] = [
    0, 1, -1, 10**6, 10**400, 1.0, 1.5, float("nan"), "", "0", "1", "x", "\ud800", "a" * 5000, "../x", "/etc/passwd",
    "imagesTr", "C:\\x", None, True, [], {}, [1], ["x"], [None], {"a": 1}, {"0": "CT"}, [[1, 2]], ".nii.gz", ".png", "\0",
]  # fmt: skip
Path_ = tuple[Any, ...]


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(part, (*path, key))


def mutated(data: Any, generator: random.Random) -> Any:
    data = copy.deepcopy(data)
    for _ in range(generator.choice((1, 1, 2))):
        *path, last = generator.choice([*places(data)] or [("x",)])
        part = data
        for key in path:
            part = part[key]
        if generator.random() < 0.1:
            part.pop(last, None) if isinstance(part, dict) else part.pop(last)
        elif generator.random() < 0.1 and isinstance(part, dict):
            part[generator.choice(("\ud800", "9", "x"))] = part.pop(last, None)
        else:
            part[last] = copy.deepcopy(generator.choice(VALUES))
    return data


def volumes(root: Path) -> tuple[Path, list[Any]]:
    images = [nibabel.Nifti1Image(volume(k), AFFINE) for k in range(2)]
    write_folder(root, images, nibabel.Nifti1Image(truth(), AFFINE), {"0": "CT", "1": "MR"})
    named = json.loads((root / "dataset.json").read_text())
    pair = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    files = {"images": ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"], "label": "labelsTr/a.nii.gz"}
    return root / "dataset.json", [named, named | {"training": [pair]}, named | {"dataset": {"a": files}}]


def pictures(root: Path) -> tuple[Path, list[Any]]:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    write_folder(root, [pixels], (pixels[..., 0] > 99) * np.uint8(1), {"0": "R", "1": "G", "2": "B"}, {"background": 0, "n": 1})
    return root / "dataset.json", [json.loads((root / "dataset.json").read_text())]


def coco(root: Path) -> tuple[Path, list[Any]]:
    root.mkdir()
    mask = np.zeros((20, 30), bool)
    mask[3:9, 5:20] = True
    Image.fromarray(mask.astype(np.uint8)).save(root / "a.png")
    rle = {"counts": rle_runs(mask), "size": [20, 30]}
    polygon = {
        "id": 2,
        "image_id": 1,
        "category_id": 2,
        "segmentation": [[1, 1, 9, 1, 9, 9]],
        "attributes": {"occluded": False},
    }
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 30, "height": 20}],
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": rle, "iscrowd": 1}, polygon],
    }
    return root / "instances.json", [data]


@pytest.mark.parametrize("make", [volumes, pictures, coco])
@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_mutated_source_is_imported_or_refused_in_one_line(tmp_path: Path, make: Any, count: int) -> None:
    file, variants = make(tmp_path / "source")
    generator = random.Random(count)
    for number in range(count):
        file.write_text(json.dumps(mutated(generator.choice(variants), generator)))
        target = Target(tmp_path / f"out{number}", (1, 0, 0))
        options = {"modality": "ct", "region": "abdomen"}
        try:
            if make is coco:
                plan = plan_coco(file, target, skip_unclear=generator.random() < 0.3, **options)
            else:
                channel = generator.choice((None, "0", "1"))
                plan = plan_nnunet(file.parent, target, channel=channel, slicing=Slicing(empty_share=0), **options)
            write_set(plan, target)
        except MimoError as error:
            text = str(error)
            text.encode()
            assert "\n" not in text and len(text) - 2 * len(str(tmp_path)) < 300 and not target.output.exists()
