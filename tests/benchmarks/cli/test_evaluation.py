"""The evaluations of ``mimo-bench``: what goes where, refusals before the work, and the report."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fakes
import numpy as np
import pytest
from bench_cli import refused, run
from PIL import Image

from mimo_benchmarks import models
from mimo_benchmarks.suites import charts, report
from mimo_benchmarks.suites.conditions import CONDITIONS, SHIFT
from mimo_runtime.errors import BundleError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.postprocessing.connected_components import label_components


class Bright:
    """Segments what is bright: in a box, around a point, or everywhere for a text."""

    info, engines = {"id": "bright"}, {"graph": SimpleNamespace(name="fake")}

    def __enter__(self) -> Bright:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def open(self, image: ScanImage) -> SimpleNamespace:
        bright = image.pixels.mean(2) > 100

        def ask(text="", boxes=(), points=(), *, text_answer=True):
            mask = np.zeros_like(bright)
            if boxes:
                x0, y0, x1, y1 = (round(v) for v in boxes[0])
                mask[y0:y1, x0:x1] = bright[y0:y1, x0:x1]
            elif points:
                parts, _ = label_components(bright)
                mask = bright & (parts == parts[points[0][1], points[0][0]])
            else:
                mask = bright
            return SimpleNamespace(findings=[SimpleNamespace(query=0, mask=mask, present=True, presence=1.0)])

        return SimpleNamespace(ask=ask)


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Every model is :class:`Bright`; the list of what was opened."""
    opened: list[tuple] = []

    def open_model(path: Path, threads: int | None = None) -> Bright:
        opened.append((path, threads))
        return Bright()

    monkeypatch.setattr(models, "open_model", open_model)
    return opened


# -- results ---------------------------------------------------------------------------------------------------------


