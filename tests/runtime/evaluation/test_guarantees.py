"""Promised rates beside measured ones: by kind of prompt, by class, by patient, and in words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from oracle import Oracle, write_sets

from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.evaluation.accuracy import evaluate
from mimo_runtime.evaluation.guarantees import summarise_guarantees
from mimo_runtime.evaluation.report import markdown, overview
from mimo_runtime.evaluation.summary import ContourCheck, Overlap, Presence


def answers(name: str, prompt: str, patient: str, inner: Iterable[bool], outer: bool = True) -> list[Overlap]:
    """One answer for each of ``inner``: whether its inner contour holds."""
    return [
        Overlap("organs", name, prompt, f"{patient} {i}", 0.9, 0.8, case=patient,
                drawn=True, contours=ContourCheck(holds, outer, 0.5, 2.0))
        for i, holds in enumerate(inner)
    ]  # fmt: skip


OVERLAPS = [
    *answers("liver", "text", "a", [True, True, True]),
    *answers("liver", "text", "b", [False]),
    *answers("spleen", "text", "b", [True], outer=False),
    *answers("liver", "text+box", "a", [True]),
    *answers("liver", "box", "b", [True]),
]
PRESENCES = [
    Presence("organs", "present", False, 0.1, "liver", "a", True),
    Presence("organs", "present", True, 0.9, "liver", "b", False),
    Presence("organs", "within", False, 0.1, "spleen", "a", True),  # absent: no miss
]


def test_coverage_is_a_mean_over_patients_by_kind_of_prompt_and_class() -> None:
    result = summarise_guarantees(OVERLAPS, PRESENCES, 0.9, 0.05)
    name, box = result["contours"]["name"], result["contours"]["box"]
    # Patient a holds in three of three, patient b in one of two.
    assert (name["inner"]["rate"], name["inner"]["patients"], name["n"]) == (0.75, 2, 5)
    assert name["outer"]["rate"] == 0.75
    assert box["n"] == 2 and box["inner"]["rate"] == 1  # a box with a name is a box
    liver = result["contours_per_class"]["liver"]
    assert liver["name"]["inner"]["rate"] == 0.5 and set(liver) == {"name", "box"}
    assert result["contours_per_class"]["spleen"]["name"]["outer"]["rate"] == 0
    assert result["missed"] is not None and result["missed"]["rate"] == 0.5
    assert set(result["missed_per_class"]) == {"liver"}


def test_the_share_of_findings_with_contours_is_stated() -> None:
    without = [row._replace(contours=None) for row in answers("aorta", "text", "c", [True] * 5)]
    missed = [row._replace(drawn=False) for row in without]  # nothing drawn: no finding
    baseline = [row._replace(prompt="ellipse") for row in without]
    result = summarise_guarantees([*OVERLAPS, *without, *missed, *baseline], PRESENCES, 0.9, 0.05)
    assert (result["contours"]["name"]["stated"], result["contours"]["box"]["stated"]) == (0.5, 1)
    assert result["contours"]["name"]["inner"]["rate"] == 0.75 and result["contours"]["name"]["n"] == 5
    assert "aorta" not in result["contours_per_class"]


def test_a_model_without_promises_has_no_numbers() -> None:
    result = summarise_guarantees([row._replace(contours=None) for row in OVERLAPS], PRESENCES, None, None)
    assert result["contours"] == {} and result["missed"] is None and result["missed_per_class"] == {}


@pytest.mark.parametrize(
    ("promise", "expected"),
    [(0.9, "-15.0 percentage points (inner contour, name)"), (0.8, "+20.0 percentage points (inner contour, box)")],
)
def test_the_report_has_the_promise_and_the_largest_difference_to_it(promise: float, expected: str, tmp_path: Path) -> None:
    sets = read_datasets(write_sets(tmp_path))
    result = evaluate(Oracle(sets), sets, "test", prompts=["box"], limit=1)
    result["guarantees"] = summarise_guarantees(OVERLAPS, PRESENCES, promise, 0.05)
    for text in (overview(result), markdown(result)):
        assert f"promised to hold for {100 * promise:.0f} %" in text
        assert f"The largest difference to the promise is {expected}. The goal is at most 3 points." in text
    assert "| spleen | name |" in markdown(result)
