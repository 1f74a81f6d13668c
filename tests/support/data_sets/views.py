"""Records and views to sample prompts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mimo_runtime.data.dataset import Record
from mimo_train.data.augment import View
from mimo_train.data.vocabulary import Vocabulary


def record(**changes) -> Record:
    values = dict(
        set_name="phantoms",
        image=Path("x"),
        mask=None,
        case="1",
        split="train",
        modality="ct",
        region="abdomen",
        classes={1: "liver", 2: "spleen"},
    )
    return Record(**{**values, **changes})


VOCABULARY = Vocabulary(
    ("liver", "spleen", "polyp", "kidney cyst"),
    {"phantoms": frozenset({"liver", "spleen", "kidney cyst"}), "colon": frozenset({"polyp"})},
    {
        "liver": frozenset({"abdomen"}),
        "spleen": frozenset({"abdomen"}),
        "kidney cyst": frozenset({"abdomen"}),
        "polyp": frozenset({"colon"}),
    },
)


def fits(_text: str) -> bool:
    return True


def two_organs(seed: int = 0) -> View:
    """Liver (class 1) above and left of spleen (class 2)."""
    labels = np.zeros((128, 128), np.int32)
    labels[10:60, 10:50], labels[70:90, 60:100] = 1, 2
    pixels = np.random.default_rng(seed).integers(0, 255, (128, 128, 3), np.uint8)
    return View(pixels, labels, 100, 128)


def small_disks() -> tuple[np.ndarray, np.ndarray]:
    """A dim image with two small bright disks of class 1."""
    yy, xx = np.mgrid[:150, :200]
    labels = (((xx - 60) ** 2 + (yy - 40) ** 2 < 50) | ((xx - 150) ** 2 + (yy - 110) ** 2 < 90)).astype(np.int32)
    return np.repeat(np.where(labels, 90, 60).astype(np.uint8)[..., None], 3, axis=2), labels
