"""What the graphs read for a request."""

from __future__ import annotations

import fakes
import pytest

from mimo_runtime.model.config import MaskDecoderConfig, MimoConfig
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.results.plan import plan_request
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


def test_a_question_about_a_reference_is_read_as_training_asks_it() -> None:
    assert read_by_graphs('"what is this"', boxes=((1, 1, 9, 9),)) == "What is this?"
