"""Conformal calibration: coverage on exchangeable patients, patients instead of images, and too few of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import CONFIG, fake_mimo
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.data.dataset import Record, read_datasets
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.guarantees import holds_around, holds_inside
from mimo_runtime.model.calibrated import ContourCalibration
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.postprocessing.contours import MaskLogits, inner_and_outer
from mimo_runtime.preprocessing.letterbox import Letterbox
from mimo_train.tuning import conformal
from mimo_train.tuning.conformal import (
    IMAGES_PER_PATIENT,
    MIN_PATIENTS,
    ContourCase,
    PresenceCase,
    calibrate_contours,
    calibrate_presence,
    few_per_patient,
    smallest_parameter,
)
from mimo_train.tuning.contour_parameters import needed_parameters, squared_distances


def case(seed: int) -> tuple[np.ndarray, np.ndarray, MaskLogits]:
    """Mask and truth, neither empty, and the logits of the mask."""
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(16, 40, 2))
    logits = MaskLogits(rng.normal(0, 4, (8, 8)).astype(np.float32), Letterbox(height, width, 64))
    y, x = np.mgrid[:height, :width]
    (cy, cx), (ry, rx) = rng.uniform(4, 12, 2), rng.uniform(2, 12, 2)
    truth = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
    mask = logits.above_threshold() >= 0
    mask[int(cy), int(cx)] = truth[int(cy), int(cx)] = True
    return mask, truth, logits


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 8))
def test_contours_hold_from_the_needed_parameters_on_and_not_before(seed: int, more: float) -> None:
    mask, truth, logits = case(seed)
    inner, outer = needed_parameters(mask, truth, logits)

    def holds(by: float) -> tuple[bool, bool]:
        entry = ContourCalibration("", "box", max(0.0, inner + by), max(0.0, outer + by), 20)
        small, large = inner_and_outer(mask, entry, logits)
        return holds_inside(small, truth), holds_around(large, truth)

    assert holds(0.0) == holds(more) == (True, True)
    just_below = holds(-2e-4)
    assert (inner == 0 or not just_below[0]) and (outer == 0 or not just_below[1])


def test_a_right_mask_needs_no_margin() -> None:
    mask, _, logits = case(0)
    assert needed_parameters(mask, mask, logits) == (0.0, 0.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 14), st.integers(1, 14))
def test_distances_are_exact(seed: int, height: int, width: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.2
    mask[0, 0] = True
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[:height, :width]
    expected = ((y[..., None] - rows) ** 2 + (x[..., None] - columns) ** 2).min(-1)
    np.testing.assert_array_equal(squared_distances(mask), expected)


@pytest.mark.parametrize("images", [1, 5])
def test_coverage_of_new_patients_is_the_promised_one(images: int) -> None:
    """Patients differ, images of one patient are alike; over many draws, the mean coverage is at least the promise, and at most
    two patients' worth above it."""
    rng, patients, rate, draws = np.random.default_rng(0), 60, 0.1, 400
    failures = []
    for _ in range(draws):
        needed = rng.gamma(2, 1, (patients + 1, 1)) * rng.uniform(0.8, 1.25, (patients + 1, images))
        of = np.repeat([str(patient) for patient in range(patients)], images)
        parameter = smallest_parameter(needed[:-1].reshape(-1).tolist(), of.tolist(), rate)
        failures.append(np.mean(needed[-1] > parameter))
    # Hoeffding's bound at 400 draws is 0.075; the losses vary less, three standard errors are 0.045.
    assert rate - 2 / (patients + 1) - 0.045 < np.mean(failures) < rate + 0.045


def test_a_patient_with_many_images_counts_as_one() -> None:
    needed, patients = [1.0] * 39, [f"p{k}" for k in range(39)]
    alone = smallest_parameter([*needed, 9.0], [*patients, "q"], 0.1)
    many = smallest_parameter([*needed, *[9.0] * 500], [*patients, *["q"] * 500], 0.1)
    assert alone == many == 1.0
    # As patients of their own, the same images decide.
    assert smallest_parameter([*needed, *[9.0] * 500], [*patients, *map(str, range(500))], 0.1) == 9.0


def test_the_quantile_is_that_of_split_conformal_prediction() -> None:
    """With one case per patient: the same rank as crepes 0.9.1 and MAPIE 1.6, ceil((n + 1) * coverage)."""
    rng = np.random.default_rng(1)
    for count, rate in ((9, 0.1), (19, 0.1), (20, 0.1), (57, 0.05), (100, 0.2)):
        scores = rng.exponential(size=count)
        rank = math.ceil((count + 1) * (1 - rate) - 1e-9)
        expected = np.sort(scores)[rank - 1] if rank <= count else math.inf
        assert smallest_parameter(scores.tolist(), [str(k) for k in range(count)], rate) == expected
    crepes = pytest.importorskip("crepes")
    scores = rng.exponential(size=57)
    low, high = crepes.ConformalRegressor().fit(scores).predict_int(np.zeros(1), confidence=0.9)[0]
    assert high == -low == smallest_parameter(scores.tolist(), [str(k) for k in range(57)], 0.1)


