"""nnU-Net folders to import."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

from mimo_runtime.data.dataset import Dataset, Record
from mimo_train.data.importers import Target, plan_nnunet, write_set
from mimo_train.data.importers.slices import Slicing

SHAPE = 20, 18, 6
AFFINE = np.diag([-1.5, -1.5, 4, 1.0])
LABELS = {"background": 0, "liver": 1, "tumour": 2}


def volume(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-200, 300, SHAPE).astype(np.int16)


def truth() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:12, 4:13, 1:5] = 1
    labels[5:8, 6:9, 2:4] = 2
    return labels


def rotation(degrees: float) -> np.ndarray:
    """:data:`AFFINE` turned around the axis from the feet to the head."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = AFFINE.copy()
    turned[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ AFFINE[:3, :3]
    return turned


def write_folder(
    root: Path, images: Sequence[Any], label: Any, channels: object = None, labels: object = None, **fields: Any
) -> Path:
    """One case ``a``: nibabel images, or arrays ``[H, W]`` or ``[H, W, 3]`` that become PNG files."""
    for folder, name, value in (
        *(("imagesTr", f"a_{number:04d}", image) for number, image in enumerate(images)),
        ("labelsTr", "a", label),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        if isinstance(value, np.ndarray):
            Image.fromarray(value).save(root / folder / f"{name}.png")
        else:
            nibabel.save(value, root / folder / f"{name}.nii.gz")
    ending = ".png" if isinstance(label, np.ndarray) else ".nii.gz"
    data = {"channel_names": channels or {"0": "CT"}, "labels": labels or LABELS, "file_ending": ending, **fields}
    (root / "dataset.json").write_text(json.dumps(data))
    return root


def write_volumes(root: Path, label_affine: np.ndarray = AFFINE, image_affine: np.ndarray = AFFINE, **fields: Any) -> Path:
    image, label = nibabel.Nifti1Image(volume(), image_affine), nibabel.Nifti1Image(truth(), label_affine)
    return write_folder(root, [image], label, **fields)


def bring(source: Path, output: Path, **options: Any) -> tuple[list[Record], Mapping[str, Any]]:
    """All slices of the folder, and the summary."""
    target = Target(output, (1, 0, 0))
    plan = plan_nnunet(source, target, **{"slicing": Slicing(empty_share=1), "region": "abdomen", **options})
    summary = write_set(plan, target)
    return list(Dataset.read(output).records), summary
