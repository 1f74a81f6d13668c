"""Flags of turned copies, and the time of the domain check, with a model whose images are one brightness."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fakes
import numpy as np
import pytest
from domain_points import brightness, statistics_of
from PIL import Image

from mimo_benchmarks.competence.domain import TURNED_COPIES, check_times, turned_flags
from mimo_benchmarks.competence.measure import measure_competence
from mimo_benchmarks.competence.table import competence_table
from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.pipeline import Mimo

#: Grey values of the images of a set; the first is like the training, the other is not.
VALUES = (56, 120)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    folder = tmp_path / "grey"
    folder.mkdir()
    lines = []
    for value in VALUES:
        Image.fromarray(brightness(value)).save(folder / f"{value}.png")
        lines.append({
            "image": f"{value}.png", "case": str(value), "split": "test", "modality": "ct", "region": "abdomen", "classes": {},
        })  # fmt: skip
    (folder / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return read_datasets(folder)[0]


def model() -> Mimo:
    base = fakes.fake_mimo()
    statistics = statistics_of({"ct": [0.2, 0.22, 0.24]})
    return Mimo(fakes.CONFIG, base.engines, base.tokenizer, base.info, domain=statistics)


def test_turned_copies_of_every_kind_are_checked(data: Dataset) -> None:
    inside, outside = data.records
    assert turned_flags(model(), inside, brightness(56)) == dict.fromkeys(TURNED_COPIES, False)
    assert turned_flags(model(), outside, brightness(120)) == dict.fromkeys(TURNED_COPIES, True)
    assert turned_flags(fakes.fake_mimo(), inside, brightness(56)) == {}


def test_a_quarter_turn_is_of_the_image_and_a_mirror_swaps_its_sides(data: Dataset) -> None:
    class Recorded(Mimo):
        images: list[np.ndarray] = []

        def open(self, image, **options):
            self.images.append(image.pixels)
            return super().open(image, **options)

    base = model()
    mimo = Recorded(base.config, base.engines, base.tokenizer, base.info, domain=base.domain)
    pixels = np.arange(64 * 48 * 3, dtype=np.uint8).reshape(64, 48, 3)
    turned_flags(mimo, replace(data.records[0], pixel_spacing_mm=None), pixels)
    quarter, half, mirrored = mimo.images
    assert np.array_equal(quarter, np.rot90(pixels)) and np.array_equal(half, pixels[::-1, ::-1])
    assert np.array_equal(mirrored, pixels[:, ::-1])


def test_the_check_is_timed_beside_an_encode(data: Dataset) -> None:
    times = check_times(model(), data.records[0], brightness(56))
    assert times is not None and times.encode > 0 and times.check > 0
    assert check_times(fakes.fake_mimo(), data.records[0], brightness(56)) is None


def test_the_result_has_flags_of_turned_copies_and_the_cost(data: Dataset) -> None:
    result = measure_competence(model(), [data], per_kind=1)
    turned, cost = result["domain"]["turned"], result["domain"]["cost"]
    assert turned is not None and set(turned) == set(TURNED_COPIES)
    assert all(part["flagged"] == 0.5 and part["sets"]["grey"]["n"] == 2 for part in turned.values())
    assert cost is not None and cost["n"] == 2 and cost["share"] > 0
    text = competence_table(result)
    assert "trained images flagged, quarter turn" in text and "domain check, share of the time of an encode" in text
    assert f"{sum(result['meta']['questions'].values())} questions of 10 kinds" in text
    assert json.loads(json.dumps(result, allow_nan=False))["domain"]["turned"] == turned


def test_the_domain_can_be_measured_without_questions(data: Dataset) -> None:
    whole, only = (measure_competence(model(), [data], per_kind=per_kind) for per_kind in (1, 0))
    assert only["domain"]["trained"] == whole["domain"]["trained"] and only["modality"] == whole["modality"]
    assert only["domain"]["turned"] == whole["domain"]["turned"]
    assert only["out_of_competence"]["n"] == only["answerable"]["n"] == only["open"]["n"] == 0
    assert "refused, outside the competence" in competence_table(only)
