"""Four small data sets, and models that know the truth of every image: what an evaluation finds is known beforehand."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from mimo_runtime.data import prompt_sampling
from mimo_runtime.data.dataset import Dataset
from mimo_runtime.evaluation import metrics
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.text import grammar, observe

Asked = namedtuple("Asked", "image text kind boxes points mask text_answer")
SETS = {  # name: modality, region, classes
    "organs": ("ct", "abdomen", {1: "liver", 2: "left kidney", 3: "aorta"}),
    "cells": ("microscopy", "cells", {1: "cell nucleus"}),
    "polyps": ("endoscopy", "colon", {1: "polyp"}),
    "guts": ("ct", "colon", {1: "diverticulum"}),  # shares a region with "polyps"
}


def disk(labels: np.ndarray, x: int, y: int, radius: int, value: int) -> None:
    ys, xs = np.mgrid[: labels.shape[0], : labels.shape[1]]
    labels[(xs - x) ** 2 + (ys - y) ** 2 <= radius**2] = value


def write_sets(root: Path) -> Path:
    """Four sets of five images: three organs of which one is missing at times, nine nuclei, one polyp or none."""
    for number, (set_name, (modality, region, classes)) in enumerate(SETS.items()):
        (root / set_name / "images").mkdir(parents=True)
        (root / set_name / "masks").mkdir()
        lines = []
        for k in range(5):
            rng = np.random.default_rng([number, k])  # no two images are alike
            labels = np.zeros((72, 96), np.uint8)
            if set_name == "cells":
                for i in range(9):
                    disk(labels, 16 + 30 * (i % 3), 12 + 22 * (i // 3), 5 + k % 3, 1)
            elif set_name == "organs":
                for value in [v for v in classes if v != 1 + k % 3]:
                    disk(labels, 20 + 25 * (value - 1), 30 + 2 * k, 10, value)
            elif k:  # the first image shows nothing
                disk(labels, 30 + 5 * k, 30, 12 + k, 1)
            Image.fromarray(rng.integers(0, 255, (72, 96, 3), np.uint8)).save(root / set_name / f"images/{k}.png")
            Image.fromarray(labels).save(root / set_name / f"masks/{k}.png")
            named = {str(v): n for v, n in classes.items() if (labels == v).any()}
            lines.append({
                "image": f"images/{k}.png", "mask": f"masks/{k}.png", "case": str(k), "split": "test", "modality": modality,
                "region": region, "classes": named, "attributes": {"contrast": k > 1, "plane": "axial", "series": k},
            })  # fmt: skip
        (root / set_name / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


class Oracle:
    """Knows the truth of every image by its pixels; ``draw`` changes the mask that it answers with."""

    def __init__(self, sets: list[Dataset], draw: Callable[[np.ndarray], np.ndarray] = lambda mask: mask) -> None:
        self.records = {r.load()[0].tobytes(): r for d in sets for r in d.records}
        self.draw, self.asked = draw, []
        self.config = SimpleNamespace(
            presence_threshold=0.5,
            presence_temperature=1.25,
            entity_threshold=0.7,
            abstain_threshold=0.6,
            crop_scale=3.5,
            full_image_weight=0.2,
        )
        self.info = {"id": "oracle", "sha256": "0123456789abcdef" * 4}
        self.engines = {"a": SimpleNamespace(name="fake"), "b": SimpleNamespace(name="fake")}

    def open(self, image: ScanImage) -> OracleScan:
        return OracleScan(self, self.records[image.pixels.tobytes()])


class OracleScan:
    def __init__(self, oracle: Oracle, record) -> None:
        self.oracle, self.record = oracle, record
        _, labels = record.load()
        self.wholes = {name: labels == i for i, name in record.classes.items()}
        self.places = []  # what boxes, points and masks can refer to
        for i, name in record.classes.items():
            parts = prompt_sampling.instances(labels, i)
            self.places += [(name, m) for m in (parts if len(parts) >= 5 else [labels == i])]

    def ask(self, text="", boxes=(), points=(), mask=None, *, text_answer=True):
        kind = "+".join(k for k, v in (("text", text), ("box", boxes), ("point", points), ("mask", mask is not None)) if v)
        image = f"{self.record.set_name}/{self.record.image.name}"
        self.oracle.asked.append(Asked(image, text, kind, tuple(boxes), tuple(points), mask, text_answer))
        places = [m for n, m in self.places if text in ("", n)]
        if boxes:
            found = min(places, key=lambda m: np.abs(np.subtract(prompt_sampling.mask_box(m), boxes[0])).sum())
        elif points:
            found = next(m for m in places if m[points[0][1], points[0][0]])
        elif mask is not None:
            found = max(places, key=lambda m: metrics.dice(m, mask))
        else:
            found = self.wholes.get(text)
        said = None
        if text_answer:
            record = self.record
            truth = found if found is not None else np.zeros((8, 8), bool)
            said = grammar.describe(observe.observe(truth, text, record.modality, record.region))
        here = found is not None
        drawn = self.oracle.draw(found) if here else np.zeros((72, 96), bool)
        presence, iou = float(here and drawn.any()), metrics.iou(drawn, found) if here else 0.0
        finding = SimpleNamespace(
            query=0, mask=drawn, present=bool(presence), presence=presence, iou=iou, score=presence * iou
        )  # fmt: skip
        # Must not count.
        other = SimpleNamespace(query=2, mask=np.ones((72, 96), bool), present=True, presence=1.0, iou=1.0, score=1.0)
        return SimpleNamespace(text=said, findings=[finding, other])


def half(mask: np.ndarray) -> np.ndarray:
    """The upper half of the mask's box."""
    x0, y0, x1, y1 = prompt_sampling.mask_box(mask)
    return mask & (np.arange(len(mask)) < (y0 + y1) / 2)[:, None]
