"""A study named SECRET^NAME at the most talkative level of every log: nothing that is not meant to hold the name holds it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from dicom_series import ball, ct_slice, write_ct_series

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
ALL = "seg,labelmap,sr,sc,pdf,rtstruct,nifti,coco,contours,stl,html"
#: What identifies the patient of the test series.
IDENTIFYING = ("SECRET", "19700101")
ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"


def run_at_debug(commands: Iterable[Sequence[object]], folder: Path) -> list[tuple[int, str]]:
    """Exit code and what ``mimo-run`` prints and logs, of each command, with warnings and every logger at DEBUG."""
    code = """
        import json, logging, os, sys, warnings
        import pydicom
        from mimo_runtime.cli.commands import main
        pydicom.config.debug(True)
        for arguments in json.loads(sys.argv[1]):
            with open("said.txt", "w") as said:
                os.dup2(said.fileno(), 1), os.dup2(said.fileno(), 2)
            logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, force=True)
            for name in list(logging.root.manager.loggerDict):
                logging.getLogger(name).setLevel(logging.DEBUG)
            warnings.simplefilter("always")
            try:
                main(arguments)
            except SystemExit as end:
                code = end.code
            sys.stdout.flush(), sys.stderr.flush()
            with open("said.txt") as said, open("report.jsonl", "a") as report:
                report.write(json.dumps([code or 0, said.read()]) + "\\n")
    """
    arguments = json.dumps([[str(a) for a in command] for command in commands])
    (folder / "report.jsonl").unlink(missing_ok=True)
    command = [sys.executable, "-c", textwrap.dedent(code), arguments]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    (folder / "said.txt").unlink()
    reports = [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]
    (folder / "report.jsonl").unlink()
    return [(code, said) for code, said in reports]


def holders(*folders: Path) -> set[str]:
    """Names of the files that hold something identifying; no file may be named after it."""
    names = set()
    for folder, path in [(top, path) for top in folders for path in top.rglob("*")]:
        assert not any(word in str(path.relative_to(folder)) for word in IDENTIFYING), path
        if path.is_file() and any(word.encode() in path.read_bytes() for word in IDENTIFYING):
            names.add(path.name)
    return names


def ultrasound(path: Path, **elements: object) -> Path:
    values, _ = ball(1)
    without = dict.fromkeys(("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    data = ct_slice(1, values[0], (0, 0, 0), SOPClassUID=ULTRASOUND, Modality="US", **without, **elements)
    data.file_meta.MediaStorageSOPClassUID = ULTRASOUND
    data.save_as(path, enforce_file_format=True)
    return path


def test_success_writes_the_name_only_into_objects_of_the_patient(bundle_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "SECRET^NAME"  # archives name folders by patients
    first, *_ = write_ct_series(source, slices=2)
    asked = ("--text", "liver", "--write")
    results = run_at_debug(
        [
            ["predict", bundle_folder, first, *asked, ALL, "-o", "one"],
            ["series", bundle_folder, source, *asked, ALL, "-o", "two"],
            ["compare", "one", "two", "-o", "follow-up", "--write", "sr", "--json"],
            ["predict", bundle_folder, first, *asked, "html,pdf", "--patient", "-o", "named", "--json"],
        ],
        tmp_path,
    )
    for code, said in results:
        assert code == 0 and "Traceback" not in said, said[-2000:]
        assert not any(word in said.replace(str(source), "") for word in IDENTIFYING), said[-2000:]
    meant = {"seg.dcm", "sr.dcm", "report.dcm", "rtstruct.dcm", "labelmap.dcm", "sc_0001.dcm", "sc_0002.dcm"}
    assert holders(tmp_path / "one", tmp_path / "two") <= meant and holders(tmp_path / "follow-up") == {"sr.dcm"}
    assert holders(tmp_path / "named") == {"report.html", "report.dcm"}


def test_a_deidentified_study_has_the_name_nowhere(bundle_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "SECRET^NAME"
    first, *_ = write_ct_series(source, slices=2)
    (tmp_path / "us").mkdir()
    hidden = ("--text", "liver", "--deidentify", "site.txt", "--write")
    (tmp_path / "site.txt").write_text("a secret text of this site")
    results = run_at_debug(
        [
            ["predict", bundle_folder, first, *hidden, ALL, "-o", "one"],
            ["series", bundle_folder, source, *hidden, ALL, "-o", "two"],
            ["predict", bundle_folder, ultrasound(tmp_path / "us" / "us.dcm"), *hidden, "seg,sr,coco", "-o", "three"],
            ["series", bundle_folder, "us", *hidden, "sr", "-o", "four"],
            ["compare", "one", "two", "-o", "follow-up", "--write", "sr"],
        ],
        tmp_path,
    )
    for code, said in results:
        assert code == 0 and "Traceback" not in said, said[-2000:]
        assert not any(word in said.replace(str(source), "") for word in IDENTIFYING), said[-2000:]
    folders = [tmp_path / name for name in ("one", "two", "three", "four", "follow-up")]
    assert holders(*folders) == set()
    assert not [path.name for path in folders[3].rglob("*.png")]
    assert not {"overlay.png", "panel.png"} & {path.name for path in folders[2].iterdir()}
    assert "different patients" not in results[4][1]


def test_refusals_do_not_name_the_patient(bundle_folder: Path, tmp_path: Path) -> None:
    first, *_ = write_ct_series(tmp_path / "study", slices=2)
    us = ultrasound(tmp_path / "us.dcm")
    bare = ultrasound(tmp_path / "bare.dcm", StudyInstanceUID="SECRET")
    (tmp_path / "site.txt").write_text("a secret text of this site")
    (tmp_path / "short.txt").write_text("SECRET")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.json").write_text('{"format": "SECRET"}')
    predict, series = (
        ["predict", bundle_folder, first, "--text", "liver"],
        ["series", bundle_folder, "study", "--text", "liver"],
    )
    scan = ["predict", bundle_folder, us, "--text", "liver"]
    out = ["-o", "out"]
    refused = [
        [*predict, *out, "--write", "dicom"],
        [*predict, "--write", "sr"],
        [*predict, *out, "--deidentify", "site.txt"],
        [*predict, *out, "--write", "sr", "--patient"],
        [*predict, *out, "--write", "sr", "--deidentify", "nowhere.txt"],
        [*predict, *out, "--write", "sr", "--deidentify", "short.txt"],
        [*predict, *out, "--write", "sr", "--modality", "ultrasound"],
        [*predict, *out, "--write", "sr", "--frame", "7"],
        [*predict, *out, "--write", "sr", "--box", "100,100,400,400"],
        [*predict, "-o", "mine", "--write", "sr"],
        [*scan, *out, "--write", "rtstruct"],
        [*scan, *out, "--write", "html", "--deidentify", "site.txt"],
        ["predict", bundle_folder, bare, "--text", "liver", *out, "--write", "seg,sr"],
        ["predict", "nowhere", first, "--text", "liver", *out, "--write", "sr"],
        [*series, *out, "--write", "sr", "--series", "9"],
        ["series", bundle_folder, "mine", "--text", "liver", *out, "--write", "sr"],
        ["series", bundle_folder, "nowhere", "--text", "liver", *out, "--write", "sr"],
        ["compare", "broken", "broken", "-o", "follow-up"],
        ["compare", "nowhere", "study", "-o", "follow-up"],
    ]
    for arguments, (code, said) in zip(refused, run_at_debug(refused, tmp_path), strict=True):
        assert code in (1, 2) and "error: " in said.lower() and "Traceback" not in said, (arguments, said[-800:])
        assert not any(word in said for word in IDENTIFYING), (arguments, said[-800:])
    assert not (tmp_path / "out").exists() and not (tmp_path / "follow-up").exists()


def damaged(path: Path, damage: str) -> None:
    data = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "pixels":
        path.write_bytes(data[:-900])
    elif damage == "values":
        path.write_bytes(data.replace(b"MONOCHROME2", b"SECRETSECRE").replace(b"120000", b"SECRET"))
    elif damage == "kind":
        ct_slice(1, np.zeros((8, 8), int), (0, 0, 0), Modality="SEG").save_as(path, enforce_file_format=True)
    else:
        path.write_bytes(data[:140])


@pytest.mark.parametrize("damage", ["truncated", "pixels", "values", "kind", "empty"])
def test_errors_do_not_quote_the_file(damage: str, bundle_folder: Path, tmp_path: Path) -> None:
    (path,) = write_ct_series(tmp_path / "study", slices=1)
    damaged(path, damage)
    rest = ("--text", "liver", "-o", "out", "--write", "sr")
    commands = [["predict", bundle_folder, path, *rest], ["series", bundle_folder, "study", *rest]]
    for _, said in run_at_debug(commands, tmp_path):
        assert not any(word in said for word in IDENTIFYING) and "Traceback" not in said
