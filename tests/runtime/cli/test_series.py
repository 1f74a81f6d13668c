"""``series``, ``compare`` and ``predict --write`` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from dicom_series import PATIENT, write_ct_series

from mimo_runtime.cli.commands import main

pytest.importorskip("highdicom")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_a_series_gives_frames_findings_and_objects(bundle_folder: Path, tmp_path: Path) -> None:
    write_ct_series(tmp_path / "study", slices=4)
    result = run(
        "series", bundle_folder, tmp_path / "study", "--text", "polyp", "-o", tmp_path / "out", "--write", "sr,coco", "--json"
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert len(report["frames"]) == 4 and report["is_regular"] and report["distance_mm"] == pytest.approx(2)
    assert json.loads((tmp_path / "out" / "answer.json").read_text()) == report
    assert {"sr.dcm", "coco.json", "study.json"} <= {p.name for p in (tmp_path / "out" / "objects").iterdir()}
    again = run("series", bundle_folder, tmp_path / "study", "--text", "polyp", "-o", tmp_path / "out")
    assert again.exit_code == 2 and "out" in again.stderr
    plain = run("series", bundle_folder, tmp_path / "study", "--text", "polyp", "-o", tmp_path / "out", "--force")
    assert plain.exit_code == 0 and "4 frames in" in plain.stdout and PATIENT not in plain.output


def test_predict_writes_objects_and_compare_reads_them(bundle_folder: Path, tmp_path: Path) -> None:
    (image,) = write_ct_series(tmp_path / "study", slices=1)
    for name in ("before", "now"):
        result = run("predict", bundle_folder, image, "--box", "5,5,30,30", "-o", tmp_path / name, "--write", "seg,sr,html")
        assert result.exit_code == 0, result.stderr
        objects = {p.name for p in (tmp_path / name / "objects").iterdir()}
        assert {"seg.dcm", "sr.dcm", "report.html", "study.json", "objects.json"} <= objects
    compared = run("compare", tmp_path / "before", tmp_path / "now", "-o", tmp_path / "follow-up", "--json")
    assert compared.exit_code == 0, compared.stderr
    (pair,) = json.loads(compared.stdout)["pairs"]
    assert pair["matched_by"] == "place in the patient" and pair["needs_confirmation"]
    assert all(change["percent"] in (0, None) for change in pair["changes"])
    assert "<figure>" in (tmp_path / "follow-up" / "report.html").read_text()
    shown = run("compare", tmp_path / "before", tmp_path / "now")
    assert shown.exit_code == 0 and "to be confirmed" in shown.stdout


def test_objects_are_deidentified_on_request(bundle_folder: Path, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    (image,) = write_ct_series(tmp_path / "study", slices=1)
    (tmp_path / "secret").write_text("a secret text of the site")
    options = ["--box", "5,5,30,30", "-o", tmp_path / "out", "--write", "seg", "--deidentify", tmp_path / "secret"]
    assert run("predict", bundle_folder, image, *options).exit_code == 0
    seg = pydicom.dcmread(tmp_path / "out" / "objects" / "seg.dcm")
    assert seg.PatientIdentityRemoved == "YES" and seg.PatientName != PATIENT


def test_the_patient_is_on_the_report_on_request_only(bundle_folder: Path, tmp_path: Path) -> None:
    (image,) = write_ct_series(tmp_path / "study", slices=1)
    for name, options in (("with", ["--patient"]), ("without", [])):
        result = run("predict", bundle_folder, image, "--box", "5,5,30,30", "-o", tmp_path / name, "--write", "html", *options)
        assert result.exit_code == 0 and PATIENT not in result.output
        page = (tmp_path / name / "objects" / "report.html").read_text()
        assert (PATIENT in page) == (name == "with")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--write", "seg"], "--write without --output"),
        (["--write", "dicom", "-o", "OUT"], "unknown format 'dicom'"),
        (["--deidentify", "x"], "without --write"),
        (["--patient"], "without --write"),
        (["--write", "seg", "-o", "OUT", "--patient"], "--patient is for --write html or pdf"),
        (["--write", "html", "-o", "OUT", "--patient", "--deidentify", "x"], "--patient is for --write html or pdf"),
        (["--write", "seg", "-o", "OUT", "--allow-burned-in"], "--allow-burned-in without --deidentify"),
        (["--write", "seg", "-o", "OUT", "--deidentify", "no"], "file of --deidentify cannot be read"),
    ],
)
def test_wrong_options_are_one_line_and_nothing_is_written(
    options: list[str], message: str, bundle_folder: Path, tmp_path: Path
) -> None:
    (image,) = write_ct_series(tmp_path / "study", slices=1)
    options = [str(tmp_path / "out") if o == "OUT" else o for o in options]
    result = run("predict", bundle_folder, image, "--box", "5,5,30,30", *options)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_pictures_cannot_become_dicom_and_say_so(bundle_folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (40, 40), 90).save(tmp_path / "a.png")
    result = run("predict", bundle_folder, tmp_path / "a.png", "--box", "5,5,30,30", "-o", tmp_path / "out", "--write", "seg")
    assert result.exit_code == 2 and "need a DICOM image" in result.stderr and not (tmp_path / "out").exists()
    result = run(
        "predict", bundle_folder, tmp_path / "a.png", "--box", "5,5,30,30", "-o", tmp_path / "out", "--write", "nifti,stl"
    )
    assert result.exit_code == 0 and (tmp_path / "out" / "objects" / "labels.nii.gz").exists()


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    result = run("compare", tmp_path, tmp_path)
    assert result.exit_code == 2 and "holds no stored study" in result.stderr
