"""The circumference of fitted ellipses against measured ones, on images whose truth is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimo_benchmarks.circumference import ATTRIBUTE, measure
from mimo_runtime.data.dataset import Dataset
from mimo_runtime.errors import RequestError
from mimo_runtime.postprocessing.measure import Ellipse

SPACING = 0.4


class PerfectModel:
    """Finds the bright pixels of an image."""

    def open(self, pixels: np.ndarray) -> PerfectModel:
        self.mask = pixels[..., 0] > 0
        return self

    def ask(self, name: str, text_answer: bool) -> PerfectModel:
        assert (name, text_answer) == ("fetal head", False)
        self.present, self.findings = bool(self.mask.any()), [self]
        return self


def heads(folder: Path, line: float, empty: bool = False) -> list:  # type: ignore[type-arg]
    """Ellipses of the size of fetal heads in a data set, filled up to the outer edge of a line of ``line`` pixels."""
    (folder / "images").mkdir(parents=True)
    y, x = np.mgrid[:176, :256] + 0.5
    rows = []
    for number, (a, b, degrees) in enumerate([(30, 24, 10), (62, 48, 35), (78, 60, 80), (85, 66, 160)]):
        angle = math.radians(degrees)
        u = (x - 128.3) * math.cos(angle) + (y - 88.1) * math.sin(angle)
        v = -(x - 128.3) * math.sin(angle) + (y - 88.1) * math.cos(angle)
        # The distance to an ellipse, to first order: thin lines are parallel curves.
        form = np.hypot(u / a, v / b)
        distance = (form - 1) * form / np.maximum(np.hypot(u / a**2, v / b**2), 1e-9)
        mask = ((distance <= line / 2) & (not empty)).astype(np.uint8)
        for name, values in (("i", mask * 200), ("m", mask)):
            Image.fromarray(values).save(folder / "images" / f"{name}{number}.png")
        rows.append({
            "image": f"images/i{number}.png", "mask": f"images/m{number}.png", "case": str(number), "split": "test",
            "modality": "ultrasound", "region": "fetus", "classes": {"1": "fetal head"}, "pixel_spacing_mm": [SPACING, SPACING],
            "attributes": {ATTRIBUTE: Ellipse((0, 0), a, b, 0).circumference * SPACING},
        })  # fmt: skip
    (folder / "dataset.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return list(Dataset.read(folder).split("test"))


def test_the_middle_of_a_drawn_outline_is_measured(tmp_path: Path) -> None:
    line = 2.5
    records = heads(tmp_path, line)
    with_line, without = (measure(PerfectModel(), records, outline_width=w) for w in (line, 0.0))  # type: ignore[arg-type]
    assert with_line["images"] == 4 and with_line["missed"] == 0
    assert with_line["truth"]["percent"] < 0.2 and with_line["truth"] == with_line["model"]
    assert without["truth"]["bias_mm"] == pytest.approx(math.pi * line * SPACING, rel=0.05)


def test_images_without_a_finding_and_without_the_attribute(tmp_path: Path) -> None:
    records = heads(tmp_path, 0)
    with pytest.raises(RequestError, match="no image has pixel_spacing_mm and the attribute other"):
        measure(PerfectModel(), records, "other")  # type: ignore[arg-type]
    model = PerfectModel()
    model.open = lambda pixels: PerfectModel.open(model, pixels * 0)  # type: ignore[method-assign]
    result = measure(model, records)  # type: ignore[arg-type]
    assert (result["missed"], result["model"]) == (4, None) and result["truth"]["percent"] < 0.2
