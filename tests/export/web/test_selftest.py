"""What the golden self-test of the page lets pass and what it refuses, in Node.js."""

from __future__ import annotations

from typing import Any

import pytest

RUNS = {"counts": [100, 100, 200], "size": [20, 20]}
SHIFTED = {"counts": [102, 100, 198], "size": [20, 20]}
FINDING = {
    "phrase": "polyp", "query": 0, "present": True, "refined": True, "coverage": 0.9, "calibrated": True,
    "calibration_cases": 40, "excluded": None, "score": 0.6, "presence": 0.8, "confident": True,
    "mask": RUNS, "inner": RUNS, "outer": RUNS,
}  # fmt: skip
DOMAIN = {"verdict": "in", "score": 0.7, "modality": "ct", "contradicts_stated": False}
FACTS = {
    "tolerances": {"mask_dice": 0.99, "score": 0.02},
    "numeric": {
        "thresholds": {"abstain_threshold": 0.5}, "contours": [{"min_score": 0.0}, {"min_score": 0.3}],
        "presence_calibration": [{"absent_below": 0.2}], "domain": {"limits": [2.0, 4.0]},
    },
}  # fmt: skip


def difference(node, answer: dict[str, Any], expected: dict[str, Any], domain: Any = DOMAIN, wanted: Any = DOMAIN) -> str:
    """Of one finding with the values of ``answer`` where those of ``expected`` are expected."""
    return str(
        node.call(
            "numeric/selftest", "m.differenceOf(v.answer, v.expected, v.facts)", facts=FACTS,
            answer={"findings": [FINDING | answer], "domain": domain},
            expected={"findings": [FINDING | expected], "domain": wanted},
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, {}),
        ({"score": 0.615}, {}),
        ({"score": 0.49, "confident": False}, {"score": 0.505}),
        ({"score": 0.29, "calibration_cases": 9, "outer": None}, {"score": 0.305}),
        ({"presence": 0.21, "excluded": False}, {"presence": 0.19, "excluded": True}),
    ],
)
def test_what_lies_within_the_tolerances_passes(node, answer: dict[str, Any], expected: dict[str, Any]):
    assert difference(node, answer, expected) == ""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"phrase": "liver"}, "another phrase"), ({"present": False}, "another present"),
        ({"refined": False}, "another refined"), ({"inner": None}, "another inner"),
        ({"calibration_cases": 9}, "another calibration_cases"), ({"excluded": True}, "another excluded"),
        ({"mask": SHIFTED}, "a Dice of 0.980 of the mask"), ({"outer": SHIFTED}, "of the outer"),
        ({"score": 0.63}, "a difference of 0.030 of the score"), ({"confident": False}, "another confidence"),
    ],
)  # fmt: skip
def test_another_finding_is_refused(node, answer: dict[str, Any], words: str):
    assert words in difference(node, answer, {}) and difference(node, answer, {}).endswith("of polyp")


def test_another_domain_check_is_refused_but_for_a_score_at_a_limit(node):
    assert difference(node, {}, {}, None) == "another domain check"
    assert "domain score" in difference(node, {}, {}, DOMAIN | {"score": 0.73})
    assert "verdict" in difference(node, {}, {}, DOMAIN | {"verdict": "out"})
    at_limit = {"verdict": "borderline", "score": 1.005, "modality": "ct", "contradicts_stated": False}
    assert difference(node, {}, {}, at_limit | {"verdict": "in", "score": 0.995}, at_limit) == ""
