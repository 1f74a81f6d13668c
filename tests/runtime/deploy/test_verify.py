from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.deploy.verify import compare, config_hash, read_sample, sample_names, verify
from mimo_runtime.errors import BundleError, VerificationError
from mimo_runtime.imageio.masks import read_mask
from mimo_runtime.imageio.png import write_png
from mimo_runtime.pipeline import Mimo

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


@pytest.fixture
def copy(bundle_folder, tmp_path):
    return shutil.copytree(bundle_folder, tmp_path / "copy")


def run(folder):
    bundle = Bundle.open(folder)
    with Mimo.load(bundle, threads=1) as mimo:
        return verify(mimo, bundle)


def edit(folder, change, name="golden/00/expected.json"):
    data = json.loads((folder / name).read_text("utf-8"))
    change(data)
    (folder / name).write_text(json.dumps(data), "utf-8")
    onnx_bundle.reseal(folder)


def test_an_intact_bundle_passes(bundle_folder):
    seen = []
    bundle = Bundle.open(bundle_folder)
    with Mimo.load(bundle, threads=1) as mimo:
        report = verify(mimo, bundle, lambda done, total: seen.append((done, total)))
    assert report["passed"] and [s["sample"] for s in report["samples"]] == ["golden/00", "golden/01"] == sample_names(bundle)
    for sample in report["samples"]:
        assert sample["mask_dice"] == 1 and sample["score_difference"] < 1e-6 and sample["text_same"] and sample["ms"] > 0
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_samples_carry_every_kind_of_prompt(bundle_folder):
    bundle = Bundle.open(bundle_folder)
    first, second = (read_sample(bundle, name) for name in sample_names(bundle))
    assert first.prompt.text == "polyp" and first.prompt.boxes == ((20, 10, 70, 40),) and first.prompt.mask is None
    assert second.prompt.points == ((30, 30, 1), (5, 5, 0)) and second.prompt.mask.sum() == 20 * 30
    assert first.masks[0].shape == first.pixels.shape[:2] == (60, 100)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.update(text="Something else."), "text is"),
        (lambda d: d["findings"][0].update(phrase="liver"), "phrase is 'polyp' instead of 'liver'"),
        (lambda d: d["findings"][0].update(present=False), "present is True instead of False"),
        (lambda d: d["findings"][0].update(query=3), "query is 0 instead of 3"),
        (lambda d: d["findings"][0].update(score=d["findings"][0]["score"] + 0.021), "a score differs by 0.0210"),
        (lambda d: d["findings"].append(d["findings"][0]), "1 findings instead of 2"),
    ],
)
def test_every_difference_fails_and_is_named(copy, change, problem):
    edit(copy, change)
    report = run(copy)
    assert not report["passed"]
    assert [s["passed"] for s in report["samples"]] == [False, True]
    assert any(problem in p for p in report["samples"][0]["problems"]), report["samples"][0]["problems"]


def test_differences_within_the_tolerances_pass(copy):
    edit(copy, lambda d: d["findings"][0].update(score=d["findings"][0]["score"] + 0.019))
    path = copy / "golden/00/mask_0.png"
    mask = read_mask(path)
    row, column = np.argwhere(mask)[0]
    mask[row, column] = False
    write_png(path, mask)
    onnx_bundle.reseal(copy)
    report = run(copy)
    assert report["passed"] and 0.99 < report["samples"][0]["mask_dice"] < 1


def test_another_mask_fails(copy):
    mask = read_mask(copy / "golden/00/mask_0.png")
    write_png(copy / "golden/00/mask_0.png", np.roll(mask, 5, axis=1))
    onnx_bundle.reseal(copy)
    (sample, _) = run(copy)["samples"]
    assert sample["mask_dice"] < 0.99 and "mask Dice" in sample["problems"][0]


def test_a_mask_of_another_size_fails(copy):
    write_png(copy / "golden/00/mask_0.png", np.ones((10, 10), bool))
    onnx_bundle.reseal(copy)
    (sample, _) = run(copy)["samples"]
    assert sample["mask_dice"] == 0 and "mask of (60, 100) instead of (10, 10)" in sample["problems"][0]


