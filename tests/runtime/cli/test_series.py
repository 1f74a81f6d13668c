"""``series``, ``compare`` and ``predict --write`` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from dicom_series import PATIENT, ball, ct_slice, write_ct_series

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


BOX = ["--box", "5,5,30,30"]


def test_a_box_in_one_frame_answers_about_that_frame(bundle_folder: Path, tmp_path: Path) -> None:
    write_ct_series(tmp_path / "study", slices=4)
    call = ["series", bundle_folder, tmp_path / "study", "--frame", 2, *BOX]
    result = run(*call, "-o", tmp_path / "out", "--write", "sr,coco", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert [f["frame"] for f in report["frames"]] == [2] and report["is_complete"] and not report["failures"]
    assert {frame for finding in report["findings"] for frame in finding["frames"]} == {2}
    assert report["findings"] and all(finding["volume_ml"] is None for finding in report["findings"])
    shown = run(*call)
    assert shown.exit_code == 0 and "1 frame in" in shown.stdout and ": frame 2, score" in shown.stdout
    mask = tmp_path / "mask.png"
    from PIL import Image

    Image.new("L", (40, 40), 0).save(mask)
    empty = run("series", bundle_folder, tmp_path / "study", "--frame", 2, "--mask", mask)
    assert empty.exit_code == 2 and "mask" in empty.stderr


def test_a_structure_of_one_frame_is_followed_through_the_others(bundle_folder: Path, tmp_path: Path) -> None:
    write_ct_series(tmp_path / "study", slices=4)
    result = run("series", bundle_folder, tmp_path / "study", "--frame", 1, *BOX, "--follow", "--json")
    assert result.exit_code == 0, result.stderr
    frames = [f["frame"] for f in json.loads(result.stdout)["frames"]]
    assert 1 in frames and len(frames) > 1 and frames == sorted(frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing is asked"),
        (BOX, "--box, --point and --mask are about one frame. Name it with --frame"),
        (["--text", "polyp", "--follow"], "--follow without --frame"),
        (["--text", " "], "--text is empty"),
        (["--frame", "4", *BOX], "the series has no frame 4. Use 0 to 3"),
        (["--frame", "1", "--box", "5,5,300,30"], "box"),
        (["--text", "polyp", "--stack", "2"], "the series has no stack 2 (1: all, 4 frames)"),
        (["--text", "polyp", "--modality", "mri"], "contradicts the series, whose files state ct"),
        (["--text", "polyp", "--modality", "none"], "the modality 'none' is unknown"),
        (["--text", "polyp", "--force"], "--force has no effect without -o"),
    ],
)
def test_wrong_questions_of_a_series_are_one_line(
    options: list[str], message: str, bundle_folder: Path, tmp_path: Path
) -> None:
    write_ct_series(tmp_path / "study", slices=4)
    result = run("series", bundle_folder, tmp_path / "study", *options)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("damaged", [0, 2], ids=["first", "middle"])
def test_a_damaged_frame_is_reported_and_the_others_are_answered(damaged: int, bundle_folder: Path, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    paths = write_ct_series(tmp_path / "study", slices=5)
    for path in paths:  # names as archives write them
        path.rename(path.with_name(f"{PATIENT}-{path.name}.dcm"))
    bad = tmp_path / "study" / f"{PATIENT}-{paths[damaged].name}.dcm"
    bad.write_bytes(bad.read_bytes()[:-1000])
    call = [
        "series",
        bundle_folder,
        tmp_path / "study",
        "--text",
        "polyp",
        "-o",
        tmp_path / "out",
        "--write",
        "sr,sc,html,coco,nifti",
    ]
    result = run(*call, "--json")
    assert result.exit_code == 3, result.output
    left_out = json.loads((tmp_path / "out" / "objects" / "objects.json").read_text())["left_out"]
    assert f"frame {damaged} (counted from 0) could not be read" in left_out["nifti"]
    report = json.loads(result.stdout)
    assert [f["frame"] for f in report["frames"]] == [k for k in range(5) if k != damaged] and not report["is_complete"]
    assert [f["frame"] for f in report["failures"]] == [damaged]
    assert report["findings"] and all(f["volume_ml"] is None for f in report["findings"])
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert f"frame {damaged} (counted from 0) of 5 could not be read: file {damaged + 1} of 5" in line
    assert PATIENT not in result.output and str(tmp_path) not in line
    report_object = pydicom.dcmread(tmp_path / "out" / "objects" / "sr.dcm")
    assert report_object.CompletionFlag == "PARTIAL"
    texts = [str(e.value) for e in report_object.iterall() if e.keyword == "TextValue"]
    assert any(f"Frame {damaged} (counted from 0) of 5 could not be read" in text for text in texts)
    page = (tmp_path / "out" / "objects" / "report.html").read_text()
    assert "could not be read" in page and PATIENT not in page and PATIENT not in (tmp_path / "out" / "answer.json").read_text()
    compared = run("compare", tmp_path / "out", tmp_path / "out")
    assert compared.exit_code == 0, compared.stderr


@pytest.mark.parametrize("kept", [0, 300, 700], ids=["empty", "header", "pixels"])
def test_a_file_that_was_cut_off_leaves_a_partial_answer(kept: int, bundle_folder: Path, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    last = write_ct_series(tmp_path / "study", slices=4)[-1]  # no gap gives it away
    last.write_bytes(last.read_bytes()[:kept])
    call = ["series", bundle_folder, tmp_path / "study", "--text", "polyp", "-o", tmp_path / "out", "--write", "sr"]
    result = run(*call)
    assert result.exit_code == 3 and "1 damaged file was left out: file 4 of 4 is" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: 1 damaged file was left out. The others are answered.")
    assert pydicom.dcmread(tmp_path / "out" / "objects" / "sr.dcm").CompletionFlag == "PARTIAL"
    one = run("series", bundle_folder, tmp_path / "study", "--frame", 1, *BOX)
    assert one.exit_code == 0, one.stderr


def test_a_series_without_a_readable_frame_is_refused(bundle_folder: Path, tmp_path: Path) -> None:
    for path in write_ct_series(tmp_path / "study", slices=3):
        path.write_bytes(path.read_bytes()[:-1000])
    result = run("series", bundle_folder, tmp_path / "study", "--text", "polyp", "-o", tmp_path / "out")
    assert result.exit_code == 2 and "none of the 3 frames can be read: file 1 of 3" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [[], ["--follow"]], ids=["frame", "follow"])
def test_a_damaged_frame_that_was_not_asked_about_does_not_matter(
    options: list[str], bundle_folder: Path, tmp_path: Path
) -> None:
    from PIL import Image

    (tmp_path / "study").mkdir()
    for k in range(6):
        Image.effect_noise((40, 40), 50).save(tmp_path / "study" / f"{k}.png")
    first = tmp_path / "study" / "0.png"
    first.write_bytes(first.read_bytes()[:-300])
    call = [
        "series",
        bundle_folder,
        tmp_path / "study",
        "--frame",
        4,
        *BOX,
        *options,
        "-o",
        tmp_path / "out",
        "--write",
        "html,coco",
    ]
    result = run(*call, "--json")
    failures = [f["frame"] for f in json.loads(result.stdout)["failures"]]
    assert result.exit_code == (3 if failures else 0), result.stderr
    assert (tmp_path / "out" / "objects" / "report.html").exists() and (options or not failures)


def test_times_of_a_series_are_listed_and_one_is_chosen(bundle_folder: Path, tmp_path: Path) -> None:
    values, _ = ball(3)
    (tmp_path / "study").mkdir()
    for number, (t, k) in enumerate([(t, k) for k in range(3) for t in (1, 2)], 1):
        data = ct_slice(number, values[k], (0, 0, 2.0 * k), TemporalPositionIdentifier=t)
        data.save_as(tmp_path / "study" / str(number), enforce_file_format=True)
    call = ["series", bundle_folder, tmp_path / "study", "--text", "polyp"]
    result = run(*call, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert [(s["first"], s["last"], s["label"], s["has_volume"]) for s in report["stacks"]] == [
        (0, 2, "time 1", True), (3, 5, "time 2", True)
    ]  # fmt: skip
    assert "frames 0 to 2: time 1\n" in result.stderr and "frames 3 to 5: time 2\n" in result.stderr
    assert report["findings"] and all(len({k // 3 for k in f["frames"]}) == 1 for f in report["findings"])
    chosen = run(*call, "--stack", 2, "-o", tmp_path / "out", "--write", "seg,nifti", "--json")
    assert chosen.exit_code == 0, chosen.stderr
    assert json.loads(chosen.stdout)["is_regular"] and len(json.loads(chosen.stdout)["frames"]) == 3
    assert (tmp_path / "out" / "objects" / "labels.nii.gz").exists() and "left out" not in chosen.stderr


def test_the_console_names_structures_and_frames_as_the_report_does(bundle_folder: Path, tmp_path: Path) -> None:
    write_ct_series(tmp_path / "study", slices=4)
    result = run("series", bundle_folder, tmp_path / "study", "--text", "polyp", "-o", tmp_path / "out", "--write", "html")
    assert result.exit_code == 0, result.stderr
    report = json.loads((tmp_path / "out" / "answer.json").read_text())
    page = (tmp_path / "out" / "objects" / "report.html").read_text()
    assert report["findings"]
    for finding in report["findings"]:
        first, last = finding["frames"][0], finding["frames"][-1]
        frames = f"frame {first}" if first == last else f"frames {first} to {last}"
        assert f"{finding['tracking_id']}: {frames}" in result.stdout and finding["tracking_id"] in page
    (number,) = {path.stem.rpartition("_")[2] for path in (tmp_path / "out").glob("00_*.png")}
    assert f"Frame {int(number)} (of 0 to 3)" in page
