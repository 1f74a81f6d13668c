"""Words that the masks decide: what is replaced, what is left alone, and that streaming changes nothing."""

from __future__ import annotations

import fakes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.evaluation import grammar
from mimo_runtime.evaluation.grammar import LOCATIONS, Description, Phrase, describe
from mimo_runtime.measured import Measured, Seen, measure_answer

NAMES = ("liver", "spleen", "aorta")


def disk(x: float, y: float, radius: float = 8.0, side: int = 96) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


#: By query: 0 two small disks, middle left; 1 the liver, upper left; 2 the spleen, below it; 3 the aorta, right of it.
MASKS = {0: disk(20, 40, 6) | disk(20, 56, 6), 1: disk(16, 16), 2: disk(20, 80), 3: disk(80, 20, 30)}


def centre(query: int, masks: dict[int, np.ndarray] = MASKS) -> tuple[float, float] | None:
    if query not in masks:
        return None
    rows, columns = np.nonzero(masks[query])
    return columns.mean() + 0.5, rows.mean() + 0.5


def measured(text: str, question: str = "", masks: dict[int, np.ndarray] = MASKS) -> str:
    entities = {name: 1 + i for i, name in enumerate(NAMES) if 1 + i in masks}
    return measure_answer(text, question, Seen(masks.get, lambda query: centre(query, masks), lambda: entities, (96, 96)))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("CT: one large oval <p>cyst</p><seg0> in the center.", "CT: one small oval <p>cyst</p><seg0> in the middle left."),
        ("CT: many <p>cysts</p><seg0>.", "CT: two <p>cysts</p><seg0>."),
        ("CT: two <p>livers</p><seg1>.", "CT: one <p>liver</p><seg1>."),
        ("<p>liver</p><seg1> in the lower right", "<p>liver</p><seg1> in the upper left"),
        ("small <p>liver</p><seg1> and large <p>aorta</p><seg3>", "small <p>liver</p><seg1> and large <p>aorta</p><seg3>"),
        ("large <p>liver</p><seg1>, small <p>aorta</p><seg3>", "small <p>liver</p><seg1>, large <p>aorta</p><seg3>"),
        ("CT: two areas of <p>gas in gut</p><seg1>.", "CT: one <p>gas in gut</p><seg1>."),
    ],
)
def test_number_size_and_place_are_those_of_the_mask(said: str, expected: str):
    assert measured(said) == expected


def test_a_place_is_known_without_a_mask():
    """Too little is sure for a mask, but where it would be is expected somewhere."""
    text = "CT: one large oval <p>cyst</p><seg7> in the center."
    answer = measure_answer(text, "", Seen({}.get, lambda query: (5.0, 180.0), dict, (200, 400)))
    assert answer == "CT: one large oval <p>cyst</p><seg7> in the lower left."


def test_relations_are_those_of_the_centres_in_pixels():
    text, asked = "CT: <p>liver</p><seg1> below the <p>aorta</p><seg3>.", "Where is the liver relative to the aorta?"
    centres = {1: (10.0, 10.0), 3: (40.0, 30.0)}
    seen = Seen({}.get, centres.get, dict, (50, 400))
    assert measure_answer(text, asked, seen).startswith("CT: <p>liver</p><seg1> left of")
    assert measure_answer(text, asked, seen._replace(centre={1: (10.0, 10.0)}.get)) == text


@pytest.mark.parametrize(
    "said",
    [
        "",
        "héllo 😀 wörld",
        "one large in the center, says nobody",
        "CT of the abdomen: no polyp is visible.",
        "CT: one large round <p>cyst</p> in the center.",  # names no mask
        "CT: one large round <p>cyst</p><seg7> in the center.",  # nothing is drawn there
        "CT: <p>liver</p><seg1> and <p>spleen</p><seg2>.",  # says nothing that a mask decides
        "CT: <p></p><seg1> in the center <p>broken <seg1> </p>",
        "two small oval <p>cysts</p><seg0> in the middle left",
    ],
)
def test_everything_else_is_left_alone(said: str):
    assert measured(said) == said


def test_shape_stays_the_decoders():
    assert measured("irregular <p>liver</p><seg1> in the center") == "irregular <p>liver</p><seg1> in the upper left"


