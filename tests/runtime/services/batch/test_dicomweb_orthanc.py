"""A batch over a query of a real archive: Orthanc with its DICOMweb plugin, which asks for a password."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("dicomweb_client")
pytest.importorskip("pynetdicom")
pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
from dicom_series import as_bytes
from node_cases import Orthanc, study
from ports import free_port

from mimo_runtime.cli.commands import main
from mimo_runtime.services.batch import dicomweb

SLICES = 5


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    archive = Orthanc(tmp_path_factory.mktemp("orthanc"), free_port(), user="pacs:a password")
    yield archive
    archive.close()


def batch(*arguments: object) -> tuple[int, dict]:
    outcome = CliRunner().invoke(main, ["batch", *map(str, arguments), "--text", "liver", "--json"])
    assert outcome.exit_code == 0, outcome.output
    return outcome.exit_code, json.loads(outcome.stdout)


def findings(out: Path) -> list[dict[str, str]]:
    """The rows of the summary without key and folder, which differ between a file and an instance."""
    rows = list(csv.DictReader((out / "summary.csv").read_text("utf-8").splitlines()))
    return [{name: value for name, value in row.items() if name not in ("key", "folder")} for row in rows]


def test_a_query_is_answered_as_the_files_are_and_resumed(
    orthanc: Orthanc, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomweb, "PAGE", 2)
    slices, files = study(SLICES), tmp_path / "files"
    files.mkdir()
    for number, data in enumerate(slices):
        (files / f"{number}.dcm").write_bytes(as_bytes(data))
    orthanc.upload(list(reversed(slices)))
    orthanc.upload(study())  # of another study
    token = tmp_path / "token"
    token.write_text(orthanc.authorization)
    query = [f"{orthanc.web}?Modality=CT&StudyInstanceUID={slices[0].StudyInstanceUID}", "--token-file", token]
    _, report = batch(bundle_folder, *query, "-o", tmp_path / "web")
    assert (report["answered"], report["resumed"], report["failures"]) == (SLICES, 0, [])
    batch(bundle_folder, files, "-o", tmp_path / "folder")
    assert findings(tmp_path / "web") == findings(tmp_path / "folder")
    named = csv.DictReader((tmp_path / "web" / "inputs.csv").read_text("utf-8").splitlines())
    assert [str(data.SOPInstanceUID) in row.values() for data, row in zip(slices, named)] == [True] * SLICES
    _, again = batch(bundle_folder, *query, "-o", tmp_path / "web")
    assert (again["answered"], again["resumed"]) == (0, SLICES)


def test_a_query_without_the_password_is_refused_in_one_line(orthanc: Orthanc, bundle_folder: Path, tmp_path: Path) -> None:
    arguments = ["batch", str(bundle_folder), f"{orthanc.web}?Modality=CT", "--text", "liver", "-o", str(tmp_path / "out")]
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 2
    assert outcome.output == "error: the query of the DICOMweb server failed: status 401. Check the address.\n"
