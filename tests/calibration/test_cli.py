"""``mimo-calibrate``: refusals, warnings and help; and the same of ``mimo-export build`` with a reduced precision."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from quick_calibration import calibrate, invoke
from small_sets import make_set, read_rows, write_rows

from mimo_calibration import calibrate_bundle, quantize
from mimo_calibration.diagnostics import warnings_after
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.errors import RequestError, VerificationError
from mimo_runtime.model.graph_spec import GRAPHS


def refused(result: Result, *words: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr that holds the words."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimo_calibration.quantize.PrecisionSelector", lambda *_: pytest.fail("it began"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--calibration-images", "3"], ["is 3", "at least 16"]),
        (["--gate-images", "7"], ["is 7", "at least 8"]),
        (["--tolerance", "0"], ["--tolerance is 0"]),
        (["--tolerance", "nan"], ["--tolerance is nan"]),
        (["--tolerance", "much"], ["--tolerance"]),
        (["--precision", "int4"], ["--precision", "auto"]),
        (["--precision", "fp32"], ["--precision", "auto"]),
        (["--calibration", "nowhere"], ["nowhere", "Registered: phantoms"]),
        (["--held-out", "nowhere"], ["--held-out nowhere", "Registered: phantoms"]),
        (["--cache", "/proc/none"], ["cache /proc/none cannot be written"]),
        (["--seed", "-1"], ["--seed"]),
    ],
    ids=" ".join,
)
def test_what_cannot_work_is_refused_in_one_line(no_work, bundle, data, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    refused(calibrate(bundle, data, tmp_path / "out", *options), *words)
    assert not any(tmp_path.iterdir())


def test_calibration_and_output_are_required(bundle, data, tmp_path):
    refused(invoke("run", bundle, "-o", tmp_path / "out"), "--calibration")
    refused(invoke("run", bundle, "--calibration", data), "--output")


def test_what_is_no_bundle_is_refused(no_work, data, tmp_path, bundle):
    refused(calibrate(tmp_path / "nowhere", data, tmp_path / "out"), "nowhere")
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    graph = damaged / "graphs/fusion.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    refused(calibrate(damaged, data, tmp_path / "out"), "fusion.onnx")
    assert not (tmp_path / "out").exists()


def test_too_few_images_and_images_in_both_splits_are_refused(no_work, bundle, own_data, tmp_path):
    make_set(tmp_path / "few", {"ct": 12})
    refused(calibrate(bundle, tmp_path / "few", tmp_path / "out"), "12 images of split 'train'", "at least 16")
    rows = read_rows(own_data)
    train, val = (next(own_data / row["image"] for row in rows if row["split"] == split) for split in ("train", "val"))
    shutil.copyfile(train, val)
    refused(calibrate(bundle, own_data, tmp_path / "out"), train.name, val.name, "Split the data by case")
    assert not (tmp_path / "out").exists()


def test_an_output_that_holds_something_is_refused(no_work, bundle, data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    refused(calibrate(bundle, data, tmp_path / "out"), "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_an_earlier_output_is_replaced_by_overwrite_alone(bundle, data, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise VerificationError("it began", "stop")

    monkeypatch.setattr(calibrate_bundle, "quantize_with_accuracy_control", fail)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / calibrate_bundle.NUMBERS).write_text("{}")
    for options in ((), ("--force",)):
        refused(calibrate(bundle, data, tmp_path / "out", *options), "is not empty", "replace it with --overwrite")
    assert calibrate(bundle, data, tmp_path / "out", "--overwrite").stderr == "error: it began. stop.\n"
    assert (tmp_path / "out" / calibrate_bundle.NUMBERS).read_text() == "{}"  # nothing replaces it but a result


# -- warnings ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(own_data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """To calibrate on and to decide on: some images of modalities that no model knows, other ones in each split."""
    held_out = Path(shutil.copytree(own_data, tmp_path / "held_out"))
    for folder, split, modality in ((own_data, "train", "pet"), (held_out, "val", "oct")):
        rows = read_rows(folder)
        for row in [row for row in rows if row["split"] == split][:4]:
            row["modality"] = modality
        write_rows(folder, rows)
    return own_data, held_out


MODALITIES = ("ct", "mri", "xray", "ultrasound")
WARNED = [
    "warning: --calibration-images is 500, but the data has only 16 in split 'train': these are used",
    "warning: --gate-images is 90, but the data has only 8 in split 'val' besides those of the search: these are used",
    "warning: calibrates on modalities that the training data did not have: pet",
    "warning: decides on modalities that the training data did not have: oct",
    "warning: not installed, so not tried: openvino",
    "error: misses the tolerance. stop.",
]


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimo_calibration.search.settings.why_not", lambda name: "not here" if name == "openvino" else None)


def fails(*_: object, **__: object) -> None:
    raise VerificationError("misses the tolerance", "stop")


def test_a_calibration_warns_before_the_work(without_openvino, bundle, foreign, tmp_path, monkeypatch):
    opened = Bundle.open(bundle)
    config = dataclasses.replace(opened.config, modalities=MODALITIES)
    knowing = SimpleNamespace(manifest=opened.manifest, config=config, bytes=opened.bytes)
    monkeypatch.setattr(calibrate_bundle.Bundle, "open", lambda _: knowing)
    monkeypatch.setattr(quantize, "PrecisionSelector", fails)
    options = ("--held-out", foreign[1], "--calibration-images", 500, "--gate-images", 90)
    result = calibrate(bundle, foreign[0], tmp_path / "out", *options)
    assert result.exit_code == 1 and result.stderr.splitlines() == WARNED


def test_a_build_warns_before_the_work(without_openvino, foreign, tmp_path, monkeypatch):
    from random_weights import write_checkpoint

    from mimo_export import cli
    from mimo_export import stages as module

    checkpoint = write_checkpoint(tmp_path / "checkpoint", modalities=MODALITIES)
    monkeypatch.setattr(module, "export_graph", fails)
    arguments = ("build", checkpoint, "-o", tmp_path / "out", "--precision", "int8", "--calibration", foreign[0])
    options = ("--held-out", foreign[1], "--calibration-images", 500, "--gate-images", 90)
    result = CliRunner().invoke(cli.main, [str(a) for a in (*arguments, *options)])
    assert result.exit_code == 1 and result.stderr.splitlines() == WARNED


def test_nobody_is_warned_of_a_default_or_of_what_is_known(bundle, data, tmp_path, monkeypatch):
    monkeypatch.setattr("mimo_calibration.search.settings.why_not", lambda name: None)
    monkeypatch.setattr(quantize, "PrecisionSelector", fails)
    result = invoke("run", bundle, "--calibration", data, "-o", tmp_path / "out")
    assert result.exit_code == 1 and result.stderr.splitlines() == WARNED[-1:]


def test_what_was_forced_is_warned_of_at_the_end():
    (warning,) = warnings_after({"forced": True}, "int8")
    assert "int8" in warning and "--force" in warning
    assert list(warnings_after({"forced": False}, "int8")) == []


def test_a_bundle_in_reduced_precision_is_refused(tmp_path, data, monkeypatch):
    entries = {name: SimpleNamespace(delivered={"int8": 0, "fp16": 0, "fp32": 3}) for name in GRAPHS}
    entries["fusion"] = SimpleNamespace(delivered={"int8": 2, "fp16": 0, "fp32": 1})
    opened = SimpleNamespace(manifest=SimpleNamespace(graphs=entries))
    monkeypatch.setattr(calibrate_bundle.Bundle, "open", lambda path: opened)
    with pytest.raises(RequestError, match="reduced precision: fusion"):
        calibrate_bundle.calibrate_bundle(tmp_path / "bundle", tmp_path / "out", SimpleNamespace())


def test_names_lists_the_registered_sets():
    result = invoke("names")
    assert result.exit_code == 0 and "phantoms" in result.stdout.split()


def test_help_says_what_comes_out():
    result = invoke("run", "--help")
    assert result.exit_code == 0
    for word in ("symmetric", "shipped", "calibration.json", "--tolerance", "--force", "--overwrite"):
        assert word in result.stdout


def test_a_build_without_data_or_with_some_graphs_is_refused(data, tmp_path):
    from random_weights import write_checkpoint

    from mimo_export import cli

    def build(*options: object) -> Result:
        return CliRunner().invoke(
            cli.main, [str(a) for a in ("build", write_checkpoint(tmp_path / "checkpoint"), "-o", tmp_path / "out", *options)]
        )

    refused(build("--precision", "int8"), "--precision int8 needs --calibration")
    few = ("--calibration", data, "--calibration-images", 16, "--gate-images", 8)
    refused(build("--precision", "auto", "--graphs", "fusion", *few), "--graphs leaves some", "--precision fp32")
    assert not (tmp_path / "out").exists()
