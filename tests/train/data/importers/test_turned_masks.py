"""Importers count masks whose orientation the files do not decide, as ``read_mask`` warns about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimo_runtime.data.dataset import Dataset
from mimo_train.data.importers import Target, plan_folders, write_set

MASK = np.zeros((20, 32), np.uint8)
MASK[3:9, 4:20] = 1
ASSUMED = "masks_without_orientation_taken_as_drawn_on_the_upright_image"
TURNED = "masks_drawn_on_the_stored_pixels_and_turned_like_their_image"


@pytest.mark.parametrize(("orientation", "note"), [(1, None), (2, ASSUMED), (3, ASSUMED), (4, ASSUMED), (6, TURNED)])
def test_a_mask_without_a_tag_beside_a_turned_photograph(tmp_path: Path, orientation: int, note: str | None) -> None:
    for part in ("images", "masks"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.dstack([MASK * 200] * 3)).save(tmp_path / "raw/images/a.png", exif=exif)
    Image.fromarray(MASK).save(tmp_path / "raw/masks/a.png")
    target = Target(tmp_path / "out", (1, 0, 0))
    summary = write_set(plan_folders(tmp_path / "raw", target, classes={1: "x"}, modality="endoscopy", region="colon"), target)
    turned = {"images_turned_upright_by_exif": 1} if orientation != 1 else {}
    assert summary["notes"] == turned | ({note: 1} if note else {})
    (record,) = Dataset.read(tmp_path / "out").records
    pixels, labels = record.load()
    if note != ASSUMED:
        np.testing.assert_array_equal(pixels[..., 0] > 0, labels > 0)
    else:
        np.testing.assert_array_equal(labels, MASK)
