"""``mimo-bench tiles``: mosaics, and what tiles gain on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bright_discs import bright_mimo, disc
from PIL import Image

from mimo_benchmarks.tiling.measure import measure_tiles
from mimo_benchmarks.tiling.mosaics import mosaics_of
from mimo_benchmarks.tiling.table import tile_table
from mimo_runtime.data.dataset import read_datasets


@pytest.fixture
def discs(tmp_path: Path):
    """Nine images of small discs, of two sizes, and one image without any."""
    lines = []
    for number in range(10):
        pixels = disc(20 + number, 30, 4 if number < 9 else 0)[: 60 + number % 2 * 4]
        if number == 9:
            pixels[:] = 10
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        Image.fromarray((pixels.max(axis=2) > 100).astype(np.uint8)).save(tmp_path / f"m{number}.png")
        record = {"image": f"{number}.png", "mask": f"m{number}.png", "case": str(number), "split": "val"}
        classes = {"1": "polyp"} if number < 9 else {}
        lines.append(json.dumps({**record, "modality": "endoscopy", "region": "colon", "classes": classes}))
    (tmp_path / "dataset.jsonl").write_text("\n".join(lines))
    (data,) = read_datasets([tmp_path])
    return data


def test_a_mosaic_joins_images_of_one_class_at_their_scale(discs) -> None:
    mosaics = mosaics_of(discs, "val", 5, 0)
    assert [m.pixels.shape for m in mosaics] == [(120, 128, 3)] * 2 and {m.name for m in mosaics} == {"polyp"}
    for mosaic in mosaics:
        assert np.array_equal(mosaic.mask, mosaic.pixels.max(axis=2) > 100)
        assert all(part.any() for half in np.split(mosaic.mask, 2) for part in np.split(half, 2, axis=1))
    assert len(mosaics_of(discs, "val", 5, 0, 3)) == 1 and mosaics_of(discs, "test", 5, 0) == []


def test_tiles_are_measured_beside_the_whole_image(discs) -> None:
    done = []
    result = measure_tiles(bright_mimo(), mosaics_of(discs, "val", 5, 0, 3), [0, 96], progress=lambda *p: done.append(p))
    assert done == [(0, 1)] and result["images"] == 1 and result["largest"] == [180, 192]
    ways = result["ways"]
    assert list(ways) == ["whole", "whole, crop pass", "tiles of 64", "tiles of 96"]
    assert ways["tiles of 64"]["dice"] > ways["whole"]["dice"] + 0.1 and ways["tiles of 64"]["seconds"] > 0
    assert result["per_image"]["tiles of 64"] == [ways["tiles of 64"]["dice"]]
    assert "1 images of up to 192 x 180 pixels" in tile_table(result)