def test_too_few_patients_have_no_parameter_and_no_entry() -> None:
    assert smallest_parameter([1.0] * 8, [str(k) for k in range(8)], 0.1) == math.inf
    assert smallest_parameter([1.0] * 9, [str(k) for k in range(9)], 0.1) == 1.0
    assert smallest_parameter([], [], 0.1) == math.inf
    cases = [ContourCase("liver", "box", str(k), 0.1, 0.2) for k in range(MIN_PATIENTS)]
    cases += [ContourCase("spleen", "box", f"s{k}", 0.3, 0.4) for k in range(MIN_PATIENTS - 1) for _ in range(5)]
    cases += [ContourCase("liver", "point", "0", 9.0, 9.0)]
    cases += [ContourCase("", "box", f"s{k}", 0.3, 0.4) for k in range(MIN_PATIENTS) for _ in range(2)]
    entries = calibrate_contours(cases, 0.9)
    assert [(entry.prompt, entry.name, entry.cases) for entry in entries] == [
        ("box", "", 2 * MIN_PATIENTS), ("box", "liver", MIN_PATIENTS),
    ]  # fmt: skip
    assert (entries[1].inner, entries[1].outer) == (0.1, 0.2) and (entries[0].inner, entries[0].outer) == (0.3, 0.4)


def scored(score: float, count: int, needed: float) -> list[ContourCase]:
    """Cases of as many patients by a box without a name."""
    return [ContourCase("", "box", f"{score} {k}", needed, needed, score) for k in range(count)]


def groups(*cases: list[ContourCase]) -> list[tuple[float, float, int]]:
    entries = calibrate_contours([case for some in cases for case in some], 0.9)
    return [(entry.min_score, entry.outer, entry.cases) for entry in entries]


def test_what_has_no_name_has_an_entry_for_each_group_of_scores() -> None:
    low, middle, high = (scored(score, 40, needed) for score, needed in ((0.5, 3.0), (0.75, 2.0), (0.9, 1.0)))
    # No score from 0.65 to 0.75: a group without cases is joined with the one below.
    assert groups(low, middle, high) == [(0.0, 3.0, 40), (0.75, 2.0, 40), (0.85, 1.0, 40)]
    named = [case._replace(name="liver") for case in (*low, *middle, *high)]
    assert [(entry.name, entry.min_score, entry.cases) for entry in calibrate_contours(named, 0.9)] == [("liver", 0.0, 120)]


def test_a_group_of_scores_with_too_few_patients_is_joined_with_another() -> None:
    few, high = scored(0.5, MIN_PATIENTS - 1, 3.0), scored(0.9, 40, 1.0)
    assert groups(few, high) == [(0.0, 3.0, MIN_PATIENTS + 39)]
    assert groups(scored(0.5, 40, 3.0), scored(0.9, MIN_PATIENTS - 1, 1.0)) == [(0.0, 3.0, MIN_PATIENTS + 39)]
    assert groups(few, scored(0.9, 0, 1.0)) == []
    # No case says anything of lower scores.
    assert groups(scored(0.8, 40, 2.0), high) == [(0.75, 2.0, 40), (0.85, 1.0, 40)]


def test_contours_beyond_every_parameter_have_the_largest() -> None:
    cases = [ContourCase("liver", "box", str(k), math.inf, 0.0) for k in range(40)]
    assert [(entry.inner, entry.outer) for entry in calibrate_contours(cases, 0.9)] == [(100.0, 0.0)]


def test_presence_is_low_enough_to_miss_few() -> None:
    presences = np.linspace(0.01, 1, 100)
    entries = calibrate_presence([PresenceCase("liver", str(k), p) for k, p in enumerate(presences)], 0.05)
    assert [entry.name for entry in entries] == ["", "liver"]
    assert np.mean(presences < entries[1].absent_below) == pytest.approx(0.04)  # one patient of 101 counts as missed


def record(case: str) -> Record:
    return Record("set", Path("image.png"), None, case, "val", "ct", "abdomen", {})


def test_few_images_of_every_patient() -> None:
    records = [record(case) for case in ["a"] * 9 + ["b"] * 2 + [""] * 7]
    kept = few_per_patient(records, 0)
    counts = {case: sum(r.case == case for r in kept) for case in ("a", "b", "")}
    assert counts == {"a": IMAGES_PER_PATIENT, "b": 2, "": 7} and few_per_patient(records, 0) == kept


def test_calibration_is_stored_with_the_checkpoint(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets, steps = read_datasets(phantoms), []
    model = fake_mimo(config=replace(CONFIG, entities=sets[0].class_names))
    with pytest.raises(RequestError, match=r"train' has \d+ patients with a target, and contours need 1000. Raise --limit"):
        monkeypatch.setattr(conformal, "MIN_PATIENTS", 1000)
        conformal.calibrate(tmp_path, model, sets, "train", limit=2)
    monkeypatch.setattr(conformal, "MIN_PATIENTS", 4)
    chosen = conformal.calibrate(
        tmp_path, model, sets, "train", coverage=0.85, miss_rate=0.1, progress=lambda *step: steps.append(step)
    )
    stored = MimoConfig.read(tmp_path / "config.json")
    assert stored.contours == chosen.contours and stored.presence_calibration == chosen.presence
    assert (stored.coverage, stored.miss_rate) == (0.85, 0.1) and stored.crop_scale == model.config.crop_scale
    # Of references with and without a name, and by name.
    entries = {(entry.prompt, entry.name) for entry in stored.contours}
    assert entries >= {(prompt, name) for prompt in ("box", "point", "mask") for name in ("", "heart", "spine")}
    assert ("name", "heart") in entries and ("name", "") not in entries
    assert steps[-1][0] == steps[-1][1] == chosen.images and json.loads(json.dumps(chosen.to_dict()))["coverage"] == 0.85
    assert "hold for 85 % of the masks" in chosen.sentences() and "box, without a name, score from 0: " in chosen.sentences()
    assert "" not in chosen.too_few
