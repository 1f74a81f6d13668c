"""Results that a later comparison reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from clinical_cases import ct_result, flat_result
from dicom_series import FRAME_OF_REFERENCE, PATIENT, SERIES

from mimo_runtime.clinical.comparison import BY_PLACE, compare
from mimo_runtime.clinical.measurements import measure
from mimo_runtime.clinical.store import load_study, save_study
from mimo_runtime.errors import RequestError


@pytest.mark.parametrize("kind", ["ct", "us-frames", "endoscopy"])
def test_a_stored_result_measures_and_compares_as_the_first_one(kind: str, tmp_path: Path) -> None:
    result = ct_result() if kind == "ct" else flat_result(kind)
    files = save_study(result, tmp_path)
    again = load_study(tmp_path)
    assert all((tmp_path / name).exists() for name in files)
    for old, new in zip(result.structures, again.structures):
        assert (old.name, old.tracking_id, old.score) == (new.name, new.tracking_id, new.score)
        assert all(np.array_equal(old.masks[k], new.masks[k]) for k in old.masks)
        lengths = [
            (m.name, m.value, m.unit, m.plane) for m in measure(result, old) if m.frame is not None or m.name == "volume"
        ]
        assert [(m.name, m.value, m.unit, m.plane) for m in measure(again, new)] == lengths
    assert np.array_equal(again.images[0].pixels, result.images[0].pixels)
    if kind == "ct":
        assert {p.matched_by for p in compare(load_study(tmp_path), again).pairs} == {BY_PLACE}


def test_a_stored_result_names_no_patient(tmp_path: Path) -> None:
    save_study(ct_result(), tmp_path)
    text = (tmp_path / "study.json").read_text()
    assert not any(secret in text for secret in (PATIENT, "SECRET", SERIES, FRAME_OF_REFERENCE))


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"format": "mimo-study", "format_version": 1}', "structures", "masks", "version"]
)
def test_damaged_results_are_one_line(damage: str, tmp_path: Path) -> None:
    save_study(ct_result(), tmp_path)
    path = tmp_path / "study.json"
    data = json.loads(path.read_text())
    if damage == "structures":
        data["structures"][0]["masks"]["1"]["size"] = [3, 3]
    elif damage == "masks":
        data["structures"][0]["masks"] = 3
    elif damage == "version":
        data["format_version"] = 2
    path.write_text(damage if damage[0] in "{[" else json.dumps(data))
    with pytest.raises(RequestError, match="damaged study|another version"):
        load_study(tmp_path)


def test_a_folder_without_a_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no stored study"):
        load_study(tmp_path)
