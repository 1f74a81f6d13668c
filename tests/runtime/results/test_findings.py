from __future__ import annotations

import re

import fakes
import numpy as np
import pytest
from fakes import BOX

from mimo_runtime.model.config import MimoConfig


def test_open_question_grounds_entities(mimo, pixels):
    answer = mimo.open(pixels).ask("What do you see?")
    assert answer.text == "CT of the abdomen: <p>liver</p><seg> and <p>aorta</p><seg>."
    assert [(f.phrase, f.query, f.present) for f in answer.findings] == [("liver", 1, True), ("aorta", 3, True)]


def test_open_question_without_text_lists_present_entities(mimo, pixels):
    answer = mimo.open(pixels).ask("What do you see?", text_answer=False)
    assert [(f.phrase, f.query) for f in answer.findings] == [("aorta", 3), ("liver", 1)]


def test_asked_for_and_not_there(mimo, pixels):
    for text_answer in (True, False):
        (finding,) = mimo.open(pixels).ask("Where is the absent polyp?", text_answer=text_answer).findings
        assert (finding.phrase, finding.query, finding.present) == ("absent polyp", 0, False)
        assert not finding.mask.any() and finding.mask.shape == (60, 100)
        assert finding.area_px == 0 and finding.box is None and finding.score < 0.05


def test_the_finding_is_what_the_request_names_whatever_the_draft_says(mimo, pixels):
    answer = mimo.open(pixels).ask("the spleen")
    assert answer.generated == "CT of the abdomen: <p>spleen</p><seg>."
    assert [(f.phrase, f.query, f.present) for f in answer.findings] == [("spleen", 0, True)]


def test_reference_without_a_name(mimo, pixels):
    (finding,) = mimo.open(pixels).ask(boxes=[BOX], text_answer=False).findings
    assert finding.phrase == "referred region"


def test_an_open_answer_has_each_present_entity_of_the_draft_once(mimo, pixels):
    answer = mimo.open(pixels).ask("Describe the image.")
    assert [(f.phrase, f.query, f.present) for f in answer.findings] == [("liver", 1, True)]
    assert answer.text == "Image: <p>liver</p><seg>."


def test_an_empty_mask_is_not_present(mimo, pixels):
    engine = mimo.engines["mask_decoder"]
    inner = engine._mask_decoder
    engine._mask_decoder = lambda x: {**inner(x), "masks": np.full((1, 32, 32, 32), -8, np.float32)}
    (finding,) = mimo.open(pixels).ask(boxes=[BOX], text_answer=False).findings
    assert not finding.present and finding.presence > 0.9 and finding.box is None and not finding.mask.any()


def test_presence_temperature_and_threshold_are_those_of_the_model(pixels):
    config = MimoConfig.from_preset("micro", entities=fakes.ENTITIES, presence_temperature=3.0, presence_threshold=0.8)
    with fakes.fake_mimo(config=config) as mimo:
        (finding,) = mimo.open(pixels).ask("polyp", text_answer=False).findings
    assert finding.presence == pytest.approx(1 / (1 + np.exp(-1)))
    assert not finding.present


def test_a_relation_presumes_what_it_names(pixels):
    config = MimoConfig.from_preset("micro", entities=fakes.ENTITIES, presence_temperature=6.0, presence_threshold=0.9)
    with fakes.fake_mimo(config=config) as mimo:
        scan = mimo.open(pixels)
        answer, neighbours = scan.ask("Where is the liver relative to the aorta?"), scan.ask("What is left of the aorta?")
        by_name = scan.ask("liver and aorta")
    assert [(f.phrase, f.present) for f in answer.findings] == [("liver", True), ("aorta", True)]
    assert all(0.2 <= f.presence < 0.9 for f in answer.findings)
    # The structures that nobody names need the model's thresholds.
    assert [(f.phrase, f.present) for f in neighbours.findings] == [("aorta", True)]
    assert not any(f.present for f in by_name.findings)


