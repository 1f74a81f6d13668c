"""The command line through click's runner, and once as a real process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from mimo_train.cli.main import main


def run(*args: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(a) for a in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_phantoms_fit_evaluate(tmp_path):
    data, checkpoint, numbers = tmp_path / "data", tmp_path / "ckpt", tmp_path / "out.json"
    assert run("data", "phantom", "-o", data, "--count", 20, "--size", 80, "--json")[0] == 0
    code, out, _ = run(
        "fit", "--preset", "micro", "--data", data, "-o", checkpoint, "--steps", 3, "--batch", 2, "--threads", 1, "--json",
        "--sizes", "64:0.5", "--set", "image_size=96", "--sampling-weights", "data=2", "--accumulate", 2,
    )  # fmt: skip
    assert code == 0 and json.loads(out)["checkpoint"] == str(checkpoint)
    code, out, _ = run("tune-thresholds", checkpoint, "--data", data, "--limit", 2, "--threads", 1, "--json")
    chosen = json.loads(out)
    assert code == 0 and chosen["wanted_risk"] == 0.1 and chosen["split"] == "val" and 0 <= chosen["risk"] <= 1
    code, out, _ = run(
        "evaluate", checkpoint, "--data", data, "--split", "val", "--limit", 1, "--json", numbers,
        "--report", tmp_path / "report",
    )  # fmt: skip
    assert code == 0 and "| set |" in out and "| set |" in (tmp_path / "report" / "report.md").read_text("utf-8")
    assert (tmp_path / "report" / "sheet_data.png").is_file()
    accuracy = json.loads(numbers.read_text())
    assert accuracy == json.loads((tmp_path / "report" / "accuracy.json").read_text())
    code, _, err = run("evaluate", checkpoint, "--data", data, "--split", "val", "--report", data)
    assert code == 2 and "did not write it" in err
    assert set(accuracy["macro"]) == {"box", "point", "mask", "text", "text+box"}
    assert 0 <= accuracy["macro"]["box"]["dice"] <= 1
    assert (
        set(accuracy["baselines"]) >= {"ellipse", "input_mask"}
        and "phantoms" not in accuracy["sets"]
        and "data" in accuracy["sets"]
    )
    stored = json.loads((checkpoint / "config.json").read_text())
    for name in ("presence_threshold", "presence_temperature", "entity_threshold", "abstain_threshold"):
        assert accuracy["meta"][name] == stored[name] == chosen[name]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("fit", "--preset", "huge", "--data", ".", "-o", "x", "--steps", "1"), "unknown preset 'huge'"),
        (("fit", "--data", "nowhere", "-o", "x", "--steps", "1"), "nowhere"),
        (("fit", "--data", "nowhere", "-o", "x"), "--steps and --minutes"),
        (("fit", "--data", "nowhere", "-o", "x", "--steps", "1", "--sizes", "96"), "--sizes '96'"),
        (("fit", "--data", "nowhere", "-o", "x", "--steps", "1", "--set", "fusion.gate"), "--set 'fusion.gate'"),
        (("fit", "--data", "nowhere", "-o", "x", "--steps", "1", "--sampling-weights", "a"), "--sampling-weights 'a'"),
        (("fit", "--data", "nowhere", "-o", "x", "--steps", "1", "--weight", "speed=2"), "the loss 'speed'"),
        (("fit", "--data", "nowhere", "-o", "x", "--steps", "1", "--weight", "text=-1"), "--weight 'text=-1'"),
        (("evaluate", "nowhere", "--data", "."), "no data set"),
        (("evaluate", "nowhere", "--data", ".", "--prompts", "box,circle"), "unknown prompt type 'circle'"),
        (("evaluate", "nowhere", "--data", ".", "--json", "no/out.json"), "cannot be written"),
        (("tune-thresholds", "nowhere", "--data", ".", "--split", "test"), "'--split'"),
        (("tune-thresholds", "nowhere", "--data", ".", "--risk", "2"), "'--risk'"),
    ],
)
def test_bad_requests_give_one_line_and_exit_code_2(tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*args)
    assert code == 2 and words in err and err.startswith("error: ") and err.count("\n") == 1 and not out
    assert not (tmp_path / "x").exists()


def test_as_a_process_without_a_traceback(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "mimo_train", "evaluate", str(tmp_path / "none"), "--data", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and "Traceback" not in result.stderr and result.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("args", "current"),
    [
        (("calibrate", "nowhere", "--data", "."), "calibrate is deprecated, use tune-thresholds"),
        (("fit", "--data", "nowhere", "-o", "x", "--emphasis", "a=1"), "--emphasis is deprecated, use --sampling-weights"),
        (("fit", "--data", "nowhere", "-o", "x", "--paste=a=1"), "--paste is deprecated, use --copy-paste"),
        (("fit", "--data", "nowhere", "-o", "x", "--closer", "0.1"), "--closer is deprecated, use --crop-views"),
        (("fit", "--data", "nowhere", "-o", "x", "--corrections", "0"), "--corrections is deprecated, use --click-simulation"),
        (("fit", "--data", "nowhere", "-o", "x", "--warm-start", "y"), "--warm-start is deprecated, use --partial-load"),
        (("ablate", "--data", "nowhere", "-o", "x", "--steps", "1", "--warm-start", "y"), "--warm-start is deprecated"),
    ],
)
def test_earlier_names_are_read_with_a_warning(tmp_path, monkeypatch, args, current):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*args)
    warning, error = err.splitlines()
    assert code == 2 and warning.startswith(f"warning: {current}") and error.startswith("error: ")


@pytest.mark.parametrize("option", ["--steps", "--threads"])
def test_a_number_beyond_every_machine_is_refused(option: str):
    for value in ("0", "-1", "1.5", "nan", "2147483648", "1" + "0" * 400, "9" * 5000):
        result = CliRunner().invoke(main, ["fit", "--data", "none", "-o", "out", "--steps", "1", option, value])
        assert result.exit_code == 2 and result.stderr.startswith("error: ") and len(result.stderr) <= 301


def test_fit_on_a_machine_without_temporary_folders(tmp_path):
    """It trains, or says in one line what is missing, and leaves no half a checkpoint."""
    data, checkpoint = tmp_path / "data", tmp_path / "ckpt"
    assert run("data", "phantom", "-o", data, "--count", 12, "--size", 64, "--json")[0] == 0
    script = f"""
import os, sys, tempfile
def refuse(): raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")
tempfile._get_default_tempdir = refuse
os.environ.pop("HOME", None)
sys.argv = ["mimo-train", "fit", "--preset", "micro", "--data", {str(data)!r}, "-o", {str(checkpoint)!r},
            "--steps", "1", "--batch", "1", "--threads", "1", "--json"]
from mimo_train.cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert done.returncode == 1 and "Set TMPDIR to a folder that can be written" in done.stderr.splitlines()[-1]
        assert not (checkpoint / "config.json").exists()
