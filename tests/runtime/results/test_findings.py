from __future__ import annotations

import fakes
import numpy as np
import pytest
from fakes import BOX

from mimo_runtime.model.config import MimoConfig
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.results.findings import choose_queries


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


def test_presence_head_decides_over_the_text(mimo, pixels):
    spleen, asked = mimo.open(pixels).ask("the spleen").findings
    assert (spleen.phrase, spleen.query, spleen.present, spleen.mask.any()) == ("spleen", 2, False, False)
    assert (asked.query, asked.present) == (0, True)


def test_reference_without_a_name(mimo, pixels):
    (finding,) = mimo.open(pixels).ask(boxes=[BOX], text_answer=False).findings
    assert finding.phrase == "referred region"


def test_a_query_named_twice_is_one_finding(mimo, pixels):
    assert [f.query for f in mimo.open(pixels).ask("twice").findings] == [0, 31]


def test_an_empty_mask_is_not_present(mimo, pixels):
    engine = mimo.engines["mask_decoder"]
    inner = engine._mask_decoder
    engine._mask_decoder = lambda x: {**inner(x), "masks": np.full((1, 32, 32, 32), -8, np.float32)}
    (finding,) = mimo.open(pixels).ask(boxes=[BOX], text_answer=False).findings
    assert not finding.present and finding.presence > 0.9 and finding.box is None and not finding.mask.any()


PRESENCE = np.full(32, 0.1)
PRESENCE[[0, 2]] = 0.9


@pytest.mark.parametrize(
    ("markup", "prompt", "expected"),
    [
        ("<p>polyp</p><seg0>", Prompt("polyp"), [("polyp", 0)]),
        ("<seg0>", Prompt("Where is the polyp?"), [("polyp", 0)]),
        ("<seg2>", Prompt("What do you see?"), [("spleen", 2)]),
        ("nothing", Prompt("What do you see?"), []),
        ("<p>spleen</p><seg2>", Prompt("polyp"), [("spleen", 2), ("polyp", 0)]),
        ("<p>x</p><seg99>", Prompt("polyp"), [("polyp", 0)]),
        ("nothing", Prompt("", [BOX]), [("referred region", 0)]),
        (None, Prompt("the polyp"), [("polyp", 0)]),
        (None, Prompt("What is this?", [BOX]), [("referred region", 0)]),
        (None, Prompt("What do you see?"), [("spleen", 2)]),
    ],
)
def test_choice_of_queries(markup, prompt, expected):
    assert choose_queries(markup, prompt, PRESENCE, fakes.CONFIG) == expected


def test_asked_by_name_and_absent_is_added_only_where_nothing_else_answers():
    presence = np.where(np.arange(32) == 2, 0.9, 0.1)
    spleen, aorta = "<p>spleen</p><seg2>", "<p>aorta</p><seg3>"
    assert choose_queries(spleen, Prompt("polyp"), presence, fakes.CONFIG) == [("spleen", 2)]
    assert choose_queries(aorta, Prompt("polyp"), presence, fakes.CONFIG) == [("aorta", 3), ("polyp", 0)]


def test_what_was_pointed_at_always_has_a_finding():
    presence = np.where(np.arange(32) == 2, 0.9, 0.1)
    chosen = choose_queries("<p>spleen</p><seg2>", Prompt("", [BOX]), presence, fakes.CONFIG)
    assert chosen == [("spleen", 2), ("referred region", 0)]


def test_presence_temperature_and_threshold_are_those_of_the_model(pixels):
    config = MimoConfig.from_preset("micro", entities=fakes.ENTITIES, presence_temperature=3.0, presence_threshold=0.8)
    with fakes.fake_mimo(config=config) as mimo:
        (finding,) = mimo.open(pixels).ask("polyp", text_answer=False).findings
    assert finding.presence == pytest.approx(1 / (1 + np.exp(-1)))
    assert not finding.present


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
