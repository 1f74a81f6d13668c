"""Verdicts on images, and what follows from them."""

from __future__ import annotations

from dataclasses import replace

import fakes
import pytest
from domain_points import brightness, statistics_of

from mimo_runtime.domain.check import DomainCheck
from mimo_runtime.errors import PromptError
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
        "contradicts_stated": False,
    }  # fmt: skip
    assert any("at the edge of what this model was trained on" in warning for warning in answer.warnings)
    assert model().open(brightness(56)).ask("liver").warnings == ()


@pytest.mark.parametrize("value", [56, 184])
@pytest.mark.parametrize("stated", ["ct", "endoscopy", "mri", "ultrasound", "fundus", "pet"])
def test_every_contradiction_of_a_stated_modality_is_a_warning(value, stated) -> None:
    scan = model().open(brightness(value), modality=stated)
    seen = {56: "ct", 184: "endoscopy"}[value]
    contradiction = f"the stated modality is {stated}, but the nearest training images are of modality {seen}"
    assert (contradiction in scan.ask("liver").warnings) == (stated != seen) == scan.domain.contradicts_stated


def test_warnings_follow_the_verdict() -> None:
    assert domain_warnings(None, "ct") == ()
    assert domain_warnings(DomainCheck("in", 0.5, "ct"), "ct") == ()
    (warning,) = domain_warnings(DomainCheck("out", 2.0, "ct"), None)
    assert warning == "the image is unlike the images that this model was trained on (score 2.00, limit 1)"


#: In the order of the fakes' entities; the others are of unknown modality.
MODALITIES = {"liver": ("ct", "mri"), "aorta": ("endoscopy",)}
CONFIG = replace(fakes.CONFIG, entity_modalities=tuple(MODALITIES.get(name, ()) for name in fakes.ENTITIES))


def test_a_stated_modality_excludes_entities_that_it_never_shows() -> None:
    assert excluded_entities(CONFIG, "ct") == {"aorta"}
    assert excluded_entities(CONFIG, "ultrasound") == {"liver", "aorta"}
    assert excluded_entities(CONFIG, "photograph") == {"liver"}
    assert excluded_entities(CONFIG, None) == excluded_entities(fakes.CONFIG, "ct") == frozenset()
    assert excluded_entities(CONFIG, "own kind") == frozenset()  # contradicts nothing


def test_entities_of_other_modalities_are_absent() -> None:
    image = brightness(56)
    open_question = {f.phrase for f in fakes.fake_mimo().open(image).ask("What do you see?").findings}
    assert {"liver", "aorta"} <= open_question
    scan = model(entity_modalities=CONFIG.entity_modalities).open(image, modality="ct")
    answer = scan.ask("What do you see?")
    assert {f.phrase for f in answer.findings} == open_question - {"aorta"} and answer.text.startswith("CT")
    (finding,) = scan.ask("aorta").findings
    assert not finding.present and finding.presence == 0 and not finding.mask.any()
    assert scan.ask("liver").findings[0].present
    (pointed,) = scan.ask("aorta", boxes=[(20, 10, 50, 40)]).findings
    assert pointed.phrase == "referred region" and pointed.present


def test_an_image_out_of_the_domain_is_not_named() -> None:
    scan = model().open(brightness(120))
    for text in ("liver", "What do you see?", "Where is the aorta?"):
        answer = scan.ask(text)
        assert answer.refusal is not None and answer.refusal.reason == "out of domain" and answer.findings == ()
        sentence = "This model was not trained on images like this one. Point at the structure with a box, a point or a mask."
        assert answer.text == sentence and answer.generated == "" and len(answer.warnings) == 1
    assert scan.ask("fracture").refusal.reason == "unknown subject"


def test_what_a_reference_points_at_is_drawn_in_an_image_out_of_the_domain() -> None:
    answer = model().open(brightness(120), modality="mri").ask("liver", boxes=[(20, 10, 50, 40)])
    (finding,) = answer.findings
    assert finding.phrase == "referred region" and finding.present
    assert answer.refusal is not None and answer.refusal.reason == "out of domain"
    assert answer.text.startswith("MRI: ") and "referred region" in answer.plain_text and "liver" not in answer.text
    assert answer.text.endswith("This model was not trained on images like this one.")


def test_any_domain_answers_about_every_image() -> None:
    answer = model().open(brightness(120)).ask("liver", any_domain=True)
    assert answer.refusal is None and answer.findings[0].phrase == "liver"
    assert answer.domain is not None and answer.domain.verdict == "out" and len(answer.warnings) == 1
    with pytest.raises(PromptError, match="any_domain is 'yes'"):
        model().open(brightness(120)).ask("liver", any_domain="yes")
