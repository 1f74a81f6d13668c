"""The command line: what goes where, and refusals in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bench_cli import refused, run

from mimo_benchmarks import latency
from mimo_train.data.phantom import generate

QUICK = ("--against", "ort", "--repeats", 1, "--warmup", 0, "--threads", 1, "--max-tokens", 2)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("data") / "phantoms", 8, seed=2, size=64)


def test_help_is_quick_and_imports_nothing_heavy():
    heavy = ("torch", "numpy", "matplotlib", "onnxruntime")
    code = f"import sys, mimo_benchmarks.cli.main; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    result = run("--help")
    assert result.exit_code == 0
    commands = ("latency", "accuracy", "footprint", "referring", "relations", "precision", "robustness", "compare-revisions")
    assert all(command in result.output for command in commands)


@pytest.mark.parametrize("command", ["latency", "footprint"])
def test_a_missing_bundle_is_refused_and_nothing_is_written(tmp_path, command):
    out = tmp_path / "out.json"
    refused(run(command, tmp_path / "nothing", "--json", out), "nothing does not exist", "mimo-export build")
    assert not out.exists()


def test_an_image_that_does_not_exist_is_refused(bundle, tmp_path):
    refused(run("latency", bundle, "--image", tmp_path / "missing.png"), "missing.png")


@pytest.mark.parametrize("command", ["latency", "footprint", "accuracy"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(bundle, tmp_path, command):
    data = ["--data", tmp_path] if command == "accuracy" else []
    refused(run(command, bundle, *data, "--json", tmp_path / "no" / "out.json"), "cannot be written", "Create the folder")
    refused(run(command, bundle, *data, "--json", tmp_path), "cannot be written")


def test_contenders_are_refused_by_name(bundle):
    refused(run("latency", bundle, "--against", "ort,tvm"), "unknown contender 'tvm'")
    refused(run("latency", bundle, "--box", "1,2,3"), "'1,2,3' is not X0,Y0,X1,Y1")


def test_latency_writes_a_file_and_a_table(bundle, tmp_path):
    out = tmp_path / "out.json"
    result = run("latency", bundle, *QUICK, "--json", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert list(found["contenders"]) == ["mimo", "ort"] and list(found["ratios"]) == ["ort"]
    assert f"{found['contenders']['mimo']['first_ask']['p50_ms']:.1f}" in result.stdout


def test_different_texts_of_an_fp32_bundle_fail_after_the_numbers_are_written(bundle, tmp_path, monkeypatch):
    compare = latency.compare
    monkeypatch.setattr(latency, "compare", lambda *a: {**compare(*a), "same_text": False, "differs": ["ort"]})
    out = tmp_path / "out.json"
    result = run("latency", bundle, *QUICK, "--json", out)
    assert result.exit_code == 1
    assert "error: ort and mimo write different texts" in result.stderr
    assert json.loads(out.read_text())["contenders"].keys() == {"mimo", "ort"}


def test_json_on_standard_output_is_one_line_and_alone(bundle):
    result = run("footprint", bundle, "--repeats", 1, "--threads", 1, "--max-tokens", 2, "--json")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1
    assert json.loads(result.stdout)["process"]["resident_mb"] > 20
    assert "resident memory" in result.stderr


def test_accuracy_writes_the_numbers_and_the_report(bundle, phantoms, tmp_path):
    out, report = tmp_path / "out.json", tmp_path / "report"
    chosen = ("--data", phantoms, "--split", "train", "--limit", 1, "--threads", 1)
    result = run("accuracy", bundle, *chosen, "--json", out, "--report", report)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert {"sets", "macro", "baselines", "absent", "ece", "text", "meta"} <= set(found)
    assert found["meta"]["images"] == 1 and found["meta"]["engine"] == "onnxruntime"
    assert 0 <= found["macro"]["box"]["dice"] < found["baselines"]["input_mask"]["dice"]  # random weights lose to no model
    assert "Mean Dice" in result.stdout
    assert all(line in (report / "report.md").read_text("utf-8") for line in result.stdout.splitlines())
    assert {"report.md", "accuracy.json", "coverage_risk.png", "sheet_phantoms.png"} <= {p.name for p in report.iterdir()}
    assert json.loads((report / "accuracy.json").read_text()) == found


def test_accuracy_of_chosen_prompts_as_one_line(bundle, phantoms):
    chosen = ("--data", phantoms, "--split", "train", "--limit", 1, "--threads", 1, "--prompts", "box,absent", "--no-text")
    result = run("accuracy", bundle, *chosen, "--json")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1 and "Mean Dice" in result.stderr
    found = json.loads(result.stdout)
    assert set(found["macro"]) == {"box"} and found["meta"]["prompts"] == ["box", "absent"] and found["absent"]["n"] > 0


def test_accuracy_of_a_checkpoint_is_that_of_its_bundle(bundle, checkpoint, phantoms):
    chosen = ("--data", phantoms, "--split", "train", "--limit", 1, "--threads", 1, "--prompts", "box,text", "--no-text")
    results = [run("accuracy", model, *chosen, "--json") for model in (bundle, checkpoint)]
    assert [r.exit_code for r in results] == [0, 0], [r.output for r in results]
    of_bundle, of_checkpoint = (json.loads(r.stdout) for r in results)
    assert of_checkpoint["meta"]["engine"] == "torch-eager"
    for prompt in ("box", "text"):
        assert of_bundle["macro"][prompt]["dice"] == pytest.approx(of_checkpoint["macro"][prompt]["dice"], abs=0.02)


def test_accuracy_without_the_crop_pass(checkpoint, phantoms, tmp_path):
    with_crops = shutil.copytree(checkpoint, tmp_path / "with_crops")
    config = json.loads((with_crops / "config.json").read_text())
    (with_crops / "config.json").write_text(json.dumps({**config, "crop_scale": 3.0, "presence_threshold": 0.0}))
    chosen = ("--data", phantoms, "--split", "train", "--limit", 2, "--threads", 1, "--prompts", "box", "--no-text", "--json")
    on, off, without = (run("accuracy", *more, *chosen) for more in ((with_crops,), (with_crops, "--no-refine"), (checkpoint,)))
    assert [r.exit_code for r in (on, off, without)] == [0, 0, 0], on.output
    results = [json.loads(r.stdout) for r in (on, off, without)]
    assert [t["meta"]["crop_scale"] for t in results] == [3.0, 0.0, 0.0]


def test_accuracy_refuses_what_it_cannot_measure(bundle, phantoms, tmp_path):
    refused(run("accuracy", bundle, "--data", tmp_path))
    refused(run("accuracy", bundle, "--data", phantoms, "--split", "holdout"), "holdout")
    refused(run("accuracy", bundle, "--data", phantoms, "--prompts", "circle"), "unknown prompt type 'circle'")
    refused(run("accuracy", bundle, "--data", phantoms, "--prompts", ","), "names no prompt type")
    refused(run("accuracy", bundle, "--data", phantoms, "--report", phantoms), "did not write it")
    refused(run("accuracy", tmp_path / "nothing", "--data", phantoms, "--split", "train"), "nothing does not exist")


def test_the_checkout_answers_as_its_own_commit(bundle, phantoms, tmp_path, repository):
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout")
    refused(run("compare-revisions", "no-such-revision", bundle, "--data", phantoms, "--split", "train"), "no-such-revision")
    out = tmp_path / "out.json"
    chosen = ("--data", phantoms, "--split", "train", "--limit", 1, "--repeats", 1, "--threads", 1)
    result = run("compare-revisions", "HEAD", bundle, *chosen, "--json", out)
    found = json.loads(out.read_text())
    assert result.exit_code == (1 if found["different"] else 0) and found["questions"] > 10
    assert found["current"]["modified"] or found["different"] == 0
