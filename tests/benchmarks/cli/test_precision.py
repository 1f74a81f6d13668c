"""``mimo-bench precision``: a bundle in reduced precision against one in single precision."""

from __future__ import annotations

import hashlib
import json

import pytest
from bench_cli import refused, run

from mimo_benchmarks import precision
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.errors import RequestError
from mimo_runtime.model.graph_spec import GRAPHS


def test_a_bundle_loses_nothing_against_itself(bundle, data, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "GRAPH_SECONDS", 0.0)
    out = tmp_path / "out.json"
    result = run("precision", bundle, bundle, "--data", data, "--limit", 1, "--threads", 1, "--json", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    loss = found["loss"]
    # Two images: three prompts by place for one lung and for two polyps (one class: its mask), the name, and what is absent.
    assert loss["dice"] == dict.fromkeys(("box", "point", "mask", "text"), 0.0)
    assert (loss["presence_f1"], loss["text_agreement"]) == (0.0, 1.0)
    assert found["macro_dice"]["full"] == found["macro_dice"]["reduced"] and found["images"] == 2
    assert found["calibration"] is None  # nothing was calibrated
    assert found["bytes"]["share"] == 1.0 and set(found["latency_ms"]) == {*GRAPHS, "answer"}
    assert all(ms["ratio"] > 0 and ms["full"] > 0 for ms in found["latency_ms"].values())
    for words in ("macro Dice", "vision_encoder", "100.00 % of the texts", "100.0 % of full precision"):
        assert words in result.stdout


def test_the_table_gives_the_cost_of_the_calibration():
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
    text = precision.precision_table(result)
    assert "calibrated on 128 images: statistics in 94 s, search and accuracy gate in 386 s; at most 1.02 GB resident" in text
    assert "calibrated" not in precision.precision_table({**result, "calibration": None})


def test_precision_refuses_images_that_were_calibrated_on(bundle, data, tmp_path, monkeypatch):
    hashes = [hashlib.sha256((data / "two" / "images/1.png").read_bytes()).hexdigest()[:16]]
    real, calibration = Bundle.open, {"image_hashes": ["0" * 16, *hashes]}

    def opened(path, **options):
        found = real(path, **options)
        if str(path).endswith("calibrated"):
            found.manifest.data["calibration"] = calibration
        return found

    monkeypatch.setattr(Bundle, "open", opened)
    monkeypatch.setattr(precision.Mimo, "load", lambda *_, **__: pytest.fail("it began"))
    place = tmp_path / "calibrated"
    place.symlink_to(bundle)
    # Whether it would be drawn or not.
    for limit in ((), ("--limit", 1)):
        result = run("precision", bundle, place, "--data", data, *limit)
        refused(result, "was calibrated on the image two/images/1.png of split 'test'", "another --split or --data")
    with pytest.raises(RequestError, match="was calibrated on"):
        precision.refuse_calibrated(opened(place), read_datasets(data), "test")
    precision.refuse_calibrated(opened(place), read_datasets(data), "val")
    calibration["image_hashes"] = ["0" * 16]
    precision.refuse_calibrated(opened(place), read_datasets(data), "test")


def test_precision_warns_that_an_older_bundle_does_not_name_its_images(bundle, data, tmp_path, monkeypatch):
    real = Bundle.open

    def opened(path, **options):
        found = real(path, **options)
        if str(path).endswith("older"):
            found.manifest.data["calibration"] = {"id": "x", "images": 16}
        return found

    monkeypatch.setattr(Bundle, "open", opened)
    monkeypatch.setattr(precision, "compare_precision", lambda *_, **__: {})
    monkeypatch.setattr(precision, "precision_table", lambda *_: "table")
    (tmp_path / "older").symlink_to(bundle)
    result = run("precision", bundle, tmp_path / "older", "--data", data)
    assert result.exit_code == 0, result.output
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