def test_a_reference_beside_a_name_has_no_neighbours(mimo, pixels):
    for relation in ("below", "above", "left of", "right of", "next to"):
        answer = mimo.open(pixels).ask(f"What is {relation} the aorta?", boxes=[BOX])
        tagged = set(re.findall("<p>(.*?)</p>", answer.text))
        assert tagged == {f.phrase for f in answer.findings if f.present}, answer.text


def test_a_structure_with_the_mask_of_a_named_one_is_no_neighbour_of_it(mimo, pixels):
    engine = mimo.engines["mask_decoder"]
    inner = engine._mask_decoder

    def alike(inputs):
        outputs = inner(inputs)
        masks = np.full_like(outputs["masks"], -8)
        masks[..., 10:20, 10:20] = 8
        return {**outputs, "masks": masks}

    engine._mask_decoder = alike
    answer = mimo.open(pixels).ask("What is below the aorta?")
    assert [f.phrase for f in answer.findings if f.present] == ["aorta"]
    assert "no known structure below the " in answer.text


def test_a_presumed_structure_has_the_most_probable_cells_as_its_mask(pixels):
    config = MimoConfig.from_preset("micro", entities=fakes.ENTITIES, presence_temperature=6.0, presence_threshold=0.9)
    with fakes.fake_mimo(config=config) as mimo:
        engine = mimo.engines["mask_decoder"]
        inner = engine._mask_decoder
        engine._mask_decoder = lambda x: {**inner(x), "masks": np.minimum(inner(x)["masks"], -1.0)}  # at most 0.27
        scan = mimo.open(pixels)
        liver, aorta = scan.ask("Where is the liver relative to the aorta?").findings
        by_name = scan.ask("aorta").findings
    assert liver.present and aorta.present and liver.mask.any() and not liver.mask.all()
    assert not any(f.present for f in by_name)


def test_a_reference_takes_the_place_of_a_name_in_a_relation(mimo, pixels):
    scan = mimo.open(pixels)
    below = scan.ask("Where is it relative to the liver?", boxes=[BOX])
    assert [(f.phrase, f.query) for f in below.findings] == [("referred region", 0), ("liver", 1)]
    relation = r"(above|below|left of|right of)"
    assert re.search(rf": <p>referred region</p><seg> {relation} the <p>liver</p><seg> in the image\.$", below.text)
    near = scan.ask("What is next to it?", boxes=[BOX])
    assert near.findings[0].phrase == "referred region" and "<p>referred region</p><seg> in the image." in near.text
    for question in ("What is next to it?", "Where is it relative to the liver?"):
        refused = scan.ask(question)
        assert refused.refusal is not None and refused.refusal.reason == "empty subject" and not refused.findings


@pytest.mark.parametrize("question", ["Where is the spleen relative to the aorta?", "What is above the spleen?"])
def test_a_relation_to_something_improbable_is_denied(mimo, pixels, question):
    answer = mimo.open(pixels).ask(question)
    assert [(f.phrase, f.present) for f in answer.findings] == [("spleen", False)]
    assert answer.text.endswith("no spleen is visible.")


def test_a_score_below_the_models_threshold_is_not_confident(pixels):
    def ask(threshold):
        config = MimoConfig.from_preset("micro", entities=fakes.ENTITIES, abstain_threshold=threshold)
        with fakes.fake_mimo(config=config) as mimo:
            return mimo.open(pixels).ask("What do you see?").findings

    everything = ask(0.0)
    assert all(f.confident and f.to_dict()["confident"] is True for f in everything)
    assert all(f.score == pytest.approx(f.presence * f.iou) for f in everything)
    liver, aorta = everything
    assert liver.score < aorta.score
    assert [f.confident for f in ask(aorta.score)] == [False, True]  # at the threshold is enough
    doubted = ask(1.0)
    # Doubt changes nothing else: the masks are there to be looked at.
    assert not any(f.confident or f.to_dict()["confident"] for f in doubted)
    assert [(f.present, f.area_px, f.score) for f in doubted] == [(f.present, f.area_px, f.score) for f in everything]
