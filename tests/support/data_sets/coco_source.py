"""COCO files to import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mimo_runtime.data.dataset import Dataset
from mimo_runtime.errors import RequestError
from mimo_train.data.importers import Target, plan_coco, write_set

HEIGHT, WIDTH = 40, 56


def rle_runs(mask: np.ndarray) -> list[int]:
    """Uncompressed RLE, pixel by pixel."""
    runs, current, length = [], False, 0
    for value in mask.T.reshape(-1):
        if bool(value) != current:
            runs.append(length)
            current, length = bool(value), 0
        length += 1
    return [*runs, length]


def compress_rle(runs: list[int]) -> str:
    """Compressed RLE, after the specification in COCO's maskApi.c."""
    text = ""
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            digit, value = value & 31, value >> 5
            more = value != -1 if digit & 16 else value != 0
            text += chr((digit | 32 if more else digit) + 48)
    return text


def box(x0: int, y0: int, x1: int, y1: int) -> tuple[list[float], np.ndarray]:
    """The polygon around a rectangle of pixels, and its pixels."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return [x0, y0, x1, y0, x1, y1, x0, y1], mask


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


class Source:
    """A COCO file, built step by step."""

    def __init__(self, root: Path, categories: dict[int, str]) -> None:
        self.root = root
        (root / "pictures").mkdir(parents=True)
        self.data: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": n} for i, n in categories.items()],
        }

    def image(self, name: str, key: int) -> Source:
        (self.root / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(key)).save(self.root / "pictures" / name)
        self.data["images"].append({"id": key, "file_name": name, "height": HEIGHT, "width": WIDTH})
        return self

    def annotate(self, image: int, category: int, segmentation: Any, **more: Any) -> Source:
        number = len(self.data["annotations"]) + 1
        self.data["annotations"].append(
            {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}
        )
        return self

    def save(self) -> Path:
        path = self.root / "instances.json"
        path.write_text(json.dumps(self.data))
        return path


def import_coco(source: Source, output: Path, *, skip_unclear: bool = False, **target: Any) -> tuple[Dataset, dict[str, Any]]:
    plan = plan_coco(
        source.save(),
        Target(output, **target),
        images=source.root / "pictures",
        modality="Endoscopy",
        region="the colon",
        skip_unclear=skip_unclear,
    )
    summary = write_set(plan, Target(output, **target))
    return Dataset.read(output), summary


def refused(source: Source, output: Path, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        import_coco(source, output, **options)
    assert caught.value.remedy and "\n" not in str(caught.value)
    assert not output.exists() and not [p for p in output.parent.iterdir() if p.name.startswith(f".{output.name}")]
    return str(caught.value)