def test_relations_are_those_of_the_masks():
    ask, wrong = (
        "Where is the spleen relative to the liver?",
        "CT of the abdomen: <p>spleen</p><seg2> above the <p>liver</p><seg1>.",
    )
    assert measured(wrong, ask) == wrong.replace("above", "below")
    assert measured(wrong, ask, {1: MASKS[1]}) == wrong  # the spleen is not drawn
    # The same sentence as an answer to something else is nobody's relation.
    assert measured("CT: <p>spleen</p><seg2> above the mark.", ask) == "CT: <p>spleen</p><seg2> above the mark."


def test_neighbours_are_all_that_lie_there():
    nothing = "CT of the abdomen: nothing below the <p>liver</p><seg1>."
    spleen = "CT of the abdomen: <p>spleen</p><seg2> below the <p>liver</p><seg1>."
    assert measured(nothing, "What is below the liver?") == spleen
    assert measured(spleen, "Which structures are below the liver?", {1: MASKS[1], 3: MASKS[3]}) == nothing
    # What was asked counts, not what the decoder made of it.
    assert (
        measured(spleen, "What is right of the liver?")
        == "CT of the abdomen: <p>aorta</p><seg3> right of the <p>liver</p><seg1>."
    )
    assert measured(nothing, "What is below the liver?", {2: MASKS[2]}) == nothing  # the liver is not drawn
    absent = "CT of the abdomen: no liver is visible."
    assert measured(absent, "What is below the liver?", {}) == absent


phrases = st.builds(
    Phrase,
    st.sampled_from((*NAMES, "cyst", "cell nucleus", "gas in gut")),
    st.sampled_from((None, 0, 1, 2, 3, 12)),
    st.sampled_from(("", "one", "two", "many")),
    st.sampled_from(("", "small", "large")),
    st.sampled_from(("", "oval")),
    st.sampled_from(("", *LOCATIONS)),
)
sentences = st.builds(
    lambda found, other, relation: describe(
        Description("ct", "abdomen", tuple(found), relation=relation, other=other if relation else None)
    ),
    st.lists(phrases, max_size=3),
    phrases,
    st.sampled_from(("", *grammar.RELATIONS)),
) | st.text("onelargsmivp<>/seg0 :.,wfh", max_size=60)
questions = st.sampled_from(
    ("", "liver", "What do you see?", "Where is the spleen relative to the liver?", "What is below the liver?")
)


@settings(max_examples=300, deadline=None)
@given(sentences, questions, st.data())
def test_pieces_add_up_to_the_whole(sentence: str, question: str, data: st.DataObject):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sentence)), max_size=12)))
    stream = Measured(question, Seen(MASKS.get, centre, lambda: {"liver": 1, "spleen": 2, "aorta": 3}, (96, 96)))
    pieces = [stream.feed(sentence[a:b]) for a, b in zip([0, *cuts], [*cuts, len(sentence)])]
    assert "".join(pieces) + stream.finish() == measured(sentence, question)


@settings(max_examples=200, deadline=None)
@given(sentences, questions)
def test_measuring_twice_changes_nothing(sentence: str, question: str):
    once = measured(sentence, question)
    assert measured(once, question) == once


def test_words_that_are_no_slots_pass_at_once():
    stream = Measured("", Seen(MASKS.get, centre, dict, (96, 96)))
    assert [stream.feed(piece) for piece in ("CT", " of", " the", " abdomen", ":", " ")] == [
        "CT",
        " of",
        " the",
        " abdomen",
        ":",
        " ",
    ]
    assert [stream.feed(piece) for piece in ("one", " large", " <p>", "liver</p>", "<seg1>", " in the")] == [""] * 6
    assert stream.feed(" center.") == "one small <p>liver</p><seg1> in the upper left."


def test_the_answer_is_measured_and_keeps_what_was_written(mimo, pixels):
    written = fakes.DEFAULT.replace("<seg0>", "<seg>")
    answer = mimo.open(pixels).ask("polyp", boxes=[(60.0, 40.0, 100.0, 60.0)])
    assert answer.generated == answer.to_dict()["generated"] == written
    assert answer.text == answer.to_dict()["text"] == written.replace("in the center", "in the lower right")
    # Without masks nothing is there to measure.
    assert mimo.open(pixels).ask("polyp", boxes=[(60.0, 40.0, 100.0, 60.0)], masks=False).text == written


def test_a_failing_mask_decoder_fails_the_answer(mimo, pixels):
    mimo.engines["mask_decoder"].failure = RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"):
        mimo.open(pixels).ask("polyp")
    assert mimo.open(pixels).ask("polyp", masks=False).text
