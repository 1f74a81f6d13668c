"""Follow-up as DICOM SR: valid, read back, and a new document with a predecessor."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from clinical_cases import ct_result, dciodvfy, disc

from mimo_runtime.cli.commands import main
from mimo_runtime.clinical.comparison import compare
from mimo_runtime.clinical.dicom.follow_up import write_follow_up
from mimo_runtime.clinical.dicom.structured_report import write_report
from mimo_runtime.clinical.report.content import follow_up_lines
from mimo_runtime.clinical.study import Structure, StudyResult
from mimo_runtime.clinical.writer import ObjectOptions, write_objects

hd = pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")


def lesions(*radii: int) -> StudyResult:
    places = [(12, 12), (28, 28)]
    structures = [
        Structure("liver lesion", {2: disc(radius=r, at=at)}, 0.9, tracking_id=f"liver lesion {k}")
        for k, (r, at) in enumerate(zip(radii, places), 1)
    ]
    return ct_result(structures=tuple(structures))


def test_the_report_has_matches_changes_and_the_category(tmp_path: Path) -> None:
    before, now = lesions(9), lesions(5, 4)
    comparison, first = compare(before, now), write_report(now)
    uids = first.SOPInstanceUID, first.SeriesInstanceUID
    report = write_follow_up(first, comparison, follow_up_lines(comparison))
    assert dciodvfy(report, tmp_path) == []
    groups = hd.sr.ComprehensiveSR.from_dataset(report).content.get_planar_roi_measurement_groups()
    matches = [[e.value.meaning for e in g.get_qualitative_evaluations() if e.name.value == "match"] for g in groups]
    assert matches == [["By position, to be confirmed"], ["No partner at the baseline"]]
    changes = {
        item.ConceptNameCodeSequence[0].CodeMeaning: item.MeasuredValueSequence[0]
        for item in groups[0][0].ContentSequence
        if item.ValueType == "NUM" and "since the baseline" in item.ConceptNameCodeSequence[0].CodeMeaning
    }
    value = changes["Change of the long axis since the baseline"]
    expected = next(c.percent for c in comparison.pairs[0].changes if c.name == "long axis")
    assert float(value.NumericValue) == pytest.approx(expected, abs=1e-3)
    assert value.MeasurementUnitsCodeSequence[0].CodeValue == "%"
    codes = {e.value for e in report.iterall() if e.keyword == "CodeMeaning"}
    assert {"Target Lesion Partial Response", "RECIST 1.1", "Time Point"} <= codes
    texts = " ".join(str(e.value) for e in report.iterall() if e.keyword == "TextValue")
    assert "a new lesion is progression" in texts
    predecessor = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert (predecessor.ReferencedSOPSequence[0].ReferencedSOPInstanceUID, predecessor.SeriesInstanceUID) == uids
    assert report.SOPInstanceUID not in uids and report.SeriesInstanceUID not in uids
    again = write_follow_up(write_report(now), comparison, follow_up_lines(comparison))
    assert again.SOPInstanceUID == report.SOPInstanceUID


def test_the_command_writes_it_beside_the_comparison(tmp_path: Path) -> None:
    secret = ObjectOptions("a secret text of the site")
    write_objects(lesions(9), tmp_path / "before", ["sr"], options=secret)
    write_objects(lesions(5), tmp_path / "now", ["sr"], options=secret)
    out, run = tmp_path / "out", CliRunner()
    arguments = ["compare", str(tmp_path / "before"), str(tmp_path / "now"), "--write", "sr"]
    refused = run.invoke(main, arguments)
    assert refused.exit_code == 2 and "--write without --output" in refused.stderr
    assert run.invoke(main, [*arguments, "-o", str(out)]).exit_code == 0
    report = pydicom.dcmread(out / "sr.dcm")
    assert dciodvfy(report, tmp_path) == [] and report.PatientIdentityRemoved == "YES"
    assert b"SECRET" not in (out / "sr.dcm").read_bytes()
    (tmp_path / "now" / "sr.dcm").unlink()
    missing = run.invoke(main, [*arguments, "-o", str(out), "--force"])
    assert missing.exit_code == 2 and "holds no structured report" in missing.stderr
