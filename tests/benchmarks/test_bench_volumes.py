"""``mimo-bench volumes``: stacks of stored slices, and what is measured on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bright_discs import bright_mimo, disc
from click.testing import CliRunner
from PIL import Image

from mimo_benchmarks.cli.main import main
from mimo_benchmarks.tracking.slices import stacks_of
from mimo_benchmarks.tracking.table import volume_table
from mimo_benchmarks.tracking.volumes import METHODS, measure_volumes
from mimo_runtime.data.dataset import read_datasets

RADII = (0, 5, 7, 9, 10, 9, 7, 0)


@pytest.fixture
def balls(tmp_path: Path) -> Path:
    """Two cases of eight slices of a ball, and a case of two slices."""
    lines = []
    for case, radii in (("a", RADII), ("b", RADII), ("short", RADII[3:5])):
        for number, radius in enumerate(radii, 8):
            pixels = disc(30, 30, radius) if radius else disc(200, 200)
            name = f"{case}_{number}.png"
            Image.fromarray(pixels).save(tmp_path / name)
            Image.fromarray((pixels.max(axis=2) > 100).astype(np.uint8)).save(tmp_path / f"mask_{name}")
            lines.append({
                "image": name, "mask": f"mask_{name}", "case": case, "split": "val", "modality": "endoscopy", "region": "colon",
                "classes": {"1": "polyp"} if radius else {},
            })  # fmt: skip
    lines.reverse()
    (tmp_path / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_a_stack_holds_the_slices_around_the_middle_of_a_structure_in_order(balls: Path) -> None:
    data = read_datasets([balls])
    stacks = stacks_of(data, "val", 5, 2, {}, ["polyp"])
    assert [[r.image.stem for r in s.records] for s in stacks] == [[f"{case}_{i}" for i in range(10, 15)] for case in "ab"]
    assert [int(m.sum()) > 0 for m in stacks[0].masks] == [True] * 5 and stacks[0].middle == 2
    strided = stacks_of(data, "val", 1, 9, {balls.name: 2}, ["polyp"])
    assert [r.image.stem for r in strided[0].records] == ["a_8", "a_10", "a_12", "a_14"]
    assert stacks_of(data, "val", 5, 2, {}, ["liver"]) == [] == stacks_of(data, "test", 5, 2, {}, ["polyp"])


def test_volumes_are_measured_beside_questions_about_single_slices(balls: Path) -> None:
    done = []
    stacks = stacks_of(read_datasets([balls]), "val", 5, 5, {}, ["polyp"])
    result = measure_volumes(bright_mimo(), stacks, progress=lambda *p: done.append(p))
    assert done == [(0, 2), (1, 2)] and result["volumes"] == 2 and result["slices"] == 16
    assert set(result["dice"]) == set(METHODS) and all(of["all"] > 0.85 for of in result["dice"].values())
    assert list(result["by_distance"]["volume"]) == ["1", "2", "3", "4"] and result["seconds_per_slice"] > 0
    gain = result["dice"]["volume"]["all"] - result["dice"]["previous_box"]["all"]
    assert result["gain_over_previous_box"] == pytest.approx(gain, abs=1e-4)
    assert "2 volumes, 16 slices" in volume_table(result) and "| volume by name |" in volume_table(result)


@pytest.mark.parametrize(
    ("stride", "error"), [("balls", "is not SET=N"), ("other=2", "--stride names other, which is no set of --data")]
)
def test_a_stride_that_fits_no_set_is_refused(balls: Path, stride: str, error: str) -> None:
    result = CliRunner().invoke(main, ["volumes", "model", "--data", str(balls), "--stride", stride])
    assert result.exit_code == 2 and error in result.output
