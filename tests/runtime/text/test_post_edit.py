"""Words that the masks decide: which are replaced, and which stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import fakes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.text import grammar
from mimo_runtime.text.grammar import LOCATIONS, Description, Phrase, describe
from mimo_runtime.text.post_edit import edit_answer

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


@dataclass(frozen=True)
class Facts:
    """Of a model with a centre for every structure and masks for those that are present."""

    masks: dict[int, np.ndarray] = field(default_factory=lambda: MASKS)
    centres: Callable[[int], tuple[float, float] | None] = centre
    height: int = 96
    width: int = 96
    entity_names: tuple[str, ...] = NAMES

    def mask(self, query: int) -> np.ndarray | None:
        return self.masks.get(query)

    def centre(self, query: int) -> tuple[float, float] | None:
        return self.centres(query)

    def entities(self) -> dict[str, int]:
        return {name: 1 + i for i, name in enumerate(NAMES) if 1 + i in self.masks}


def edited(text: str, question: str = "", masks: dict[int, np.ndarray] = MASKS) -> str:
    return edit_answer(text, question, Facts(masks))


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
    assert edited(said) == expected


def test_a_place_is_known_without_a_mask():
    """Too little is sure for a mask, but where it would be is expected somewhere."""
    text = "CT: one large oval <p>cyst</p><seg7> in the center."
    answer = edit_answer(text, "", Facts({}, lambda query: (5.0, 180.0), 200, 400))
    assert answer == "CT: one large oval <p>cyst</p><seg7> in the lower left."


def test_relations_are_those_of_the_centres_in_pixels():
    text, question = "CT: <p>liver</p><seg1> below the <p>aorta</p><seg3>.", "Where is the liver relative to the aorta?"
    centres = {1: (10.0, 10.0), 3: (40.0, 30.0)}
    facts = Facts(centres=centres.get, height=50, width=400)
    assert edit_answer(text, question, facts).startswith("CT: <p>liver</p><seg1> left of")
    assert edit_answer(text, question, replace(facts, centres={1: (10.0, 10.0)}.get)) == text


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
def test_all_other_words_stay(said: str):
    assert edited(said) == said


def test_shape_stays_the_decoders():
    assert edited("irregular <p>liver</p><seg1> in the center") == "irregular <p>liver</p><seg1> in the upper left"


def test_relations_are_those_of_the_masks():
    ask, wrong = (
        "Where is the spleen relative to the liver?",
        "CT of the abdomen: <p>spleen</p><seg2> above the <p>liver</p><seg1>.",
    )
    assert edited(wrong, ask) == wrong.replace("above", "below")
    # The same sentence as an answer to something else is nobody's relation.
    assert edited("CT: <p>spleen</p><seg2> above the mark.", ask) == "CT: <p>spleen</p><seg2> above the mark."


def test_neighbours_are_all_that_lie_there():
    nothing = "CT of the abdomen: nothing below the <p>liver</p><seg1>."
    spleen = "CT of the abdomen: <p>spleen</p><seg2> below the <p>liver</p><seg1>."
    assert edited(nothing, "What is below the liver?") == spleen
    assert edited(spleen, "Which structures are below the liver?", {1: MASKS[1], 3: MASKS[3]}) == nothing
    # What was asked counts, not what the decoder made of it.
    assert (
        edited(spleen, "What is right of the liver?")
        == "CT of the abdomen: <p>aorta</p><seg3> right of the <p>liver</p><seg1>."
    )
    absent = "CT of the abdomen: no liver is visible."
    for said in (nothing, spleen, absent):
        assert edited(said, "What is below the liver?", {2: MASKS[2]}) == absent
    assert edited(absent, "What is below the liver?") == spleen


def test_nothing_lies_anywhere_to_what_is_not_there():
    """A model expects every structure somewhere, in the image or not: that alone is no place."""
    said = "CT of the abdomen: <p>spleen</p><seg2> above the <p>liver</p><seg1>."
    ask, twisted = "Where is the spleen relative to the liver?", "How does the liver lie relative to the spleen?"
    gone = {name: f"CT of the abdomen: no {name} is visible." for name in NAMES}
    assert edited(said, ask, {1: MASKS[1]}) == edited(gone["spleen"], ask, {1: MASKS[1]}) == gone["spleen"]
    assert edited(said, ask, {2: MASKS[2]}) == edited(said, twisted, {2: MASKS[2]}) == gone["liver"]
    # The decoder spoke of something else, which is there.
    assert edited(said, "Where is the aorta relative to the liver?", {1: MASKS[1], 2: MASKS[2]}) == gone["aorta"]
    # It denied what is there.
    assert edited(gone["spleen"], ask) == said.replace("above", "below")
    # Another word for the spleen, which only the decoder knows.
    assert edited(said, "Where is the milt relative to the liver?", {1: MASKS[1]}) == gone["spleen"]
    assert edited(said, "Where is the milt relative to the liver?") == said.replace("above", "below")
    assert edited("CT: no milt is visible.", "Where is the milt relative to the liver?") == "CT: no milt is visible."


POLYP = "CT: one large oval <p>polyp</p><seg0> in the center."
ABSENT = "CT: no polyp is visible."


@pytest.mark.parametrize("question", ["polyp", "Is there a polyp?", "How many polyps are there?", "the polyp"])
def test_a_sentence_and_the_findings_say_the_same_of_what_was_named(question: str):
    there, nothing = {0: MASKS[1]}, {1: MASKS[1]}
    assert edited(POLYP, question, nothing) == edited(ABSENT, question, nothing) == ABSENT
    assert edited("CT: one <p>polyp</p>.", question, nothing) == ABSENT  # that names no query asserts no less
    small = "CT: one small round <p>polyp</p><seg0> in the middle left."  # where it is expected
    for denied in (ABSENT, "CT: no colon polyp is visible.", "CT: no finding."):
        assert edited(denied, question, there) == small
    assert edited(POLYP, question, there) == small.replace("round", "oval")


@pytest.mark.parametrize(
    ("said", "question"),
    [
        (POLYP, "What do you see?"),  # names nothing
        ("CT: one <p>liver</p><seg1>.", "polyp"),  # speaks of something that is there
        ("CT: no finding.", "polyp"),
        ("CT: hello", "polyp"),
        ("hello", "polyp"),
        ("", "polyp"),
        ("CT: one large", "polyp"),  # cancelled
    ],
)
def test_what_contradicts_nothing_stays_where_the_target_is_absent(said: str, question: str):
    if question == "polyp":
        assert edited(said, question, {1: MASKS[1]}) == said
    else:
        assert edited(said, question, {}).startswith("CT: one large oval <p>polyp</p><seg0>")


phrases = st.builds(
    Phrase,
    st.sampled_from((*NAMES, "cyst", "cell nucleus", "gas in gut")),
    st.sampled_from((None, 0, 1, 2, 3, 12)),
    st.sampled_from(("", "one", "two", "many")),
    st.sampled_from(("", "small", "large")),
    st.sampled_from(("", "oval")),
    st.sampled_from(("", *LOCATIONS)),
)
sentences = (
    st.builds(
        lambda named, other, relation: describe(
            Description("ct", "abdomen", tuple(named), relation=relation, other=other if relation else None)
        ),
        st.lists(phrases, max_size=3),
        phrases,
        st.sampled_from(("", *grammar.RELATIONS)),
    )
    | st.text("onelargsmivp<>/seg0 :.,wfh", max_size=60)
    | st.sampled_from(("CT: no cyst is visible.", "CT: no", "CT: no finding."))
)
questions = st.sampled_from(
    ("", "liver", "cyst", "What do you see?", "Where is the spleen relative to the liver?", "What is below the liver?")
)


@settings(max_examples=200, deadline=None)
@given(sentences, questions, st.sampled_from((MASKS, {1: MASKS[1]}, {0: MASKS[0]}, {})))
def test_editing_twice_changes_nothing(sentence: str, question: str, masks: dict[int, np.ndarray]):
    once = edited(sentence, question, masks)
    assert edited(once, question, masks) == once


def test_an_answer_has_the_edited_text_and_the_draft(mimo, pixels):
    written = fakes.DEFAULT.replace("<seg0>", "<seg>")
    answer = mimo.open(pixels).ask("polyp", boxes=[(60.0, 40.0, 100.0, 60.0)])
    assert answer.generated == answer.to_dict()["generated"] == written
    assert answer.text == answer.to_dict()["text"] == written.replace("in the center", "in the lower right")
    # Without masks the text is the draft.
    assert mimo.open(pixels).ask("polyp", boxes=[(60.0, 40.0, 100.0, 60.0)], masks=False).text == written


def test_answers_invent_nothing_about_what_is_absent(mimo, pixels, monkeypatch):
    """The liver and the aorta are in the image, the spleen and the "absent polyp" are not."""
    asked = "where is the spleen relative to the {}?"
    for other in ("liver", "aorta"):
        query = 1 + fakes.ENTITIES.index(other)
        written = f"CT of the abdomen: <p>spleen</p><seg2> left of the <p>{other}</p><seg{query}>."
        monkeypatch.setitem(fakes.ANSWERS, asked.format(other), written)
        monkeypatch.setitem(fakes.ANSWERS, f"where is the {other} relative to the spleen?", written)
    monkeypatch.setitem(fakes.ANSWERS, "what is below the spleen?", "CT of the abdomen: nothing below the <p>spleen</p><seg2>.")
    scan = mimo.open(pixels)
    questions = (
        asked.format("liver"),
        asked.format("aorta"),
        "where is the liver relative to the spleen?",
        "what is below the spleen?",
    )
    for question in questions:
        answer = scan.ask(question)
        assert answer.text == "CT of the abdomen: no spleen is visible." and answer.findings == (), question
    answer = scan.ask("Is the absent polyp visible?")
    assert answer.text == "Endoscopy of the colon: no absent polyp is visible."
    assert [(f.phrase, f.present, f.mask.any()) for f in answer.findings] == [("absent polyp", False, False)]
    assert "<p>polyp</p>" in answer.generated
    monkeypatch.setitem(fakes.ANSWERS, "where is the polyp?", "Endoscopy of the colon: no polyp is visible.")
    answer = scan.ask("where is the polyp?")
    assert answer.text.startswith("Endoscopy of the colon: one large ") and answer.text.count("<p>polyp</p><seg>") == 1
    assert [(f.phrase, f.present) for f in answer.findings] == [("polyp", True)]


def test_structures_that_are_present_keep_their_relation(pixels, monkeypatch):
    """Also an entity below the threshold for entities that no request names."""
    written = "CT of the abdomen: <p>liver</p><seg1> below the <p>aorta</p><seg3>."
    monkeypatch.setitem(fakes.ANSWERS, "where is the liver relative to the aorta?", written)
    with fakes.fake_mimo(config=replace(fakes.CONFIG, entity_threshold=0.9)) as mimo:  # the liver has 0.88
        answer = mimo.open(pixels).ask("where is the liver relative to the aorta?")
    assert answer.text == "CT of the abdomen: <p>liver</p><seg> above the <p>aorta</p><seg>."
    assert all(f.present for f in answer.findings) and len(answer.findings) == 2


def test_a_failing_mask_decoder_fails_the_answer(mimo, pixels):
    mimo.engines["mask_decoder"].failure = RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"):
        mimo.open(pixels).ask("polyp")
    assert mimo.open(pixels).ask("polyp", masks=False).text
