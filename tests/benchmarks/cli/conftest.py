"""Two small data sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SQUARES = {"one": [(6, 6)], "two": [(6, 6), (36, 18)]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set ``one`` with one bright left lung per image and set ``two`` with two polyps; two images each, of split test."""
    root = tmp_path_factory.mktemp("data")
    for name, corners in SQUARES.items():
        for folder in ("images", "masks"):
            (root / name / folder).mkdir(parents=True)
        lines = []
        for k in range(2):
            mask = np.zeros((44, 60), np.uint8)
            for x, y in corners:
                mask[y + k : y + k + 14, x : x + 14] = 1
            Image.fromarray(np.where(mask, 180, 20 + k).astype(np.uint8)).save(root / name / f"images/{k}.png")
            Image.fromarray(mask).save(root / name / f"masks/{k}.png")
            lines.append({
                "image": f"images/{k}.png", "mask": f"masks/{k}.png", "case": str(k), "split": "test", "modality": "ct",
                "region": "chest", "classes": {"1": "left lung" if name == "one" else "polyp"},
            })  # fmt: skip
        (root / name / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root
