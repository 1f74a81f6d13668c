"""Verdicts on images, and what follows from them."""

from __future__ import annotations

from dataclasses import replace

import fakes
import pytest
from domain_points import brightness, statistics_of

from mimo_runtime.domain.check import DomainCheck
from mimo_runtime.pipeline import Mimo
from mimo_runtime.results.domain_rules import domain_warnings, excluded_entities

STATISTICS = statistics_of({"ct": [0.2, 0.22, 0.24], "endoscopy": [0.7, 0.72, 0.74]})


def model(**changes: object) -> Mimo:
    base = fakes.fake_mimo()
    config = replace(fakes.CONFIG, **changes)
    return Mimo(config, base.engines, base.tokenizer, base.info, domain=STATISTICS)


@pytest.mark.parametrize(
    ("value", "stated", "verdict", "looks_like"),
    [
        (56, None, "in", "ct"),
        (184, None, "in", "endoscopy"),
        (71, None, "borderline", "ct"),
        (120, None, "out", "endoscopy"),
        (56, "ct", "in", "ct"),
        (56, "endoscopy", "out", "ct"),
        (56, "photograph", "out", "ct"),
        (184, "photograph", "in", "endoscopy"),  # an endoscopic image is one
        (184, "ES", "in", "endoscopy"),
        (184, "mri", "out", "endoscopy"),
    ],
)
def test_an_image_is_compared_with_the_training_images_of_its_modality(value, stated, verdict, looks_like) -> None:
    check = model().open(brightness(value), modality=stated).domain
    assert check is not None and (check.verdict, check.modality) == (verdict, looks_like)
    assert (check.score >= 1) == (verdict != "in") or stated == "mri"


def test_a_model_without_statistics_checks_nothing() -> None:
    scan = fakes.fake_mimo().open(brightness(120), modality="mri")
    assert scan.domain is None
    answer = scan.ask("liver")
    assert answer.domain is None and answer.to_dict()["domain"] is None and answer.refusal is None


def test_answers_hold_the_check_and_its_warnings() -> None:
    answer = model().open(brightness(71)).ask("liver")
    assert answer.domain is not None and answer.to_dict()["domain"] == {
        "verdict": "borderline", "score": pytest.approx(answer.domain.score, abs=1e-4), "modality": "ct",
    }  # fmt: skip
    assert any("at the edge of what this model was trained on" in warning for warning in answer.warnings)
    assert model().open(brightness(56)).ask("liver").warnings == ()


@pytest.mark.parametrize("value", [56, 184])
@pytest.mark.parametrize("stated", ["ct", "endoscopy", "mri", "ultrasound", "fundus", "pet"])
def test_every_contradiction_of_a_stated_modality_is_a_warning(value, stated) -> None:
    scan = model().open(brightness(value), modality=stated)
    seen = {56: "ct", 184: "endoscopy"}[value]
    warned = any(f"the stated modality is {stated}, but the image looks like {seen}" in w for w in scan.ask("liver").warnings)
    assert warned == (stated != seen)


def test_warnings_follow_the_verdict() -> None:
    assert domain_warnings(None, "ct") == ()
    assert domain_warnings(DomainCheck("in", 0.5, "ct"), "ct") == ()
    (warning,) = domain_warnings(DomainCheck("out", 2.0, "ct"), None)
    assert warning == "the image is unlike the images that this model was trained on (score 2.00, limit 1)"


def test_a_stated_modality_excludes_entities_that_it_never_shows() -> None:
    config = replace(fakes.CONFIG, entity_modalities=(("ct", "mri"), (), ("endoscopy",)))
    assert excluded_entities(config, "ct") == {"aorta"}
    assert excluded_entities(config, "ultrasound") == {"liver", "aorta"}
    assert excluded_entities(config, "photograph") == {"liver"}
    assert excluded_entities(config, None) == excluded_entities(fakes.CONFIG, "ct") == frozenset()
    assert excluded_entities(config, "own kind") == frozenset()  # contradicts nothing
