"""What the graphs read for a request."""

from __future__ import annotations

from dataclasses import replace

import fakes
import pytest

from mimo_runtime.domain.check import DomainCheck
from mimo_runtime.model.config import MaskDecoderConfig, MimoConfig
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.results.plan import plan_request
from mimo_runtime.results.refusals import refusal_of, refusal_sentence
from mimo_runtime.text.intents import Intent, Subject, parse_request
from mimo_runtime.text.questions import QUESTIONS
from mimo_runtime.text.vocabulary import Vocabulary

CONFIG = MimoConfig.from_preset(
    "micro", entities=fakes.ENTITIES, mask_decoder=MaskDecoderConfig(heads=2, queries=len(fakes.ENTITIES) + 1)
)
VOCABULARY = Vocabulary(fakes.ENTITIES)
FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


def read_by_graphs(text: str, boxes: tuple[tuple[float, float, float, float], ...] = ()) -> str:
    return plan_request(Prompt(text, boxes=boxes), CONFIG, VOCABULARY).prompt.text


@pytest.mark.parametrize("kind", ["name", "where", "segment", "presence", "show", "count", "describe"])
def test_case_quotes_and_punctuation_do_not_change_what_the_graphs_read(kind: str) -> None:
    for template in QUESTIONS[kind]:
        text = template.format(name="liver", a="a liver", many="livers")
        written = (text.upper(), f'"{text}"', f"'{text}'", f"`{text}`", f"  {text}!!!", text.translate(FULL_WIDTH), f"«{text}»")
        assert {read_by_graphs(one) for one in written} == {text} == {read_by_graphs(text)}


def test_a_refusal_names_first_what_the_image_seems_to_show():
    marked = tuple(("ct",) if number % 2 else ("mri",) for number in range(len(fakes.ENTITIES)))
    config = replace(CONFIG, modalities=("ct", "mri"), entity_modalities=marked)
    first = {}
    for verdict, seen in (("in", "ct"), ("in", "mri"), ("out", "mri")):
        domain = DomainCheck(verdict, 0.5, seen, False)
        refusal = plan_request(Prompt("fracture"), config, VOCABULARY, domain=domain, any_domain=True).refusal
        assert refusal is not None and sorted(refusal.works) == sorted(fakes.ENTITIES)
        first[verdict, seen] = refusal.works[0]
    assert first == {("in", "ct"): fakes.ENTITIES[1], ("in", "mri"): fakes.ENTITIES[0], ("out", "mri"): fakes.ENTITIES[0]}


def test_an_open_question_without_a_stated_modality_leaves_out_what_the_nearest_modality_never_shows():
    marked = tuple(("ct",) if number % 2 else ("mri",) for number in range(len(fakes.ENTITIES)))
    config = replace(CONFIG, modalities=("ct", "mri"), entity_modalities=marked)
    never = [query for query, of in enumerate(marked, 1) if "ct" not in of]
    name = fakes.ENTITIES[0]

    def excluded(text: str, verdict: str) -> list[int]:
        domain = DomainCheck(verdict, 0.5, "ct", False)
        return list(plan_request(Prompt(text), config, VOCABULARY, domain=domain, any_domain=True).excluded)

    assert excluded("What do you see?", "in") == never
    assert excluded("What do you see?", "out") == excluded("What do you see?", "borderline") == []
    assert excluded(f"What is below the {name}?", "in") == never[1:] and excluded(name, "in") == []


@pytest.mark.parametrize("reason", ["unsupported question", "other language"])
def test_the_questions_of_a_refusal_have_verbs_of_the_number_of_the_name(reason: str):
    for frame in ("where", "presence", "size", "count"):
        intent = Intent("unsupported", (Subject("x", "ventricles"),), frame=frame, reason=reason)
        for example in refusal_of("x", intent, VOCABULARY, ("ventricles",)).works:
            assert " is the " not in example and " a ventricles" not in example
            assert not parse_request(example, Vocabulary(("ventricles",))).unknown


def test_a_refusal_says_what_to_give_and_what_to_ask():
    refusal = plan_request(Prompt("How large is it?"), CONFIG, VOCABULARY).refusal
    assert refusal is not None
    sentence = refusal_sentence(refusal, "How large is it?")
    assert sentence.startswith("This model needs the name of a structure, or a reference, for 'How large is it?'.")
    assert "Give a box, a point or a mask, or ask 'Where is the " in sentence


@pytest.mark.parametrize("text", ["Is this the liver?", "is it a liver", "are these livers?", "Is that structure the liver?"])
def test_a_name_that_a_question_proposes_for_a_reference_is_not_taken_over(text: str):
    pointed = plan_request(Prompt(text, boxes=((1, 1, 9, 9),)), CONFIG, VOCABULARY)
    assert pointed.intent.kind == "describe" and pointed.named_by_draft and pointed.prompt.text == ""
    assert plan_request(Prompt(text), CONFIG, VOCABULARY).named == (("liver", 0),)
    unknown = plan_request(Prompt("Is this a fracture?", boxes=((1, 1, 9, 9),)), CONFIG, VOCABULARY)
    assert unknown.refusal is not None and unknown.named == (("referred region", 0),)


def test_a_reference_has_no_name_that_images_of_the_nearest_modality_never_have():
    marked = tuple(("ct",) if number % 2 else ("mri",) for number in range(len(fakes.ENTITIES)))
    config = replace(CONFIG, modalities=("ct", "mri"), entity_modalities=marked)
    for verdict, phrase in (("in", "referred region"), ("borderline", fakes.ENTITIES[0])):
        domain = DomainCheck(verdict, 0.5, "ct", False)
        plan = plan_request(Prompt(fakes.ENTITIES[0], boxes=((1, 1, 9, 9),)), config, VOCABULARY, domain=domain)
        assert plan.named == ((phrase, 0),)


@pytest.mark.parametrize(
    "text", ["it", "this", "the thing in the box", "Where is it?", "count them", "Is it visible?", "show it", "the left one"]
)
def test_a_pronoun_without_a_reference_is_not_an_open_question(text: str):
    plan = plan_request(Prompt(text), CONFIG, VOCABULARY)
    assert plan.refusal is not None and plan.refusal.reason == "empty subject" and not plan.named
    pointed = plan_request(Prompt(text, boxes=((1, 1, 9, 9),)), CONFIG, VOCABULARY)
    assert pointed.named == (("referred region", 0),)


def test_a_refusal_repeats_nothing_that_steers_other_text():
    text = "\u202e<b>revil\u202c\x07"
    refusal = plan_request(Prompt(text), CONFIG, VOCABULARY).refusal
    assert refusal is not None and refusal_sentence(refusal, text).startswith("This model does not know 'revil'. It knows:")
    assert refusal_sentence(replace(refusal, reason="not understood"), text).startswith(
        "This model does not understand '(b)revil'."
    )


def test_a_question_about_a_reference_is_read_as_training_asks_it() -> None:
    assert read_by_graphs('"what is this"', boxes=((1, 1, 9, 9),)) == "What is this?"
