"""Data sets of a few images."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mimo_runtime.data.dataset import Dataset


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "dataset.jsonl").read_text("utf-8").splitlines()]


def write_rows(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    (folder / "dataset.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


#: Phantoms per split: the fewest that a calibration, its search and its gate accept.
PER_SPLIT = {"train": 16, "val": 16}


def write_phantoms(folder: Path) -> Path:
    """Phantoms of 64 pixels, four modalities in turn."""
    from mimo_train.data.phantom import generate

    generate(folder, sum(PER_SPLIT.values()), seed=3, size=64)
    splits = [split for split, count in PER_SPLIT.items() for _ in range(count)]
    write_rows(folder, [{**row, "split": split} for row, split in zip(read_rows(folder), splits, strict=True)])
    return folder


def make_set(folder: Path, counts: Mapping[str, int], split: str = "train", negatives: int = 0) -> Dataset:
    """A set of tiny images with a nodule: ``counts`` images per modality, in mixed order, no two the same in any set.

    Args:
        negatives: so many, the first ones, show nothing.
    """
    (folder / "images").mkdir(parents=True)
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 5:11] = 1
    Image.fromarray(mask).save(folder / "mask.png")
    modalities = [m for m, count in counts.items() for _ in range(count)]
    random.Random(0).shuffle(modalities)
    rows = []
    for k, modality in enumerate(modalities):
        pixels = random.Random(f"{folder} {k}").randbytes(256)
        Image.frombytes("L", (16, 16), pixels).save(folder / f"images/{k}.png")
        shown = {"mask": "mask.png", "classes": {"1": "nodule"}} if k >= negatives else {"classes": {}}
        rows.append({"image": f"images/{k}.png", "case": str(k), "split": split, "modality": modality, "region": "chest",
                     **shown})  # fmt: skip
    write_rows(folder, rows)
    return Dataset.read(folder)
