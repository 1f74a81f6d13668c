"""DICOM SR: validated by dciodvfy, read back by highdicom and dcmqi."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clinical_cases import ct_result, dciodvfy, dcmqi, disc, flat_result

from mimo_runtime.clinical.dicom.segmentation import write_segmentation
from mimo_runtime.clinical.dicom.structured_report import write_report
from mimo_runtime.clinical.measurements import measure

hd = pytest.importorskip("highdicom")


def text_of(report) -> str:  # noqa: ANN001
    return " ".join(str(element.value) for element in report.iterall() if element.VR in ("UT", "LO", "SH", "CS"))


def test_a_series_with_its_segmentation_is_valid_and_refers_to_the_segments(tmp_path: Path) -> None:
    result = ct_result()
    seg = write_segmentation(result)
    report = write_report(result, seg)
    assert dciodvfy(report, tmp_path) == []
    read = hd.sr.ComprehensiveSR.from_dataset(report)
    groups = read.content.get_volumetric_roi_measurement_groups()
    assert [g.tracking_identifier for g in groups] == ["liver lesion", "left kidney"]
    for number, (group, structure) in enumerate(zip(groups, result.structures), 1):
        assert group.tracking_uid == seg.SegmentSequence[number - 1].TrackingUID
        segment = list(group.referenced_segment)[0]
        assert int(segment.ReferencedSOPSequence[0].ReferencedSegmentNumber) == number
        expected = {m.name: m for m in measure(result, structure)}
        values = {m.name.meaning: (m.value, m.unit.value) for m in group.get_measurements() if m.derivation is None}
        assert values["Volume"] == (pytest.approx(expected["volume"].value), "mL")
        assert values["Long axis"] == (pytest.approx(expected["long axis"].value), "mm")
        means = [m.value for m in group.get_measurements() if m.derivation and m.derivation.meaning == "Mean"]
        assert means == [pytest.approx(expected["mean"].value)]


def test_dcmqi_reads_values_units_and_tracking_identifiers(tmp_path: Path) -> None:
    result = ct_result()
    seg = write_segmentation(result)
    write_report(result, seg).save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    dcmqi("tid1500reader", "--inputDICOM", str(tmp_path / "sr.dcm"), "--outputMetadata", str(tmp_path / "o.json"))
    groups = json.loads((tmp_path / "o.json").read_text())["Measurements"]
    regions = [g for g in groups if any(i["quantity"]["CodeMeaning"] == "Area" for i in g["measurementItems"])]
    assert len(regions) == len(result.structures)
    for group, structure in zip(regions, result.structures):
        assert group["TrackingIdentifier"] == structure.tracking_id
        assert group["TrackingUniqueIdentifier"] == result.tracking_uid(structure)
        items = {i["quantity"]["CodeMeaning"]: i for i in group["measurementItems"]}
        expected = {m.name: m.value for m in measure(result, structure)}
        assert float(items["Area"]["value"]) == pytest.approx(expected["area"], rel=1e-4)
        assert items["Area"]["units"]["CodeValue"] == "mm2"


@pytest.mark.parametrize("kind", ["us", "us-frames", "endoscopy", "dx", "mr"])
def test_every_kind_of_image_is_valid(kind: str, tmp_path: Path) -> None:
    result = flat_result(kind)
    report = write_report(result, write_segmentation(result) if kind == "mr" else None)
    assert dciodvfy(report, tmp_path) == []
    if kind == "dx":
        assert "detector plane, magnified" in text_of(report)
    if kind in ("us", "endoscopy"):
        assert "{pixels}" in text_of(report)


def test_an_outline_holds_the_structure(tmp_path: Path) -> None:
    result = flat_result("us")
    read = hd.sr.ComprehensiveSR.from_dataset(write_report(result))
    group = read.content.get_planar_roi_measurement_groups()[0]
    points = group.roi.value if hasattr(group.roi, "value") else group.roi.graphic_data
    x, y = np.asarray(points).T[:2]
    area = abs(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2)
    assert area == result.structures[0].masks[0].sum()


def test_no_finding_and_a_refusal_are_text_and_no_finding(tmp_path: Path) -> None:
    nothing = replace(ct_result(), structures=(), sentences=())
    report = write_report(nothing)
    assert dciodvfy(report, tmp_path) == [] and "No finding." in text_of(report)
    refused = replace(nothing, refusals=("This model does not know 'fracture'.",))
    report = write_report(refused)
    assert dciodvfy(report, tmp_path) == []
    assert "Not answered: This model does not know" in text_of(report) and "No finding." not in text_of(report)
    assert not hd.sr.ComprehensiveSR.from_dataset(report).content.get_planar_roi_measurement_groups()


@pytest.mark.parametrize("with_segmentation", [True, False])
def test_a_report_of_a_part_of_the_frames_is_partial(with_segmentation: bool, tmp_path: Path) -> None:
    result = replace(
        ct_result(), is_complete=False, failed=(0,), refusals=("Frame 0 (counted from 0) of 5 could not be read.",)
    )
    report = write_report(result, write_segmentation(result) if with_segmentation else None)
    assert dciodvfy(report, tmp_path) == [] and report.CompletionFlag == "PARTIAL"
    assert "a part of the frames" in report.CompletionFlagDescription
    whole = write_report(ct_result())
    assert whole.CompletionFlag == "COMPLETE" and "CompletionFlagDescription" not in whole


def test_the_report_is_preliminary_and_not_verified() -> None:
    report = write_report(ct_result())
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert "research use only" in text_of(report)
    again = write_report(ct_result())
    assert report.SOPInstanceUID == again.SOPInstanceUID


def test_every_length_has_its_range_in_its_own_unit(tmp_path: Path) -> None:
    result = ct_result()
    report = write_report(result)
    assert dciodvfy(report, tmp_path) == []
    (group, _) = hd.sr.ComprehensiveSR.from_dataset(report).content.get_volumetric_roi_measurement_groups()
    expected = {m.name: m for m in measure(result, result.structures[0])}
    axis = next(m for m in group.get_measurements() if m.name.meaning == "Long axis")
    ranges = {i.ConceptNameCodeSequence[0].CodeValue: i for i in axis[0].ContentSequence if i.ValueType == "NUM"}
    one = expected["long axis"]
    for code, value in (("371886008", one.high - one.value), ("371885007", one.value - one.low)):
        measured = ranges[code].MeasuredValueSequence[0]
        assert float(measured.NumericValue) == pytest.approx(value, rel=1e-4)
        assert measured.MeasurementUnitsCodeSequence[0].CodeValue == "mm"


def test_a_structure_in_several_parts_has_all_of_its_outlines(tmp_path: Path) -> None:
    result = flat_result("us")
    parts = disc(radius=4, at=(10, 10)) | disc(radius=5, at=(28, 28))
    split = replace(result, structures=(replace(result.structures[0], masks={0: parts}),))
    report = write_report(split)
    assert dciodvfy(report, tmp_path) == []
    (group,) = hd.sr.ComprehensiveSR.from_dataset(report).content.get_volumetric_roi_measurement_groups()
    areas = []
    for region in group.roi:
        x, y = np.asarray(region.value).T[:2]
        areas.append(abs(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2))
    assert sum(areas) == parts.sum() and len(areas) == 2
