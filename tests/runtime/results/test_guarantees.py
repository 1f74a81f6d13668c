"""What an answer states with a rate: contours and exclusion of findings, by structure and kind of prompt."""

from __future__ import annotations

import json
from dataclasses import replace

import fakes
import numpy as np
import pytest
from fakes import BOX
from PIL import Image

from mimo_runtime.model.calibrated import ContourCalibration, PresenceCalibration
from mimo_runtime.postprocessing.contours import WIDEST_OUTER
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.results.folder import write_result
from mimo_runtime.results.guarantees import prompt_kind

CONTOURS = (
    ContourCalibration("", "box", 6.0, 4.6, 90),
    ContourCalibration("aorta", "name", 1.0, 1.0, 90),
    ContourCalibration("liver", "box", 5.0, 4.5, 30),
)
CONFIG = replace(fakes.CONFIG, contours=CONTOURS, presence_calibration=(PresenceCalibration("", 0.01, 90),))


def ask(pixels, config=CONFIG, **request):
    with fakes.fake_mimo(config=config) as mimo:
        return mimo.open(pixels).ask(**request, text_answer=False)


@pytest.mark.parametrize(
    ("request_", "entry", "calibrated"),
    [
        ({"text": "liver", "boxes": [BOX]}, CONTOURS[2], True),
        ({"text": "spleen", "boxes": [BOX]}, None, False),  # too few cases
        ({"boxes": [BOX]}, CONTOURS[0], True),  # names nothing
        ({"text": "the liver"}, None, False),
        ({"text": "Where is the aorta?"}, CONTOURS[1], True),
        ({"points": [(45, 25)]}, None, False),  # a kind of prompt with too few cases
    ],
)
def test_contours_are_those_of_the_structure_and_the_kind_of_prompt(pixels, request_, entry, calibrated):
    (finding,) = ask(pixels, **request_).findings
    assert finding.guarantees.contours == entry and finding.calibrated is calibrated
    assert finding.coverage == (None if entry is None else 0.9)
    if entry is None:
        assert finding.inner is finding.outer is None
        return
    if entry.prompt == "box":  # by name, the mask is the whole image
        assert finding.inner.sum() < finding.mask.sum() < finding.outer.sum()
    assert not (finding.inner & ~finding.mask).any() and not (finding.mask & ~finding.outer).any()
    assert finding.outer is finding.outer  # computed once


def test_an_outer_contour_of_more_than_four_times_the_mask_is_not_stated(pixels):
    wide = replace(CONFIG, contours=(ContourCalibration("", "box", 1.0, WIDEST_OUTER + 0.01, 90),))
    (finding,) = ask(pixels, wide, boxes=[BOX]).findings
    assert finding.inner is finding.outer is finding.coverage is None
    assert finding.calibrated is True  # there are enough cases: it is the width


def test_findings_of_the_open_question_have_contours_of_requests_by_name(pixels):
    liver, aorta = sorted(ask(pixels, text="What do you see?").findings, key=lambda finding: finding.query)
    assert aorta.guarantees.contours == CONTOURS[1]
    assert liver.guarantees.contours is None and liver.calibrated is False


@pytest.mark.parametrize(("below", "excluded"), [(0.01, False), (0.05, True)])
def test_a_structure_is_excluded_only_below_its_presence(pixels, below, excluded):
    config = replace(CONFIG, presence_calibration=(PresenceCalibration("", below, 90),))
    (finding,) = ask(pixels, config, text="absent polyp").findings
    assert 0.01 < finding.presence < 0.05 and finding.excluded is excluded and finding.inner is None
    (finding,) = ask(pixels, config, text="liver").findings
    assert finding.present and finding.excluded is None


def test_a_model_without_calibration_states_no_rate(pixels):
    for text in ("liver", "absent polyp"):
        (finding,) = ask(pixels, fakes.CONFIG, text=text).findings
        assert finding.inner is finding.outer is finding.excluded is finding.calibrated is finding.coverage is None
        data = finding.to_dict("mask_0.png")
        assert data["inner"] is data["outer"] is data["excluded"] is data["calibration_cases"] is None


def test_a_result_folder_has_the_contours_beside_the_mask(pixels, tmp_path):
    answer, folder = ask(pixels, text="liver", boxes=[BOX]), tmp_path / "out"
    files = write_result(folder, False, pixels, Prompt("liver", [BOX]), answer, {})
    (finding,) = json.loads((folder / "answer.json").read_text())["findings"]
    assert (finding["mask"], finding["inner"], finding["outer"]) == (
        files[0], "mask_0_liver_inner.png", "mask_0_liver_outer.png",
    )  # fmt: skip
    assert (finding["coverage"], finding["calibrated"], finding["calibration_cases"]) == (0.9, True, 30)
    for name in ("mask", "inner", "outer"):
        contour = answer.findings[0].mask if name == "mask" else getattr(answer.findings[0], name)
        np.testing.assert_array_equal(np.asarray(Image.open(folder / finding[name])) > 0, contour)


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        (Prompt("liver"), "name"),
        (Prompt("", points=[(1, 1, 0)]), "name"),
        (Prompt("liver", points=[(1, 1)]), "point"),
        (Prompt("", [BOX], [(1, 1)]), "box"),
        (Prompt("", [BOX], [(1, 1)], np.ones((2, 2), bool)), "mask"),
    ],
)
def test_the_strongest_reference_is_the_kind_of_prompt(prompt, kind):
    assert prompt_kind(prompt) == kind
