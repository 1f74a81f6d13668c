"""The processing module of Mercure: a folder of series and a task in, objects and ``result.json`` out."""

from __future__ import annotations

import json
from pathlib import Path

import fakes
import pytest
from click.testing import CliRunner

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
import dicom_series  # noqa: E402

from mimo_runtime.cli.commands import main  # noqa: E402
from mimo_runtime.errors import RequestError  # noqa: E402
from mimo_runtime.services.mercure.module import run_module  # noqa: E402
from mimo_runtime.services.mercure.settings import read_settings  # noqa: E402


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Input as Mercure names it, and an empty output."""
    source, target = tmp_path / "in", tmp_path / "out"
    target.mkdir()
    for path in dicom_series.write_ct_series(source, slices=3):
        data = pydicom.dcmread(path)
        path.rename(source / f"{data.SeriesInstanceUID}#{data.SOPInstanceUID}.dcm")
    (source / f"{dicom_series.SERIES}#note.tags").write_text("{}")
    return source, target


def write_task(source: Path, settings: object) -> None:
    task = {"id": "1", "info": {"mrn": "SECRETID"}, "process": {"module_name": "mimo", "settings": settings}}
    (source / "task.json").write_text(json.dumps(task))


def test_results_have_the_names_that_the_router_expects(folders):
    source, target = folders
    write_task(source, {"ask": "liver", "write": ["seg", "sr"], "notify": True})
    with fakes.fake_mimo() as mimo:
        run_module(mimo, source, target, read_settings(source))
    files = sorted(target.glob("*.dcm"))
    assert len(files) == 2 and {path.name for path in target.iterdir()} == {*(path.name for path in files), "result.json"}
    for path in files:
        data = pydicom.dcmread(path)
        assert path.name == f"{data.SeriesInstanceUID}#{data.SOPInstanceUID}.dcm"
        assert data.StudyInstanceUID == dicom_series.STUDY and data.PatientName == dicom_series.PATIENT
    assert {pydicom.dcmread(path).Modality for path in files} == {"SEG", "SR"}
    text = (target / "result.json").read_text()
    result = json.loads(text)
    assert "SECRET" not in text and dicom_series.SERIES not in text
    (series,) = result["series"]
    assert series["structures"][0]["name"] == "liver" and series["structures"][0]["volume_ml"] > 0 and series["files"] == 2
    assert "liver" in result["__mercure_notification"]["text"]


def test_rules_choose_series_and_own_results_are_no_images(folders):
    source, target = folders
    write_task(source, {"rules": [{"name": "mr", "modality": ["MR"], "ask": "liver"}, {"name": "ct", "ask": "aorta"}]})
    with fakes.fake_mimo() as mimo:
        settings = read_settings(source)
        first = run_module(mimo, source, target, settings)
        assert [(series["rule"], series["series"]) for series in first["series"]] == [("ct", 1)] and first["skipped"] == 0
        for path in target.glob("*.dcm"):
            path.rename(source / path.name)
        (source / "damaged.dcm").write_bytes(b"no image")
        second = run_module(mimo, source, target, settings)
    assert len(second["series"]) == 1 and second["skipped"] == 3 and not second["failures"]
    assert "__mercure_notification" not in json.loads((target / "result.json").read_text())


def test_a_series_that_fails_is_listed_and_the_others_are_answered(folders):
    source, target = folders
    data = dicom_series.ct_slice(9, dicom_series.ball(1)[0][0], (0, 0, 0), SeriesInstanceUID="1.2.826.0.1.0", Rows=9999)
    data.save_as(source / "broken.dcm", enforce_file_format=True)
    with fakes.fake_mimo() as mimo:
        result = run_module(mimo, source, target, read_settings(source, "liver"))
        assert [series["series"] for series in result["series"]] == [2]
        assert [failure["series"] for failure in result["failures"]] == [1] and result["failures"][0]["reason"]
        for path in source.glob("1.2*.dcm"):
            path.unlink()
        with pytest.raises(RequestError):
            run_module(mimo, source, target, read_settings(source, "liver"))


def test_without_settings_all_structures_are_asked_for(folders):
    source, _ = folders
    expected = read_settings(source)
    assert [rule.ask for rule in expected.rules] == ["What do you see?"] and expected.rules[0].write == ("seg", "sr")
    for empty in ({}, [], None):
        write_task(source, empty)
        assert read_settings(source) == expected


@pytest.mark.parametrize(
    "settings", [{"asks": "liver"}, {"ask": ""}, {"write": ["nifti"]}, {"ask": "a", "rules": []}, {"notify": 1}, "liver"]
)  # fmt: skip
def test_wrong_settings_are_refused_before_the_work(folders, settings):
    source, _ = folders
    write_task(source, settings)
    with pytest.raises(RequestError):
        read_settings(source)


def test_the_command_takes_its_folders_from_the_environment(folders, bundle_folder: Path):
    source, target = folders
    write_task(source, {"ask": "liver", "write": ["sr"]})
    environment = {"MERCURE_IN_DIR": str(source), "MERCURE_OUT_DIR": str(target)}
    done = CliRunner().invoke(main, ["mercure", str(bundle_folder), "--device", "cpu"], env=environment)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1]) == {"series": 1, "failures": 0, "skipped": 0}
    assert len(list(target.glob("*.dcm"))) == 1 and (target / "result.json").exists()
    missing = CliRunner().invoke(main, ["mercure", str(bundle_folder)], env={**environment, "MERCURE_IN_DIR": "/nonexistent"})
    assert missing.exit_code == 2 and "does not exist" in missing.output
