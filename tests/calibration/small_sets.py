"""Data sets of a few images."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mimo_runtime.evaluation.dataset import Dataset


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "dataset.jsonl").read_text("utf-8").splitlines()]


def write_rows(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    (folder / "dataset.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


#: Phantoms per split: the fewest that a calibration, its search and its gate accept.
PER_SPLIT = {"train": 16, "val": 16}


def write_phantoms(folder: Path) -> Path:
    """Phantoms of 64 pixels, four modalities in turn."""
    from mimo_train.phantom import generate

    generate(folder, sum(PER_SPLIT.values()), seed=3, size=64)
    splits = [split for split, count in PER_SPLIT.items() for _ in range(count)]
    write_rows(folder, [{**row, "split": split} for row, split in zip(read_rows(folder), splits, strict=True)])
    return folder


def make_set(folder: Path, counts: Mapping[str, int], split: str = "train") -> Dataset:
    """A set of files that nobody opens: ``counts`` images per modality, in mixed order."""
    (folder / "images").mkdir(parents=True)
    modalities = [m for m, count in counts.items() for _ in range(count)]
    random.Random(0).shuffle(modalities)
    rows = []
    for k, modality in enumerate(modalities):
        (folder / f"images/{k}.png").write_bytes(f"{folder.name} {k}".encode())
        rows.append({"image": f"images/{k}.png", "case": str(k), "split": split, "modality": modality, "region": "chest",
                     "classes": {}})  # fmt: skip
    write_rows(folder, rows)
    return Dataset.read(folder)
