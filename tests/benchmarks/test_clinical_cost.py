"""Costs of series and objects, and circumferences, on small inputs."""

from __future__ import annotations

import json
from pathlib import Path

import fakes
import numpy as np
import pytest
from PIL import Image

from mimo_benchmarks.circumference import measure as measure_circumference
from mimo_runtime.data.dataset import Dataset
from mimo_runtime.errors import RequestError


def test_costs_are_positive_and_opening_reads_no_pixels() -> None:
    pytest.importorskip("highdicom")
    from mimo_benchmarks.clinical_cost import measure

    result = measure(4, side=64, repeats=1)
    assert result["slices"] == 4 and all(result[key] > 0 for key in ("open_ms_per_slice", "read_ms_per_slice", "objects_ms"))


def head_set(folder: Path, circumference: float) -> Dataset:
    (folder / "images").mkdir(parents=True)
    y, x = np.mgrid[:120, :160]
    mask = ((x - 80) / 60) ** 2 + ((y - 60) / 40) ** 2 <= 1
    Image.fromarray((mask * 200).astype(np.uint8)).save(folder / "images" / "a.png")
    Image.fromarray(mask.astype(np.uint8)).save(folder / "images" / "m.png")
    record = {
        "image": "images/a.png", "mask": "images/m.png", "case": "a", "split": "test", "modality": "ultrasound",
        "region": "fetus", "classes": {"1": "liver"}, "pixel_spacing_mm": [0.5, 0.5],
        "attributes": {"head_circumference_mm": circumference},
    }  # fmt: skip
    (folder / "dataset.jsonl").write_text(json.dumps(record) + "\n")
    return Dataset.read(folder)


def test_the_circumference_of_a_true_ellipse_is_within_half_a_percent(tmp_path: Path) -> None:
    a, b = 30.0, 20.0
    h = ((a - b) / (a + b)) ** 2
    true = float(np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h))))
    records = head_set(tmp_path, true).split("test")
    with fakes.fake_mimo() as mimo:
        result = measure_circumference(mimo, records)
    assert result["truth"]["percent"] < 0.5 and result["images"] == 1
    with pytest.raises(RequestError, match="attribute other"):
        measure_circumference(mimo, records, "other")
