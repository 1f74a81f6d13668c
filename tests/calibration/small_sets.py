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
