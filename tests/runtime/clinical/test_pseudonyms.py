"""Who a de-identified result is about, and words that it leaves out."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from clinical_cases import ct_result, dciodvfy, flat_result
from dicom_series import ball, ct_slice

from mimo_runtime.clinical.dicom.deidentify import deidentify
from mimo_runtime.clinical.pseudonyms import LEFT_OUT, patient_key, patient_pseudonym, without_words
from mimo_runtime.clinical.store import load_study
from mimo_runtime.clinical.writer import ObjectOptions, write_objects
from mimo_runtime.errors import RequestError
from mimo_runtime.results.answer import REFUSAL_REASONS, Refusal
from mimo_runtime.results.refusals import REFERENCE, refusal_sentence, unknown_sentence

pydicom = pytest.importorskip("pydicom")
SALT = "a secret of the site"


def identifier(salt: str = SALT, **changes: object) -> str:
    clean = deidentify(ct_slice(1, ball(1)[0][0], (0, 0, 0), **changes), salt)
    assert clean.PatientName == clean.PatientID and re.fullmatch("[A-Z2-7]{16}", clean.PatientID)
    return str(clean.PatientID)


def test_a_patient_has_one_pseudonym_in_all_objects_of_a_secret() -> None:
    assert identifier() == identifier(StudyInstanceUID="1.2.3", PatientName="MARRIED^NAME", Modality="MR")
    assert (
        len({identifier(), identifier(PatientID="OTHER"), identifier(IssuerOfPatientID="H2"), identifier("another secret")})
        == 4
    )


def test_without_an_identifier_name_and_birth_date_tell_patients_apart() -> None:
    nameless = {"PatientID": "", "PatientName": ""}
    assert identifier(PatientID="") == identifier(PatientID="", PatientName="secret^name")
    assert identifier(PatientID="") != identifier(PatientID="", PatientBirthDate="19700102")
    assert identifier(**nameless) == identifier(**nameless) != identifier(**nameless, StudyInstanceUID="1.2.3")


def test_a_pseudonym_is_no_plain_hash_of_an_identifier() -> None:
    for algorithm in ("md5", "sha1", "sha256"):
        digest = hashlib.new(algorithm, b"SECRETID").digest()
        assert identifier() not in base64.b32encode(digest).decode() and identifier().lower() not in digest.hex()
    key = patient_key({"PatientID": "SECRETID"})
    assert patient_pseudonym(SALT, key) == identifier() != patient_pseudonym(SALT, ("identifier", "SECRETID", ""))


def test_objects_of_one_patient_stay_together_and_stay_valid(tmp_path: Path) -> None:
    formats = ["seg", "sr", "sc", "pdf", "rtstruct"]
    files = write_objects(ct_result(), tmp_path / "out", formats, options=ObjectOptions(SALT))
    objects = [pydicom.dcmread(tmp_path / "out" / name) for name in files if name.endswith(".dcm")]
    assert len(objects) >= 5
    assert {(str(o.PatientName), str(o.PatientID)) for o in objects} == {(identifier(), identifier())}
    assert not any(dciodvfy(data, tmp_path) for data in objects)


def test_no_object_tells_by_how_many_days_dates_moved(tmp_path: Path) -> None:
    """The day of writing is known from elsewhere: moved as other dates are, it would give the true ones away."""
    files = write_objects(ct_result(), tmp_path / "out", ["seg", "sr", "sc", "pdf", "rtstruct"], options=ObjectOptions(SALT))
    for name in files:
        if name.endswith(".dcm"):
            data = pydicom.dcmread(tmp_path / "out" / name)
            dates = {str(e.value)[:8] for e in data.iterall() if e.VR in ("DA", "DT") and e.value}
            assert dates == {str(data.StudyDate)}, name


def test_words_of_the_request_are_in_no_file(tmp_path: Path) -> None:
    works = (("'What do you see?'",), (REFERENCE, "'What do you see?'"), ())
    said = [refusal_sentence(Refusal(r, "Mrs Smith", w), "Who is Mrs Smith?") for r in REFUSAL_REASONS for w in works]
    result = replace(
        ct_result(),
        refusals=tuple(said),
        sentences=(f"One liver lesion. {unknown_sentence('Smith')}",),
        request="('Mrs Smith',)",
    )
    named = replace(result, structures=tuple(replace(s, person_id="Smith 1") for s in result.structures))
    formats = ["seg", "sr", "sc", "pdf", "rtstruct", "html", "coco", "contours", "nifti", "stl"]
    write_objects(named, tmp_path / "out", formats, options=ObjectOptions(SALT))
    for path in (tmp_path / "out").rglob("*"):
        assert "smith" not in path.name.lower()
        assert path.is_dir() or not re.search(b"smith|secret", contents(path), re.I), path.name
    write_objects(named, tmp_path / "open", ["sr"])
    assert b"Smith" in contents(tmp_path / "open" / "sr.dcm")
    first, second = load_study(tmp_path / "out"), load_study(tmp_path / "open")
    assert first.request != second.request and first.structures[0].person_id != "Smith 1"


def contents(path: Path) -> bytes:
    """The bytes of a file, and what is compressed in it: streams of a PDF, a NIfTI volume."""
    data = path.read_bytes()
    plain = [data]
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", data, re.S):
        packed = base64.a85decode(stream.strip()[:-2]) if stream.strip().endswith(b"~>") else stream
        try:
            plain.append(zlib.decompress(packed))
        except (ValueError, zlib.error):
            plain.append(packed)
    return b"\n".join(plain)


def test_metadata_of_the_pdf_names_no_patient_even_where_its_page_does() -> None:
    from mimo_runtime.clinical.dicom.document import write_pdf
    from mimo_runtime.clinical.report.content import report_of

    data = write_pdf(ct_result(), report_of(ct_result(), patient=True))
    content = bytes(data.EncapsulatedDocument)
    assert b"SECRET" not in content and b"/Title (Image analysis report)" in content and b"<x:xmpmeta" not in content
    assert (data.DocumentTitle, data.BurnedInAnnotation) == ("Image analysis report", "YES")


def test_a_sentence_keeps_all_but_the_repeated_words() -> None:
    assert without_words("This model does not know 'Smith’s mass'. One cyst.") == (
        f"This model does not know '{LEFT_OUT}'. One cyst."
    )  # fmt: skip
    assert without_words("One cyst. Ask 'Where is the liver?'.") == "One cyst. Ask 'Where is the liver?'."


def test_documents_and_captures_of_any_modality_may_show_text() -> None:
    for changes in (
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, {"ConversionType": "WSD"}, {"Modality": "IVUS"},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, {"EncapsulatedDocument": b"%PDF", "BurnedInAnnotation": "NO"},
    ):  # fmt: skip
        data = ct_slice(1, ball(1)[0][0], (0, 0, 0), **changes)
        with pytest.raises(RequestError, match="name in its pixels"):
            deidentify(data, SALT)


def test_one_frame_with_text_keeps_all_pictures_away(tmp_path: Path) -> None:
    result = ct_result()
    result.images[2].source.header.BurnedInAnnotation = "YES"
    with pytest.raises(RequestError, match="name in its pixels"):
        write_objects(result, tmp_path / "out", ["html"], options=ObjectOptions(SALT))


def test_tags_of_patients_are_keyed() -> None:
    plain, keyed, other = (replace(flat_result("us"), salt=salt).patient_tag for salt in ("", SALT, SALT + "2"))
    assert len({plain, keyed, other}) == 3 and len(keyed) == 4