def test_referring_writes_the_numbers_and_a_table(bright: list[tuple], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = run("referring", "model", "--data", data, "--threads", 1, "--limit", 1, "--json", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert {"box", "point", "text+box", "text+point", "baselines", "sets", "classes", "meta"} == set(found)
    assert list(found["sets"]) == ["two"] and found["box"]["n"] == found["point"]["n"] == 2
    assert found["point"]["right"] == 1 and found["meta"]["model"] == "bright"
    assert bright == [(Path("model"), 1)]
    rows = [line.split() for line in result.stdout.splitlines()]
    heads = re.split(r"\s{2,}", result.stdout.splitlines()[1].strip())
    assert heads[4:] == ["box", "point", "name + box", "name + point", "ellipse in the box"]
    assert ["two", "polyp", "1", "2", "100.0", "%", "(100-100)"] in [row[:7] for row in rows]
    assert rows[2][:3] == ["mean", "of", "sets"] and rows[2][3:6] == ["100.0", "%", "(100-100)"]


@pytest.mark.parametrize(("options", "refined"), [((), True), (("--no-refine",), False)])
def test_referring_without_refinement_runs_no_crop(
    options: tuple[str, ...], refined: bool, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fakes.fake_mimo(config=replace(fakes.CONFIG, crop_scale=3.0)) as mimo:
        monkeypatch.setattr(models, "open_model", lambda path, threads=None: mimo)
        assert run("referring", "model", "--data", data / "two", "--limit", 1, *options).exit_code == 0
        # Of the image once, and of its crops.
        assert (fakes.calls(mimo)["vision_encoder"] > 1) is refined


def test_robustness_writes_the_numbers_and_the_report(bright: list[tuple], data: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "out.json", tmp_path / "report"
    folder.mkdir()
    (folder / "note.txt").write_text("mine")
    options = ("--data", data / "one", "--data", data / "two", "--limit", 1, "--json", out, "--report", folder)
    result = run("robustness", "model", *options)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert list(found["conditions"]) == list(CONDITIONS) and found["meta"]["images_per_set"] == {"one": 1, "two": 1}
    text = (folder / "robustness.md").read_text()
    head, picture, rest = text.split("\n\n", 2)
    assert picture.endswith("(robustness.png)") and f"{head}\n\n{rest}".strip() == result.stdout.strip()
    for group, rows in found["conditions"].items():
        assert {row["name"] for row in rows} == set(CONDITIONS[group])
        for row in rows:
            assert f"| {row['name']} | {row['prompt']} | {row['dice']:.3f} (" in text
    for mirror in ("horizontal flip", "vertical flip"):
        assert f"Left out under *{mirror}*, prompt text: left lung." in text
    assert "| left lung | left pulmonary field | " in text and "| polyp | colon polyp | " in text
    for block in text.split("\n\n"):  # every row has as many cells as its head
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
    with Image.open(folder / "robustness.png") as image:
        assert image.size == (1800, 1440) and len(image.convert("RGB").getcolors(1 << 22)) > 50
    assert (folder / "note.txt").read_text() == "mine"


def test_turned_images_are_measured_alone(bright: list[tuple], data: Path, tmp_path: Path) -> None:
    result = run("robustness", "model", "--data", data, "--limit", 1, "--group", "geometry", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert list(numbers["conditions"]) == ["geometry"] and numbers["turned"]["loss"] == 0
    assert "costs most" in result.stdout and "The goal is at most 0.10." in result.stdout and "Box jitter" not in result.stdout
    refused(run("robustness", "model", "--data", data, "--group", "turned"), "turned")
    options = ("--data", data, "--group", "geometry", "--report", tmp_path / "report")
    refused(run("robustness", "model", *options), "a report shows all groups", "Leave out --group")
    assert len(bright) == 1


def test_the_report_folder_is_made_and_replaced(bright: list[tuple], data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    for split_seed in (0, 1):
        result = run("robustness", "model", "--data", data / "two", "--seed", split_seed, "--report", folder)
        assert result.exit_code == 0, result.output
        assert f"seed {split_seed}" in (folder / "robustness.md").read_text()
    assert sorted(p.name for p in folder.iterdir()) == ["robustness.md", "robustness.png"]


def test_json_on_standard_output_is_one_line_and_alone(bright: list[tuple], data: Path) -> None:
    for command in ("referring", "robustness"):
        result = run(command, "model", "--data", data, "--json")
        assert result.exit_code == 0, result.output
        assert len(result.stdout.splitlines()) == 1 and "meta" in json.loads(result.stdout)


def test_changes_are_drawn_to_the_left_of_nothing(bright: list[tuple], data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the picture shows is what the tables say."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    result = json.loads(run("robustness", "model", "--data", data, "--json").stdout)
    for row in result["conditions"][SHIFT]:
        if row["name"] == "noise 30" and row["prompt"] == "text":
            row |= {"delta": -0.5, "delta_ci95": [-0.6, -0.4]}
    drawn: dict[str, list[float]] = {}
    close = pyplot.close

    def record(figure) -> None:
        for axis in figure.axes:
            drawn[axis.get_title(loc="left")] = [bar.get_width() for bar in axis.patches]
            assert axis.get_xlim()[0] < -0.6 or axis.get_ylabel() == "Dice"
        close(figure)

    monkeypatch.setattr(pyplot, "close", record)
    charts.picture(result)
    wanted = [row["delta"] for row in result["conditions"][SHIFT] if row["name"] != "clean"]
    assert drawn["Image corrupted"][: len(wanted)] == pytest.approx(wanted) and -0.5 in wanted


def test_the_report_counts_questions_that_the_model_refused(bright: list[tuple], data: Path) -> None:
    result = json.loads(run("robustness", "model", "--data", data / "two", "--json").stdout)
    assert "too long" not in report.markdown(result)
    result["meta"]["refused_questions"] = 7
    assert "7 questions were too long" in report.markdown(result)


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["referring", "robustness", "relations"])
def test_requests_that_cannot_be_met(bright: list[tuple], data: Path, tmp_path: Path, command: str) -> None:
    refused(run(command, "model", "--data", tmp_path / "nothing"), "does not exist")
    refused(
        run(command, "model", "--data", data, "--json", tmp_path / "no" / "out.json"), "cannot be written", "Create the folder"
    )
    refused(run(command, "model", "--data", data, "--json", tmp_path), "cannot be written")
    assert bright == []  # all that before the model was loaded
    refused(run(command, "model", "--data", data, "--split", "val"), "no image in split 'val'")
    refused(run(command, "model"), "--data")


def test_single_things_are_no_referring_test(bright: list[tuple], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    refused(
        run("referring", "model", "--data", data / "one", "--json", out), "two or more instances", "several objects per image"
    )
    assert not out.exists()


def test_reports_that_cannot_be_written(bright: list[tuple], data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full" / "robustness.png").mkdir(parents=True)
    refused(run("robustness", "model", "--data", data, "--report", tmp_path / "file"), "is a file", "Name a folder")
    refused(run("robustness", "model", "--data", data, "--report", tmp_path / "no" / "report"), "its folder does not exist")
    refused(run("robustness", "model", "--data", data, "--report", tmp_path / "full"), "robustness.png cannot be written")
    assert bright == []


def test_a_report_without_matplotlib_is_refused_before_the_work(
    bright: list[tuple], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(run("robustness", "model", "--data", data, "--report", tmp_path / "report"), "matplotlib", "pip install")
    assert bright == [] and not (tmp_path / "report").exists()
    assert run("robustness", "model", "--data", data).exit_code == 0  # the tables need none


# -- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["referring", "robustness", "relations"])
def test_a_model_that_does_not_exist_is_refused(data: Path, tmp_path: Path, command: str) -> None:
    refused(run(command, tmp_path / "nothing", "--data", data), "nothing does not exist", "mimo-export build", "mimo-train fit")
    refused(run(command, tmp_path, "--data", data), "not a bundle")


def test_a_bundle_needs_no_torch_and_a_checkpoint_does(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / models.WEIGHTS).write_bytes(b"")
    program = """
import sys
sys.modules["torch"] = None  # makes "import torch" raise
from mimo_benchmarks.models import open_model
from mimo_runtime.pipeline import Mimo
Mimo.load = staticmethod(lambda *arguments, **options: (arguments, options))
print(open_model(sys.argv[1], 3)[1])
try:
    open_model(sys.argv[2])
except ModuleNotFoundError as error:
    print(error.name)
"""
    folders = [str(tmp_path / "bundle"), str(tmp_path / "checkpoint")]
    done = subprocess.run([sys.executable, "-c", program, *folders], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["{'threads': 3, 'cache_images': 0}", "torch"]


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / models.WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(BundleError):
        models.open_model(tmp_path)


def test_a_checkpoint_is_measured_by_all(checkpoint: Path, data: Path) -> None:
    for command in ("referring", "robustness", "relations"):
        result = run(command, checkpoint, "--data", data / "two", "--limit", 1, "--threads", 1, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["meta"] | {"engine": "torch-eager", "images": 1} == json.loads(result.stdout)["meta"]


def test_the_earlier_name_of_relations_is_read_and_reported_once(bright: list[tuple], data: Path, tmp_path: Path) -> None:
    result = run("scene", "model", "--data", data, "--split", "val")
    warning, error = result.stderr.strip().splitlines()
    assert warning == "warning: scene is deprecated, use relations." and "no image in split 'val'" in error
