"""Reports as pages and PDF files, and all formats written together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from clinical_cases import ct_result, dciodvfy, disc, flat_result
from dicom_series import PATIENT

from mimo_runtime.clinical.comparison import compare
from mimo_runtime.clinical.dicom.document import write_pdf
from mimo_runtime.clinical.pictures import draw_frame
from mimo_runtime.clinical.report.content import report_of
from mimo_runtime.clinical.report.page import html_of
from mimo_runtime.clinical.report.pdf import pdf_of
from mimo_runtime.clinical.study import Structure
from mimo_runtime.clinical.writer import FORMATS, write_objects
from mimo_runtime.errors import RequestError

pytest.importorskip("jinja2")
pytest.importorskip("reportlab")


def test_the_page_shows_answer_pictures_measures_and_limits_and_no_patient() -> None:
    page = html_of(report_of(ct_result()))
    for text in (
        "CT of the abdomen: one liver lesion.",
        "liver lesion",
        "left kidney",
        "long axis",
        "mm²",
        "mL",
        "HU",
        "Limits",
    ):
        assert text in page
    assert "uncertain, review needed" in page and page.count("data:image/png;base64,") == 2
    assert PATIENT not in page and "SECRETID" not in page and "://" not in page
    assert PATIENT in html_of(report_of(ct_result(), patient=True))


def test_texts_are_escaped() -> None:
    result = ct_result(sentences=("<script>alert(1)</script> & more",))
    page = html_of(report_of(result))
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert pdf_of(report_of(result)).startswith(b"%PDF")


def test_a_refusal_is_on_the_report_and_nothing_is_denied() -> None:
    refused = replace(ct_result(), structures=(), sentences=(), refusals=("This model does not know 'fracture'.",))
    page = html_of(report_of(refused))
    assert "Not answered: This model does not know" in page and "No structure." in page


def test_follow_up_shows_changes_and_what_has_to_be_confirmed() -> None:
    before, now = (
        ct_result(structures=(Structure("liver lesion", {2: disc(radius=r)}, 0.9, tracking_id="a"),)) for r in (12, 6)
    )
    page = html_of(report_of(now, compare(before, now), before))
    assert "Target lesions (RECIST 1.1): PR" in page and "to be confirmed" in page
    assert page.count("<figure>") == 2 and "Before" in page


def test_a_measure_has_its_range_and_a_change_says_whether_it_is_certain() -> None:
    before, now = (
        ct_result(structures=(Structure("liver lesion", {2: disc(radius=r), 3: disc(radius=9)}, 0.9, tracking_id="a"),))
        for r in (12, 6)
    )
    report = report_of(now, compare(before, now), before)
    area = next(value for value in report.rows[0].values if value.name == "area")
    assert area.value.endswith(" mm²") and float(area.span.split(" to ")[0]) < float(area.value.split()[0])
    changes = {value.name: value for value in report.changes[0].values}
    assert changes["volume"].change.endswith(" %") and not changes["volume"].change.startswith("-0")
    page = html_of(report)
    for value in changes.values():
        assert (f"({value.change})" in page) or value.is_certain
    assert "PR, partial response" in page or "SD, stable disease" in page


def test_pictures_of_the_report_have_no_measures_burned_in() -> None:
    """They are in its tables; a secondary capture has no others."""
    result = ct_result()
    frame = result.structures[0].largest_frame
    bare, full = (draw_frame(result, frame, result.images[frame], measures=m) for m in (False, True))
    assert bare.height < full.height and bare.height in {picture.height for picture in report_of(result).pictures}


def test_a_pdf_is_the_same_twice_and_valid_as_a_dicom_object(tmp_path: Path) -> None:
    report = report_of(ct_result())
    assert pdf_of(report) == pdf_of(report)
    data = write_pdf(ct_result(), report)
    assert dciodvfy(data, tmp_path) == [] and data.EncapsulatedDocument.startswith(b"%PDF")
    assert dciodvfy(write_pdf(flat_result("us"), report), tmp_path) == []


def test_every_format_is_written_in_one_step(tmp_path: Path) -> None:
    files = write_objects(ct_result(), tmp_path / "out", list(FORMATS))
    index = json.loads((tmp_path / "out" / "objects.json").read_text())
    assert set(index["files"]) == {*FORMATS, "study"} and sorted(files) == sorted(
        f for fs in index["files"].values() for f in fs
    )
    assert all((tmp_path / "out" / name).stat().st_size > 0 for name in files)
    assert PATIENT not in "".join(files) + json.dumps(index)
    with pytest.raises(RequestError):
        write_objects(ct_result(), tmp_path / "out", ["sr"])
    write_objects(ct_result(), tmp_path / "out", ["sr"], overwrite=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["objects.json", "sr.dcm", "study.json", "study_frames"]


def test_a_result_without_structures_gives_the_report_only(tmp_path: Path) -> None:
    nothing = replace(ct_result(), structures=())
    write_objects(nothing, tmp_path / "out", ["seg", "sr", "stl"])
    index = json.loads((tmp_path / "out" / "objects.json").read_text())
    assert list(index["files"]) == ["sr", "study"] and set(index["left_out"]) == {"seg", "stl"}
    assert not any(name.endswith(".dcm") for name in write_objects(nothing, tmp_path / "other", ["seg"]))
    left_out = json.loads((tmp_path / "other" / "objects.json").read_text())["left_out"]
    assert left_out == {"seg": "the result has no structure, which sr can say"}
    with pytest.raises(RequestError, match="nifti cannot be written"):
        write_objects(replace(flat_result("us-frames"), structures=()), tmp_path / "third", ["seg", "nifti"])


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown format 'dicom'"):
        write_objects(ct_result(), tmp_path / "out", ["seg", "dicom"])
    with pytest.raises(RequestError, match="frame of reference"):
        write_objects(flat_result("us"), tmp_path / "out", ["rtstruct"])
    assert not list(tmp_path.iterdir())


def test_a_format_that_cannot_hold_the_result_is_left_out_with_its_reason(tmp_path: Path) -> None:
    write_objects(flat_result("us"), tmp_path / "out", ["sr", "rtstruct", "labelmap"])
    index = json.loads((tmp_path / "out" / "objects.json").read_text())
    assert list(index["files"]) == ["sr", "study"] and set(index["left_out"]) == {"rtstruct", "labelmap"}
    assert "frame of reference" in index["left_out"]["rtstruct"] and not (tmp_path / "out" / "rtstruct.dcm").exists()
