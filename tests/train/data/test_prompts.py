"""Sampled prompts: question, reference and answer agree with the masks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from views import VOCABULARY, fits, record, two_organs

from mimo_runtime.text.grammar import parse
from mimo_runtime.text.intents import parse_request
from mimo_runtime.text.observe import relation_word
from mimo_runtime.text.questions import subject_of
from mimo_runtime.text.vocabulary import Vocabulary
from mimo_train.data.augment import View, random_view
from mimo_train.data.prompts import PromptSampler


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_prompt_agrees_with_its_answer(seed):
    view, rec = two_organs(), record()
    for sample in PromptSampler(VOCABULARY, fits).draw(view, rec, 4, np.random.default_rng(seed)):
        stated = parse(sample.answer)
        assert stated.modality == "ct" and stated.region == "abdomen"
        if sample.several and stated.relation:
            # The liver lies up and to the left of the spleen, farther up than to the left or the other way round.
            lower = relation_word(view.labels == 2, view.labels == 1)
            upper = relation_word(view.labels == 1, view.labels == 2)
            true = {("liver", upper, "spleen"), ("spleen", lower, "liver")}
            assert {(p.name, stated.relation, stated.other.name) for p in stated.phrases} <= true
            if not stated.phrases:
                assert (
                    {"liver": "spleen", "spleen": "liver"}[stated.other.name],
                    stated.relation,
                    stated.other.name,
                ) not in true
            assert {p.query for p in (*stated.phrases, stated.other)} <= {1, 2} and subject_of(sample.text) is None
        elif sample.several and stated.absent:
            assert stated.absent == "kidney cyst" and stated.absent in sample.text and sample.mask is None
        elif sample.several:
            assert {p.query for p in stated.phrases} == {1, 2} and sample.mask is None
        elif sample.mask is None:
            assert stated.absent in ("kidney cyst", "polyp") and sample.text_names
        else:
            phrase = stated.phrases[0]
            assert phrase.query == 0 and (view.labels[sample.mask] == {"liver": 1, "spleen": 2}[phrase.name]).all()
            if phrase.name in sample.text:
                assert sample.text_names
            ys, xs = np.nonzero(sample.mask)
            for x0, y0, x1, y1 in sample.boxes:
                inside = np.mean((xs >= x0 - 1) & (xs < x1 + 1) & (ys >= y0 - 1) & (ys < y1 + 1))
                assert inside > 0.5
            for x, y, label in sample.points:
                assert sample.mask[int(y), int(x)] == bool(label)
            if sample.rough is not None:
                assert sample.rough.shape == (view.height, view.width)


def test_an_image_without_findings_gets_prompts_for_absent_targets_only():
    empty = View(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.int32), 64, 64)
    for seed in range(20):
        for sample in PromptSampler(VOCABULARY, fits).draw(empty, record(classes={}), 4, np.random.default_rng(seed)):
            assert sample.mask is None and not parse(sample.answer).phrases


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_every_number_of_prompts_serves_every_kind(count):
    """The shares of the kinds do not depend on the number of prompts per view."""
    sampler, counts, total = PromptSampler(VOCABULARY, fits), Counter(), 0
    for seed in range(max(200, 800 // count)):
        drawn = sampler.draw(two_organs(), record(), count, np.random.default_rng(seed))
        total += len(drawn)
        for s in drawn:
            kind = "box" if s.boxes and not s.points else "mixed" if s.boxes else "point" if s.points else "rough"
            has_reference = s.boxes or s.points or s.rough is not None
            counts[kind if has_reference else "several" if s.several else "absent" if s.mask is None else "text"] += 1
    shares = {kind: number / total for kind, number in counts.items()}
    expected = {"point": 0.125, "rough": 0.0875, "mixed": 0.0375, "text": 0.25, "box": 0.25, "absent": 0.1, "several": 0.15}
    assert shares.keys() == expected.keys()
    assert all(abs(shares[kind] - share) < 0.05 for kind, share in expected.items()), shares


def test_relations_to_absent_structures_answer_that_they_are_absent():
    """Otherwise the model learns that every structure named in such a question is present."""
    view, sampler, classes = two_organs(), PromptSampler(VOCABULARY, fits), {1: "liver", 2: "spleen"}
    drawn = [sampler._relation(view, record(), classes, np.random.default_rng(seed)) for seed in range(200)]
    absent = [s for s in drawn if parse(s.answer).absent]
    names = Vocabulary(("liver", "spleen", "kidney cyst"))
    assert 20 < len(absent) < 60
    for s in absent:
        assert parse(s.answer).absent == "kidney cyst" and "kidney cyst" in s.text and not parse(s.answer).phrases
        assert s.several and s.mask is None
        intent = parse_request(s.text, names)
        assert intent.kind == "relation" or intent.kind == "neighbours" and [s.text for s in intent.others] == ["kidney cyst"]
    assert not any("kidney cyst" in s.text for s in drawn if s not in absent)


def test_own_synonyms_are_sampled_for_their_class():
    sampler = PromptSampler(VOCABULARY, fits, synonyms={"liver": ("jecur",)})
    texts = [sampler._ask("liver", np.random.default_rng(seed)) for seed in range(300)]
    assert sum("jecur" in text for text in texts) > 5
    assert not any("jecur" in sampler._ask("spleen", np.random.default_rng(seed)) for seed in range(100))


def test_touching_instances_are_separated_by_their_map():
    """Two polyps that touch are one component; the instance map says that they are two, through every warp."""
    labels, parts = np.zeros((90, 120), np.int32), np.zeros((90, 120), np.int32)
    labels[20:60, 20:100] = 1
    parts[20:60, 20:60], parts[20:60, 60:100] = 7, 300
    rec = record(region="colon", classes={1: "polyp"})
    for seed in range(12):
        view = random_view(np.zeros((90, 120, 3), np.uint8), labels, rec, 128, np.random.default_rng(seed), parts)
        assert set(np.unique(view.instances)) <= {0, 7, 300} and not (view.instances[view.labels == 0]).any()
        mask, count = PromptSampler._target(view, 1, np.random.default_rng(seed), 1.0)
        if len(np.unique(view.instances)) == 3:
            assert count == 1 and len(np.unique(view.instances[mask])) == 1
        whole, number = PromptSampler._target(view, 1, np.random.default_rng(seed), 0.0)
        assert number == len(np.unique(view.instances)) - 1 and np.array_equal(whole, view.labels == 1)


def test_sentences_count_instances_by_their_map():
    view, rec = two_organs(), record(classes={1: "liver"})
    view.labels[view.labels == 2] = 0
    view.instances = np.zeros_like(view.labels)
    view.instances[10:60, 10:30], view.instances[10:60, 30:50] = 1, 2  # touching: one component
    for kind in ("_text", "_all"):
        sample = getattr(PromptSampler(VOCABULARY, fits), kind)(view, rec, {1: "liver"}, np.random.default_rng(0))
        assert parse(sample.answer).phrases[0].count == "two"


def test_a_structure_too_small_to_name_is_not_called_absent():
    """Eleven pixels of spleen: the answers contain neither "no finding" nor a list without it."""
    for with_liver in (True, False):
        view = two_organs()
        view.labels[view.labels == 2] = 0
        view.labels[80, 60:71] = 2
        if not with_liver:
            view.labels[view.labels == 1] = 0
        for seed in range(40):
            for sample in PromptSampler(VOCABULARY, fits).draw(view, record(), 4, np.random.default_rng(seed)):
                assert not sample.several


def test_questions_that_are_too_long_are_not_sampled():
    short = lambda text: len(text) <= len("kidney cyst")  # noqa: E731
    for seed in range(60):
        for sample in PromptSampler(VOCABULARY, short).draw(two_organs(), record(), 4, np.random.default_rng(seed)):
            assert not parse(sample.answer).relation
            assert not sample.text_names or short(sample.text)


def test_classes_with_several_instances_are_referred_to_more_often():
    labels = np.zeros((64, 64), np.int32)
    labels[4:14, 4:14] = labels[40:50, 40:50] = 1
    labels[4:14, 40:50] = 2
    view = View(np.zeros((64, 64, 3), np.uint8), labels, 64, 64)
    classes, rng = {1: "polyp", 2: "ulcer"}, np.random.default_rng(0)
    picked = [PromptSampler._pick_one(view, classes, rng)[0] for _ in range(400)]
    assert 0.68 < np.mean(np.array(picked) == 1) < 0.82  # half of the draws select it, the others take one of two


def test_references_raises_the_share_of_prompts_with_a_reference():
    """Half of the prompts have a reference; ``references`` converts that share of the others."""

    def share(references: float) -> float:
        sampler, drawn = PromptSampler(VOCABULARY, fits, references), []
        for seed in range(100):
            drawn += sampler.draw(two_organs(), record(), 4, np.random.default_rng(seed))
        return float(np.mean([bool(s.boxes or s.points or s.rough is not None) for s in drawn]))

    assert share(0.0) == pytest.approx(0.5, abs=0.02)
    assert share(0.6) == pytest.approx(0.8, abs=0.04)
    assert share(1.0) == 1.0
    empty = View(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.int32), 64, 64)
    for sample in PromptSampler(VOCABULARY, fits, 1.0).draw(empty, record(classes={}), 4, np.random.default_rng(0)):
        assert sample.mask is None and not (sample.boxes or sample.points)
