from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mimo_runtime.cli.app import Commands
from mimo_runtime.cli.commands import main
from mimo_runtime.imageio.masks import read_mask
from mimo_runtime.results.folder import slug

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


@pytest.fixture
def run(bundle_folder, image_file, monkeypatch, tmp_path):
    """Run ``mimo-run`` in an empty folder; BUNDLE and IMAGE stand for the fixtures."""
    monkeypatch.chdir(tmp_path)
    places = {"BUNDLE": str(bundle_folder), "IMAGE": str(image_file)}
    return lambda *args: CliRunner().invoke(main, [places.get(str(a), str(a)) for a in args])


def refused(result, match, code=2):
    """One line on standard error that says what is wrong and what to do, nothing else."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert re.search(match, result.stderr), result.stderr
    assert "Traceback" not in result.output


def files(folder):
    return sorted(p.name for p in folder.iterdir())


# -- predict -----------------------------------------------------------------------------------------------------------


def test_predict_prints_a_summary(run):
    result = run("predict", "BUNDLE", "IMAGE", "--text", "polyp", "--box", "20,10,70,40")
    assert result.exit_code == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == "Endoscopy of the colon: one medium elongated polyp in the upper middle of the image."
    assert lines[1].split()[:2] == ["finding", "there"] and lines[2].split()[:2] == ["polyp", "yes"]
    assert "total" in lines[-1] and "onnxruntime" in lines[-1]


def test_predict_says_what_is_uncertain(run, bundle_folder, tmp_path):
    doubting = shutil.copytree(bundle_folder, tmp_path / "doubting")
    manifest = json.loads((doubting / "manifest.json").read_text())
    manifest["model"]["config"]["abstain_threshold"] = 1.0
    onnx_bundle.reseal(doubting, manifest)
    result = run("predict", doubting, "IMAGE", "--text", "polyp", "-o", "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[2].split()[:3] == ["polyp", "yes,", "uncertain"]
    (finding,) = json.loads((tmp_path / "out/answer.json").read_text("utf-8"))["findings"]
    assert finding["present"] is True and finding["confident"] is False and finding["area_px"] > 0
    # Only the picture of the doubted answer has gaps in its outline.
    run("predict", "BUNDLE", "IMAGE", "--text", "polyp", "-o", "sure")
    doubted, sure = (np.asarray(Image.open(tmp_path / name / "overlay.png")).astype(int) for name in ("out", "sure"))
    assert doubted.shape == sure.shape and np.abs(doubted - sure).max() > 60


def test_predict_json_has_the_documented_fields(run):
    result = run("predict", "BUNDLE", "IMAGE", "--text", "polyp", "--json")
    data = json.loads(result.stdout)
    assert data["text"] == "Endoscopy of the colon: one medium elongated <p>polyp</p><seg> in the upper middle of the image."
    assert data["generated"] == "Endoscopy of the colon: one large oval <p>polyp</p><seg> in the center."
    assert set(data["timings_ms"]) == {"preprocess", "encode", "ground", "masks", "refine", "text", "postprocess", "total"}
    assert data["engines"]["fusion"] == "onnxruntime"
    (finding,) = data["findings"]
    assert {"phrase", "box", "score", "present", "confident", "area_px", "mask"} <= set(finding)
    assert finding["phrase"] == "polyp" and finding["present"] is True and finding["mask"] is None
    assert finding["confident"] is True
    assert len(finding["box"]) == 4 and finding["area_px"] > 0


def test_predict_writes_the_result_folder(run, tmp_path):
    result = run("predict", "BUNDLE", "IMAGE", "--text", "polyp", "--json", "-o", "out/deep")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out/deep"
    assert files(out) == ["answer.json", "mask_0_polyp.png", "overlay.png", "panel.png"]
    data = json.loads((out / "answer.json").read_text("utf-8"))
    assert data == json.loads(result.stdout)
    (finding,) = data["findings"]
    mask = read_mask(out / finding["mask"])
    assert mask.shape == (60, 100) and mask.sum() == finding["area_px"]
    rows, columns = np.nonzero(mask)
    assert finding["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert Image.open(out / "overlay.png").width >= 512 and Image.open(out / "panel.png").width >= 512


def test_every_kind_of_prompt_reaches_the_model(run, tmp_path):
    mask = np.zeros((60, 100), np.uint8)
    mask[45:58, 5:30] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    boxes = ["--box", "20,10,70,40", "--box", "0,0,10,10.5", "--point", "30,30", "--point", "5,5,0"]
    with_mask = json.loads(run("predict", "BUNDLE", "IMAGE", *boxes, "--mask", "m.png", "--json").stdout)
    without = json.loads(run("predict", "BUNDLE", "IMAGE", *boxes, "--json").stdout)
    # The fake bundle draws mask prompts and ignores the rest.
    assert with_mask["findings"][0]["area_px"] > without["findings"][0]["area_px"] + 200


def test_masks_and_text_can_be_switched_off(run):
    masks_only = json.loads(run("predict", "BUNDLE", "IMAGE", "--text", "polyp", "--no-answer", "--json").stdout)
    assert masks_only["text"] == "" and masks_only["findings"] and masks_only["timings_ms"]["text"] == 0
    text_only = json.loads(run("predict", "BUNDLE", "IMAGE", "--text", "polyp", "--no-masks", "--json").stdout)
    assert text_only["text"] and text_only["findings"] == [] and text_only["timings_ms"]["masks"] == 0


def test_maximum_and_sampling_apply(run):
    result = run("predict", "BUNDLE", "IMAGE", "--text", "polyp", "--no-masks", "--max-tokens", "2")
    assert "(the text ended early: length)" in result.stdout
    options = ["--temperature", "50", "--json", "--max-tokens", "20"]
    ask = ("predict", "BUNDLE", "IMAGE", "--text", "polyp", *options)
    texts = [json.loads(run(*ask, "--seed", seed).stdout)["generated"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    narrow = run(*ask, "--top-k", "1")
    assert json.loads(narrow.stdout)["generated"].startswith("Endoscopy")


def test_single_file_bundle(run, bundle_folder, tmp_path):
    from mimo_runtime.bundle.archive import pack

    pack(bundle_folder, tmp_path / "fake.mimo")
    assert run("predict", "fake.mimo", "IMAGE", "--text", "polyp").exit_code == 0


def test_force_replaces_an_earlier_result_only(run, tmp_path):
    ask = ("predict", "BUNDLE", "IMAGE", "--text", "polyp", "-o")
    assert run(*ask, "out").exit_code == 0
    (tmp_path / "out/note.txt").write_text("mine")
    refused(run(*ask, "out"), "output folder out is not empty.*--force")
    assert run(*ask, "out", "--force").exit_code == 0
    assert "note.txt" not in files(tmp_path / "out")
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_text("cat")
    refused(run(*ask, "photos", "--force"), "has no answer.json")
    assert files(other) == ["cat.jpg"]


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (("--text", ""), "--text is empty"),
        (("--text", "  "), "--text is empty"),
        ((), "request is empty"),
        (("--text", "word " * 200), "too long"),
        (("--box", "40,10,20,30"), "box 1 .* is inverted"),
        (("--box", "0,0,5000,30"), "box 1 .* is outside the image of 100 x 60 pixels"),
        (("--box", "-5,0,10,10"), "outside"),
        (("--box", "nan,0,10,10"), "NaN"),
        (("--box", "1,2,3"), r"'1,2,3' is not X0,Y0,X1,Y1.*predict --help"),
        (("--box", "a,b,c,d"), "is not X0,Y0,X1,Y1"),
        (("--point", "100,5"), "point 1 .* outside"),
        (("--point", "1,1,7"), "label 7"),
        (("--mask", "none.png", "--text", "x"), "none.png does not exist"),
        (("--mask", "small.png", "--text", "x"), "mask has 10 x 10 pixels"),
        (("--frame", "3", "--text", "x"), "frame"),
        (("--frame", "-1", "--text", "x"), "frame"),
        (("--threads", "0", "--text", "x"), "threads"),
        (("--text", "x", "--temperature", "-1"), "temperature is -1"),
        (("--text", "x", "--temperature", "nan"), "temperature is nan"),
        (("--text", "x", "--max-tokens", "0"), "max_tokens is 0"),
        (("--text", "x", "--top-k", "5"), "--top-k has no effect at temperature 0"),
        (("--text", "x", "--seed", "5", "--temperature", "0"), "--seed has no effect at temperature 0"),
        (("--text", "x", "--no-answer", "--max-tokens", "5"), "--max-tokens has no effect with --no-answer"),
        (("--text", "x", "--no-answer", "--no-masks"), "leave nothing to do"),
        (("--text", "x", "--unknown"), "--unknown"),
    ],
)
def test_wrong_requests_are_reported_in_one_line_and_write_nothing(run, tmp_path, args, match):
    Image.fromarray(np.ones((10, 10), np.uint8)).save(tmp_path / "small.png")
    before = files(tmp_path)
    refused(run("predict", "BUNDLE", "IMAGE", "-o", "out", *args), match)
    assert files(tmp_path) == before


def test_force_without_an_output_is_refused(run):
    refused(run("predict", "BUNDLE", "IMAGE", "--text", "x", "--force"), "--force has no effect without -o")


@pytest.mark.parametrize("content", [None, b"", b"garbage", "truncated", "one pixel"])
def test_images_that_cannot_be_read_are_refused(run, tmp_path, image_file, content):
    path = tmp_path / "bad.png"
    if content == "truncated":
        path.write_bytes(image_file.read_bytes()[:60])
    elif content == "one pixel":
        Image.new("RGB", (1, 1)).save(path)
    elif content is not None:
        path.write_bytes(content)
    refused(run("predict", "BUNDLE", path, "--text", "x", "-o", "out"), "bad.png")
    assert not (tmp_path / "out").exists()


def test_missing_and_damaged_bundles_are_refused(run, bundle_folder, tmp_path):
    refused(run("predict", "none", "IMAGE", "--text", "x"), "bundle none does not exist")
    refused(run("predict", tmp_path, "IMAGE", "--text", "x"), "has no manifest.json")
    copy = shutil.copytree(bundle_folder, tmp_path / "copy")
    data = bytearray((copy / "graphs/fusion.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "graphs/fusion.onnx").write_bytes(data)
    damaged = "graphs/fusion.onnx does not have the sha256.*mimo-export build"
    refused(run("predict", copy, "IMAGE", "--text", "x", "-o", "out"), damaged)
    refused(run("verify", copy), "graphs/fusion.onnx")
    assert not (tmp_path / "out").exists()


def test_an_unwritable_output_is_refused_before_the_work(run, tmp_path, monkeypatch):
    from mimo_runtime import pipeline

    monkeypatch.setattr(pipeline.Mimo, "load", lambda *a, **k: pytest.fail("worked first"))
    (tmp_path / "file").write_text("x")
    refused(run("predict", "BUNDLE", "IMAGE", "--text", "x", "-o", "file"), "output file is a file")
    refused(run("predict", "BUNDLE", "IMAGE", "--text", "x", "-o", "file/below"), "output file/below cannot be written")


def test_an_engine_failure_is_exit_code_1(run, bundle_folder, tmp_path):
    copy = shutil.copytree(bundle_folder, tmp_path / "copy")
    model = onnx_bundle.onnx.load(copy / "graphs/fusion.onnx")
    model.ir_version = 999
    (copy / "graphs/fusion.onnx").write_bytes(model.SerializeToString())
    onnx_bundle.reseal(copy)
    refused(run("predict", copy, "IMAGE", "--text", "x"), "cannot load graph fusion", code=1)


def test_a_bug_keeps_its_traceback(run, monkeypatch):
    from mimo_runtime import pipeline

    monkeypatch.setattr(pipeline.Mimo, "load", lambda *a, **k: 1 / 0)
    assert isinstance(run("predict", "BUNDLE", "IMAGE", "--text", "x").exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("Polyp", "polyp"),
        ("left kidney (1)", "left-kidney-1"),
        ("../../etc", "etc"),
        ("café", "cafe"),
        ("肝臓", "finding"),
        ("a" * 80, "a" * 40),
        ("", "finding"),
    ],
)
def test_file_names_are_tame(phrase, expected):
    assert slug(phrase) == expected


# -- verify, doctor ----------------------------------------------------------------------------------------------------


def test_verify_reports_the_golden_samples_that_passed(run):
    result = run("verify", "BUNDLE")
    assert result.exit_code == 0 and "all 2 golden samples passed" in result.stdout and "golden/01" in result.stdout
    assert json.loads(run("verify", "BUNDLE", "--json").stdout)["passed"] is True


def test_verify_fails_with_exit_code_1_and_says_where(run, bundle_folder, tmp_path):
    copy = shutil.copytree(bundle_folder, tmp_path / "copy")
    path = copy / "golden/01/expected.json"
    path.write_text(path.read_text("utf-8").replace("medium", "small"), "utf-8")
    onnx_bundle.reseal(copy)
    result = run("verify", copy)
    assert result.exit_code == 1
    assert "golden/01" in result.stdout and "FAILED" in result.stdout and "small" in result.stdout
    assert result.stderr.startswith("error: 1 of 2 golden samples differ, first golden/01") and result.stderr.count("\n") == 1
    as_json = run("verify", copy, "--json")
    assert as_json.exit_code == 1 and json.loads(as_json.stdout)["passed"] is False


def test_doctor_reports_engines_and_hashes(run):
    result = run("doctor", "BUNDLE")
    assert result.exit_code == 0, result.output
    assert "onnxruntime" in result.stdout and "all hashes agree" in result.stdout
    assert json.loads(run("doctor", "--json").stdout)["healthy"] is True


def test_doctor_reports_a_bundle_that_cannot_be_read_and_refuses_one_that_does_not_exist(run, tmp_path):
    result = run("doctor", tmp_path)
    assert result.exit_code == 1
    assert "!!  bundle" in result.stdout and "has no manifest.json" in result.stderr
    refused(run("doctor", "none"), "bundle none does not exist")


# -- the program -------------------------------------------------------------------------------------------------------


def test_help_and_version():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0 and all(name in result.stdout for name in ("predict", "verify", "doctor"))
    assert CliRunner().invoke(main, ["predict", "--help"]).exit_code == 0
    assert CliRunner().invoke(main, ["--version"]).exit_code == 0
    assert CliRunner().invoke(main, ["nonsense"]).exit_code == 2
    assert "predict" in CliRunner().invoke(main, []).output


def test_as_a_real_program(bundle_folder, image_file, tmp_path):
    program = [sys.executable, "-m", "mimo_runtime"]
    ask = [*program, "predict", str(bundle_folder), str(image_file), "--text", "polyp", "-o", "out", "--json"]
    done = subprocess.run(ask, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout)["findings"][0]["mask"] == "mask_0_polyp.png"
    again = subprocess.run(ask, cwd=tmp_path, capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "error: output folder out is not empty. Choose another, or replace it with --force.\n"


def test_predict_without_refinement(run, bundle_folder, image_file):
    result = run("predict", "BUNDLE", "IMAGE", "--text", "polyp", "--no-refine", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["timings_ms"]["refine"] == 0
    refused(run("predict", "BUNDLE", "IMAGE", "--text", "x", "--no-masks", "--no-refine"), "--no-refine has no effect")


def test_an_option_of_an_earlier_release_is_read_and_reported_as_deprecated(bundle_folder, image_file):
    asked = ["predict", str(bundle_folder), str(image_file), "--text", "polyp", "--json"]
    current, earlier = (CliRunner().invoke(main, [*asked, option]) for option in ("--no-refine", "--no-closer"))
    assert (current.exit_code, current.stderr) == (0, "")
    assert (earlier.exit_code, earlier.stderr) == (0, "warning: --no-closer is deprecated, use --no-refine.\n")
    assert json.loads(earlier.stdout)["findings"] == json.loads(current.stdout)["findings"]


def test_a_command_of_an_earlier_release_is_run_and_reported_as_deprecated():
    group = Commands("demo", renamed={"old": "new"})
    group.add_command(click.Command("new", callback=lambda: click.echo("done")))
    result = CliRunner().invoke(group, ["old"])
    assert (result.stdout, result.stderr) == ("done\n", "warning: old is deprecated, use new.\n")
    assert "old" not in CliRunner().invoke(group, ["--help"]).stdout
