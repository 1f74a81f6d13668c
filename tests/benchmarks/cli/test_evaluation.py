"""The evaluations of ``mimo-bench``: what goes where, refusals before the work, and the report."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mimo_benchmarks import models, precision
from mimo_benchmarks.cli.main import main
from mimo_benchmarks.suites import report
from mimo_benchmarks.suites.robustness import CONDITIONS, SHIFT
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.postprocessing.connected_components import label_components

SQUARES = {"one": [(6, 6)], "two": [(6, 6), (36, 18)]}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert all(word in lines[0] for word in words), lines[0]
    assert result.stdout == ""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set ``one`` with one bright left lung per image and set ``two`` with two polyps; two images each, of split test."""
    root = tmp_path_factory.mktemp("data")
    for name, corners in SQUARES.items():
        for folder in ("images", "masks"):
            (root / name / folder).mkdir(parents=True)
        lines = []
        for k in range(2):
            mask = np.zeros((44, 60), np.uint8)
            for x, y in corners:
                mask[y + k : y + k + 14, x : x + 14] = 1
            Image.fromarray(np.where(mask, 180, 20 + k).astype(np.uint8)).save(root / name / f"images/{k}.png")
            Image.fromarray(mask).save(root / name / f"masks/{k}.png")
            lines.append({
                "image": f"images/{k}.png", "mask": f"masks/{k}.png", "case": str(k), "split": "test", "modality": "ct",
                "region": "chest", "classes": {"1": "left lung" if name == "one" else "polyp"},
            })  # fmt: skip
        (root / name / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


class Bright:
    """Segments what is bright: in a box, around a point, or everywhere for a text."""

    info, engines = {"id": "bright"}, {"eyes": SimpleNamespace(name="fake")}

    def __enter__(self) -> Bright:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def open(self, pixels: np.ndarray) -> SimpleNamespace:
        bright = pixels.mean(2) > 100

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


def test_referring_without_closer_looks(bright: list[tuple], data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bright, "config", MimoConfig(crop_scale=3.5), raising=False)
    seen: list[float] = []
    inner = Bright.open
    monkeypatch.setattr(Bright, "open", lambda self, pixels: seen.append(self.config.crop_scale) or inner(self, pixels))
    assert run("referring", "model", "--data", data, "--limit", 1).exit_code == 0
    assert run("referring", "model", "--data", data, "--limit", 1, "--no-refine").exit_code == 0
    assert seen == [3.5, 0.0]


def test_robustness_writes_the_numbers_and_the_report(bright: list[tuple], data: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "out.json", tmp_path / "report"
    folder.mkdir()
    (folder / "note.txt").write_text("mine")
    given = ("--data", data / "one", "--data", data / "two", "--limit", 1, "--json", out, "--report", folder)
    result = run("robustness", "model", *given)
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

    def look(figure) -> None:
        for axis in figure.axes:
            drawn[axis.get_title(loc="left")] = [bar.get_width() for bar in axis.patches]
            assert axis.get_xlim()[0] < -0.6 or axis.get_ylabel() == "Dice"
        close(figure)

    monkeypatch.setattr(pyplot, "close", look)
    report.picture(result)
    wanted = [row["delta"] for row in result["conditions"][SHIFT] if row["name"] != "clean"]
    assert drawn["Image changed"][: len(wanted)] == pytest.approx(wanted) and -0.5 in wanted


def test_questions_that_the_model_refused_are_told(bright: list[tuple], data: Path) -> None:
    result = json.loads(run("robustness", "model", "--data", data / "two", "--json").stdout)
    assert "too long" not in report.markdown(result)
    result["meta"]["refused_questions"] = 7
    assert "7 questions were too long" in report.markdown(result)


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["referring", "robustness", "relations"])
def test_requests_that_cannot_be_met(bright: list[tuple], data: Path, tmp_path: Path, command: str) -> None:
    refused(run(command, "model", "--data", tmp_path / "nothing"), "holds no data set")
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
    refused(run("robustness", "model", "--data", data, "--report", tmp_path / "no" / "report"), "folder no does not exist")
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
Mimo.load = staticmethod(lambda *given, **options: (given, options))
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


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, mimo_benchmarks.cli.main as c; assert {'referring', 'robustness', 'relations'} <= set(c.main.commands);"
        "print([m for m in ('torch', 'numpy', 'matplotlib', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- precision ---------------------------------------------------------------------------------------------------------


def test_a_bundle_loses_nothing_against_itself(bundle, data, tmp_path):
    out = tmp_path / "out.json"
    result = run("precision", bundle, bundle, "--data", data, "--limit", 1, "--threads", 1, "--json", out)
    assert result.exit_code == 0, result.output
    told = json.loads(out.read_text())
    loss = told["loss"]
    # Two images: three prompts by place for one lung and for two polyps (one class: its mask), the name, and what is absent.
    assert loss["dice"] == dict.fromkeys(("box", "point", "mask", "text"), 0.0)
    assert (loss["presence_f1"], loss["text_agreement"]) == (0.0, 1.0)
    assert told["macro_dice"]["full"] == told["macro_dice"]["reduced"] and told["images"] == 2
    assert told["calibration"] is None  # nothing was calibrated
    assert told["bytes"]["share"] == 1.0 and set(told["latency_ms"]) == {*GRAPHS, "answer"}
    assert all(0.2 < ms["ratio"] < 5 and ms["full"] > 0 for ms in told["latency_ms"].values())
    for words in ("macro Dice", "vision_encoder", "100.00 % of the texts", "100.0 % of full precision"):
        assert words in result.stdout


def test_what_a_calibration_took_is_told():
    cost = {"images": 128, "seconds": {"calibrate": 94.4, "decide": 480.0}, "peak_mb": 1020}

    class Reported:
        def __init__(self, report: dict) -> None:
            self.report = report

        def bytes(self, name: str) -> bytes:
            assert name == "report.json"
            return json.dumps(self.report).encode()

    assert precision.calibration_cost(Reported({"precision": {**cost, "graphs": {}}})) == cost
    assert precision.calibration_cost(Reported({})) is None
    loss = {"dice": {}, "ci95": {}, "presence_f1": 0.0, "presence_by": "f1", "text_agreement": 1.0, "questions": 3}
    result = {"loss": loss, "macro_dice": {}, "images": 3, "split": "test", "latency_ms": {}, "engines": {"reduced": {}},
              "bytes": {"reduced": 14.2e6, "share": 0.326}, "calibration": cost}  # fmt: skip
    told = precision.precision_table(result)
    assert "calibrated on 128 images: watched in 94 s, searched and decided in 386 s; at most 1.02 GB resident" in told
    assert "calibrated" not in precision.precision_table({**result, "calibration": None})


def test_precision_refuses_images_that_were_calibrated_on(bundle, data, tmp_path, monkeypatch):
    from mimo_benchmarks import precision as module

    hashes = [hashlib.sha256((data / "two" / "images/1.png").read_bytes()).hexdigest()[:16]]
    real, told = Bundle.open, {"image_hashes": ["0" * 16, *hashes]}

    def opened(path, **options):
        found = real(path, **options)
        if str(path).endswith("calibrated"):
            found.manifest.data["calibration"] = told
        return found

    monkeypatch.setattr(Bundle, "open", opened)
    monkeypatch.setattr(module.Mimo, "load", lambda *_, **__: pytest.fail("it began"))
    place = tmp_path / "calibrated"
    place.symlink_to(bundle)
    # Whether it would be drawn or not.
    for limit in ((), ("--limit", 1)):
        result = run("precision", bundle, place, "--data", data, *limit)
        refused(result, "was calibrated on the image two/images/1.png of split 'test'", "another --split or --data")
    with pytest.raises(RequestError, match="was calibrated on"):
        module.refuse_calibrated(opened(place), read_datasets(data), "test")
    module.refuse_calibrated(opened(place), read_datasets(data), "val")
    told["image_hashes"] = ["0" * 16]
    module.refuse_calibrated(opened(place), read_datasets(data), "test")


def test_precision_says_that_an_older_bundle_does_not_tell_its_images(bundle, data, tmp_path, monkeypatch):
    from mimo_benchmarks import precision as module

    real = Bundle.open

    def opened(path, **options):
        found = real(path, **options)
        if str(path).endswith("older"):
            found.manifest.data["calibration"] = {"id": "x", "images": 16}
        return found

    monkeypatch.setattr(Bundle, "open", opened)
    monkeypatch.setattr(module, "compare_precision", lambda *_, **__: {})
    monkeypatch.setattr(module, "precision_table", lambda *_: "table")
    (tmp_path / "older").symlink_to(bundle)
    result = run("precision", bundle, tmp_path / "older", "--data", data)
    assert result.exit_code == 0 and result.stdout == "table\n", result.output
    assert result.stderr.count("\n") == 1 and "older does not say which images it was calibrated on" in result.stderr
    # A bundle in single precision was calibrated on nothing.
    assert run("precision", bundle, bundle, "--data", data).stderr == ""


def test_precision_refuses_other_weights_and_a_reduced_reference(bundle, data, monkeypatch):
    real = Bundle.open

    def changed(**model):
        def opened(path, **options):
            found = real(path, **options)
            if str(path).endswith("other"):
                found.manifest.data["model"].update(model)
            if str(path).endswith("small"):
                found.manifest.graphs["fusion"].delivered.update(int8=1)
            return found

        return opened

    monkeypatch.setattr(Bundle, "open", lambda path, **options: changed(checkpoint_sha256="0" * 64)(path, **options))
    for name in ("other", "small"):
        (bundle.parent / name).unlink(missing_ok=True)
        (bundle.parent / name).symlink_to(bundle)
    try:
        refused(run("precision", bundle, bundle.parent / "other", "--data", data), "different weights")
        refused(run("precision", bundle.parent / "small", bundle, "--data", data), "not in single precision")
    finally:
        for name in ("other", "small"):
            (bundle.parent / name).unlink()