def test_two_empty_masks_agree(bundle_folder):
    bundle = Bundle.open(bundle_folder)
    sample = read_sample(bundle, "golden/00")
    with Mimo.load(bundle, threads=1) as mimo:
        answer = mimo.open(sample.pixels).ask(sample.prompt.text, sample.prompt.boxes)
    answer.findings[0].mask[:] = False
    sample.masks[0][:] = False
    assert compare(answer, sample)["mask_dice"] == 1


def test_no_samples_prove_nothing(copy):
    shutil.rmtree(copy / "golden")
    onnx_bundle.reseal(copy)
    with pytest.raises(VerificationError, match="no golden samples"):
        run(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("text"),
        lambda d: d.pop("tolerances"),
        lambda d: d["tolerances"].update(extra=1),
        lambda d: d["tolerances"].update(text="fuzzy"),
        lambda d: d["findings"][0].pop("mask"),
        lambda d: d["findings"][0].update(mask="none.png"),
        lambda d: d.update(findings=5),
    ],
)
def test_a_sample_that_is_not_understood_is_refused(copy, change):
    edit(copy, change)
    with pytest.raises(BundleError, match="golden|none.png"):
        run(copy)


@pytest.mark.parametrize(
    ("field", "value"), [("presence_threshold", 0.49), ("entity_threshold", 0.51), ("abstain_threshold", 1e-6)]
)
def test_a_threshold_that_was_changed_and_hashed_again_is_noticed(bundle_folder, tmp_path, field, value):
    """Also by an amount that changes no answer of a sample."""
    from mimo_runtime.deploy.verify import THRESHOLDS

    onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
    folder = shutil.copytree(bundle_folder, tmp_path / "copy")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for path in folder.glob("golden/*/expected.json"):
        expected = json.loads(path.read_text("utf-8"))
        expected["thresholds"] = {name: manifest["model"]["config"][name] for name in THRESHOLDS}
        path.write_text(json.dumps(expected), "utf-8")
    onnx_bundle.reseal(folder)
    with Mimo.load(folder) as mimo:
        assert verify(mimo, Bundle.open(folder))["passed"]
    manifest["model"]["config"][field] = value
    onnx_bundle.reseal(folder, manifest)
    with Mimo.load(folder) as mimo:
        report = verify(mimo, Bundle.open(folder))
    assert not report["passed"] and f"{field} is {value} instead of" in report["samples"][0]["problems"][-1]


def test_confident_is_compared_unless_the_score_is_close_to_the_threshold(copy):
    def flip(threshold):
        def change(expected):
            expected["findings"][0]["confident"] = not expected["findings"][0]["confident"]
            expected["thresholds"] = {"abstain_threshold": threshold}

        return change

    score = json.loads((copy / "golden/00/expected.json").read_text("utf-8"))["findings"][0]["score"]
    edit(copy, flip(0.0))
    assert any("confident is True instead of False" in problem for problem in run(copy)["samples"][0]["problems"])
    edit(copy, flip(score + 0.019))
    edit(copy, flip(score + 0.019))
    problems = run(copy)["samples"][0]["problems"]
    assert not any("confident" in problem for problem in problems)


def test_any_change_of_the_configuration_is_noticed(bundle_folder, tmp_path):
    folder = shutil.copytree(bundle_folder, tmp_path / "copy")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    stored = manifest["model"]["config"]
    edit(folder, lambda expected: expected.update(config_sha256=config_hash(stored)))
    assert run(folder)["passed"]
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["model"]["config"]["windows"] = [{"modality": "ct", "center": -600.0, "width": 1500.0}]
    onnx_bundle.reseal(folder, manifest)
    report = run(folder)
    assert not report["passed"] and "the configuration is not the one" in report["samples"][0]["problems"][-1]


def test_a_sample_without_a_text_is_asked_without_one(copy):
    expected = json.loads((copy / "golden/00/expected.json").read_text("utf-8"))
    edit(copy, lambda request: request.update(text_answer=False), "golden/00/request.json")
    assert f"text is '' instead of {expected['text']!r}" in run(copy)["samples"][0]["problems"]
    edit(copy, lambda answer: answer.update(text="", generated=""))
    assert run(copy)["passed"]
