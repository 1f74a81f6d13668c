"""Headers with values that DICOM does not allow give valid objects, or one true line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clinical_cases import MODEL, dciodvfy, disc
from dicom_series import as_bytes, ball, ct_slice

from mimo_runtime.clinical.dicom.capture import write_captures
from mimo_runtime.clinical.dicom.document import write_pdf
from mimo_runtime.clinical.dicom.headers import allowed
from mimo_runtime.clinical.dicom.segmentation import write_segmentation
from mimo_runtime.clinical.dicom.structure_set import write_structure_set
from mimo_runtime.clinical.dicom.structured_report import write_report
from mimo_runtime.clinical.report.content import report_of
from mimo_runtime.clinical.study import Structure, StudyResult
from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.reader import read_image


def result_of(**elements: Any) -> StudyResult:
    data = ct_slice(1, ball(1)[0][0], (0, 0, 0), **elements)
    structure = Structure("liver", {0: disc()}, 0.9, tracking_id="liver")
    return StudyResult((read_image(as_bytes(data)),), (structure,), ("CT: liver.",), (), MODEL)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "elements",
    [
        {"StudyTime": "10:11:12"},
        {"PatientSex": "SECRETSEX"},
        {"PatientBirthDate": "1950.01.01"},
        {"PatientBirthDate": "19501399"},
        {"PatientName": ["A^B", "C^D"]},
        {"PatientID": "x" * 70, "AccessionNumber": "y" * 40},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg", "ReferringPhysicianName": "Straße^Ärztin"},
        {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "山田^太郎"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
        {"SpecificCharacterSet": "ISO-IR 100"},
    ],
)
def test_unusual_headers_give_valid_objects(elements: dict[str, Any], tmp_path: Path) -> None:
    result = result_of(**elements)
    seg = write_segmentation(result)
    objects = [seg, write_report(result, seg), write_structure_set(result), write_pdf(result, report_of(result))]
    for data in [*objects, *write_captures(result)]:
        assert dciodvfy(data, tmp_path) == [] and data.SpecificCharacterSet == "ISO_IR 192"
        if isinstance(elements.get("PatientName"), str):
            read = read_back(tmp_path / "object.dcm")
            assert read == elements["PatientName"]


def read_back(path: Path) -> str:
    pydicom = pytest.importorskip("pydicom")
    return str(pydicom.dcmread(path).PatientName)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_identifiers_that_are_missing_or_invalid_are_named(keyword: str) -> None:
    for value in ("", "1.2.03.4"):
        with pytest.raises(RequestError, match=f"no valid {keyword}"):
            write_report(result_of(**{keyword: value}))


def test_values_keep_what_their_representation_allows() -> None:
    assert allowed("StudyTime", "TM", "101112.5") == "101112.5" and allowed("StudyTime", "TM", "25") == ""
    assert allowed("StudyDate", "DA", "20260229") == "20260229" and allowed("StudyDate", "DA", "20261301") == ""
    assert allowed("PatientName", "PN", "A^B\\C") == "A^B" and len(allowed("PatientID", "LO", "x" * 99)) == 64
    assert np.all([allowed("PatientSex", "CS", sex) == sex for sex in "MFO"])
