"""Requests for several names: each structure is answered as by itself."""

from __future__ import annotations

from dataclasses import replace

import fakes
import numpy as np
import pytest
from fakes import BOX, CONFIG, calls, fake_mimo, summary

from mimo_runtime.model.calibrated import ContourCalibration, PresenceCalibration
from mimo_runtime.pipeline import Mimo
from mimo_runtime.results.answer import Finding

CALIBRATED = replace(
    CONFIG,
    crop_scale=3.0,
    contours=(ContourCalibration("aorta", "name", 1.0, 1.0, 90), ContourCalibration("liver", "name", 2.0, 2.0, 30)),
    presence_calibration=(PresenceCalibration("", 0.05, 90),),
)


def with_small_targets(mimo: Mimo) -> Mimo:
    """Without a reference, query 0 is small; its presence and predicted IoU follow the name."""
    decoder = mimo.engines["mask_decoder"]
    assert isinstance(decoder, fakes.FakeEngine)
    run = decoder.run

    def small(inputs):
        out = run(inputs)
        if (out["masks"][0, 0] > 0).all():
            side = out["masks"].shape[-1]
            out["masks"][0, 0] = -8
            out["masks"][0, 0, side // 4 : side * 3 // 8, side // 4 : side * 3 // 8] = 8
            out["iou"][0, 0] += 0.01 * len(fakes.question_of(inputs["memory"][0, :, 0]))
        return out

    decoder.run = small  # type: ignore[method-assign]
    return mimo


def without_query(finding: Finding) -> dict[str, object]:
    return {name: value for name, value in finding.to_dict("mask.png").items() if name != "query"}


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize("names", [("liver", "aorta"), ("spleen", "absent polyp", "liver")])
def test_each_of_several_names_is_answered_as_by_itself(pixels, names, refine):
    with with_small_targets(fake_mimo(config=CALIBRATED)) as mimo:
        findings = mimo.open(pixels).ask(" and ".join(names), refine=refine, text_answer=False).findings
    assert [finding.phrase for finding in findings] == list(names)
    assert [finding.query for finding in findings] == [1 + fakes.ENTITIES.index(name) for name in names]
    for name, finding in zip(names, findings):
        with with_small_targets(fake_mimo(config=CALIBRATED)) as mimo:
            (alone,) = mimo.open(pixels).ask(name, refine=refine, text_answer=False).findings
        assert without_query(finding) == without_query(alone)
        np.testing.assert_array_equal(finding.mask, alone.mask)
        assert finding.refined is (refine and name != "absent polyp")
        assert finding.excluded is (True if name == "absent polyp" else None)
        if alone.inner is not None:
            np.testing.assert_array_equal(finding.inner, alone.inner)
            np.testing.assert_array_equal(finding.outer, alone.outer)


def test_the_text_says_of_each_name_what_is_said_of_it_by_itself(pixels):
    unsure = replace(CALIBRATED, presence_calibration=(PresenceCalibration("", 0.01, 90),))
    for config, end in ((CALIBRATED, "is visible."), (unsure, "is found, but cannot be excluded.")):
        with with_small_targets(fake_mimo(config=config)) as mimo:
            answer = mimo.open(pixels).ask("liver and absent polyp")
        assert answer.plain_text.startswith("CT of the abdomen: one ") and answer.plain_text.endswith(f"No absent polyp {end}")


def test_a_stopped_answer_has_the_full_image_for_the_names_that_are_left(pixels):
    with with_small_targets(fake_mimo(config=CALIBRATED)) as mimo:
        decoder = mimo.engines["mask_decoder"]
        # One run for the image, two for the first name and its crop.
        answer = mimo.open(pixels).ask(
            "liver, absent polyp and aorta", text_answer=False, should_stop=lambda: decoder.calls >= 3
        )
        entities = mimo.open(pixels).ask("What do you see?", text_answer=False).findings
    liver, polyp, aorta = answer.findings
    assert answer.finish_reason == "cancelled"
    assert liver.refined and liver.calibrated and not aorta.refined
    np.testing.assert_array_equal(aorta.mask, next(f.mask for f in entities if f.phrase == "aorta"))
    assert not polyp.present and polyp.excluded is None  # no pass by its name alone


def test_a_deadline_ends_the_passes_of_names(pixels, clock):
    with with_small_targets(fake_mimo(config=CALIBRATED)) as mimo:
        scan, decoder = mimo.open(pixels), mimo.engines["mask_decoder"]
        # One run for the image, two for the first name and its crop.
        deadline = clock.deadline(lambda: decoder.calls >= 3)
        answer = scan.ask(", ".join(fakes.ENTITIES), text_answer=False, deadline=deadline)
        assert answer.finish_reason == "deadline" and len(answer.findings) == len(fakes.ENTITIES)
        assert decoder.calls <= 4 and sum(finding.refined for finding in answer.findings) < 3


def test_names_that_are_asked_again_run_no_graph(pixels):
    with with_small_targets(fake_mimo(config=CALIBRATED)) as mimo:
        scan = mimo.open(pixels)
        several = scan.ask("liver and aorta")
        before = calls(mimo)
        assert summary(scan.ask("liver and aorta")) == summary(several)
        alone = scan.ask("aorta", text_answer=False)
        assert calls(mimo) == before
        np.testing.assert_array_equal(alone.findings[0].mask, several.findings[1].mask)
        # The open question reads the same text and has other masks.
        seen = scan.ask("What do you see?", text_answer=False).findings
        assert not any(finding.refined for finding in seen)
        assert seen[0].area_px != several.findings[0].area_px


def test_relations_are_read_from_one_pass(pixels):
    with with_small_targets(fake_mimo(config=CALIBRATED)) as mimo:
        answer = mimo.open(pixels).ask("Where is the liver relative to the aorta?", text_answer=False)
        assert calls(mimo)["mask_decoder"] == 1 and not any(finding.refined for finding in answer.findings)


def test_a_reference_beside_several_names_has_its_own_mask(pixels):
    with with_small_targets(fake_mimo(config=CALIBRATED)) as mimo:
        scan = mimo.open(pixels)
        referred, liver, _ = scan.ask("liver and aorta", boxes=[BOX], text_answer=False).findings
        (box,) = scan.ask(boxes=[BOX], text_answer=False).findings
        (alone,) = scan.ask("liver", text_answer=False).findings
    assert referred.phrase == "referred region"
    np.testing.assert_array_equal(referred.mask, box.mask)
    np.testing.assert_array_equal(liver.mask, alone.mask)
