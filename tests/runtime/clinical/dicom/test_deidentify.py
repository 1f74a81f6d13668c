"""Objects without what identifies the patient."""

from __future__ import annotations

from pathlib import Path

import pytest
from clinical_cases import ct_result, dciodvfy, flat_result
from dicom_series import ball, ct_slice

from mimo_runtime.clinical.dicom.deidentify import _KEPT_TEXT, deidentify
from mimo_runtime.clinical.dicom.objects import MANUFACTURER
from mimo_runtime.clinical.dicom.segmentation import write_segmentation
from mimo_runtime.clinical.dicom.structured_report import write_report
from mimo_runtime.clinical.store import load_study
from mimo_runtime.clinical.writer import ObjectOptions, write_objects
from mimo_runtime.errors import RequestError

pydicom = pytest.importorskip("pydicom")
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402


def texts(data: Dataset) -> str:
    return "\n".join(str(e.value) for e in data.iterall() if e.VR != "SQ" and not isinstance(e.value, bytes))


def secret_slice() -> Dataset:
    data = ct_slice(1, ball(1)[0][0], (0, 0, 0))
    nested = Dataset()
    nested.PatientName, nested.OtherPatientIDs, nested.ReferencedSOPInstanceUID = "SECRET^NESTED", "SECRET7", "1.2.3.77"
    data.ReferencedStudySequence = [nested]
    keywords = (
        "PatientComments ImageComments StudyDescription InstitutionAddress OperatorsName PatientAddress RequestingPhysician "
        "PerformingPhysicianName StationName DeviceSerialNumber PatientAge"
    )
    for keyword in keywords.split():
        setattr(data, keyword, "SECRET" if keyword != "PatientAge" else "099Y")
    data.private_block(0x0011, "SECRET CREATOR", create=True).add_new(1, "LO", "SECRET")
    return data


def test_no_secret_and_no_identifier_of_the_source_stays() -> None:
    source = secret_slice()
    clean = deidentify(source, "salt")
    assert "SECRET" not in texts(clean) and "19700101" not in texts(clean) and "099Y" not in texts(clean)
    uids = {str(e.value) for e in source.iterall() if e.VR == "UI" and not str(e.value).startswith("1.2.840.10008")}
    assert not uids & {str(e.value) for e in clean.iterall() if e.VR == "UI"} and "20260102" not in texts(clean)
    assert clean.PatientIdentityRemoved == "YES" and clean.PixelData == source.PixelData
    assert [c.CodeValue for c in clean.DeidentificationMethodCodeSequence] == ["113100", "113107", "113105"]
    assert source.PatientName == "SECRET^NAME"


def test_objects_of_one_salt_keep_their_references_and_stay_valid(tmp_path: Path) -> None:
    result = ct_result()
    seg = write_segmentation(result)
    report = write_report(result, seg)
    clean_seg, clean_report, image = (deidentify(o, "salt") for o in (seg, report, result.images[2].source.header))
    assert dciodvfy(clean_seg, tmp_path) == [] and dciodvfy(clean_report, tmp_path) == []
    references = {str(e.value) for e in clean_report.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    assert clean_seg.SOPInstanceUID in references
    sources = {str(e.value) for e in clean_seg.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    assert image.SOPInstanceUID in sources and image.StudyInstanceUID == clean_seg.StudyInstanceUID
    assert clean_seg.StudyDate == clean_report.StudyDate == image.StudyDate
    other = deidentify(seg, "other salt")
    assert other.SOPInstanceUID != clean_seg.SOPInstanceUID and other.StudyDate != clean_seg.StudyDate


def test_no_text_element_of_the_dictionary_stays_but_those_listed() -> None:
    from pydicom.datadict import DicomDictionary

    source = secret_slice()
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        if vr in ("LO", "SH", "UC", "LT", "ST", "UT", "PN", "AE") and keyword and not retired and tag >> 16 > 2:
            source.add_new(tag, vr, "SECRET")
    source.ClinicalTrialSubjectID = source.OrderCallbackPhoneNumber = source.PatientTransportArrangements = "SECRET"
    source.PatientBirthTime = "070809"
    clean = deidentify(source, "salt")
    left = {e.keyword for e in clean.iterall() if e.VR != "SQ" and "SECRET" in str(e.value)}
    assert left == {keyword for keyword in _KEPT_TEXT if keyword in source} - {"DeidentificationMethod"}
    assert "PatientBirthTime" not in clean
    source.Manufacturer = MANUFACTURER
    assert deidentify(source, "salt").SegmentLabel == "SECRET"


def test_pictures_of_images_with_text_are_written_only_where_somebody_looked(tmp_path: Path) -> None:
    options = ObjectOptions("a secret text")
    for formats in (["html"], ["seg", "sc"], ["pdf"]):
        with pytest.raises(RequestError, match="name in its pixels"):
            write_objects(flat_result("us"), tmp_path / "out", formats, options=options)
    write_objects(flat_result("us"), tmp_path / "out", ["seg", "sr"], options=options)
    assert not list((tmp_path / "out").rglob("*.png"))
    load_study(tmp_path / "out")
    write_objects(flat_result("us"), tmp_path / "seen", ["html", "sc"], options=ObjectOptions("a secret text", True))
    files = write_objects(ct_result(), tmp_path / "ct", ["sc", "pdf", "html"], options=options)
    for name in files:
        if name.endswith(".dcm"):
            assert dciodvfy(pydicom.dcmread(tmp_path / "ct" / name), tmp_path) == []
            assert b"SECRET" not in (tmp_path / "ct" / name).read_bytes()


def test_distances_between_dates_stay() -> None:
    first, second = secret_slice(), secret_slice()
    second.StudyDate = "20260212"
    days = [int(deidentify(d, "salt").StudyDate) for d in (first, second)]
    from datetime import datetime

    moved = [datetime.strptime(str(d), "%Y%m%d") for d in days]
    assert (moved[1] - moved[0]).days == 41


def test_text_in_pixels_is_refused_unless_somebody_looked() -> None:
    data = secret_slice()
    data.Modality = "US"
    with pytest.raises(RequestError, match="name in its pixels"):
        deidentify(data, "salt")
    assert deidentify(data, "salt", allow_burned_in=True).PatientIdentityRemoved == "YES"
    data.BurnedInAnnotation = "NO"
    deidentify(data, "salt")
    with pytest.raises(RequestError, match="needs a salt"):
        deidentify(data, "")


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "reportsi.dcm", "eCT_Supplemental.dcm"])
def test_names_and_identifiers_of_real_files_are_gone(name: str) -> None:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom has no {name}")
    source = pydicom.dcmread(path)
    clean = texts(deidentify(source, "salt", allow_burned_in=True))
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "InstitutionName", "StudyInstanceUID"):
        value = str(source.get(keyword) or "")
        assert not value or value not in clean.split("\n")
