"""Words that the masks decide: what is replaced, what is left alone, and that streaming changes nothing."""

from __future__ import annotations

import dataclasses

import fakes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.text import grammar
from mimo_runtime.text.grammar import LOCATIONS, Description, Phrase, describe
from mimo_runtime.text.post_edit import AnswerPostEditor, MaskFacts, edit_answer

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
    return edit_answer(text, question, seen(masks))


def seen(masks: dict[int, np.ndarray] = MASKS, **changes: object) -> MaskFacts:
    """Of a model that expects every structure somewhere, and draws those of ``masks``, which are in the image."""
    entities = {name: 1 + i for i, name in enumerate(NAMES) if 1 + i in masks}
    found = MaskFacts(masks.get, centre, lambda: entities, {n: 1 + i for i, n in enumerate(NAMES)}, (96, 96))
    return found._replace(**changes)


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
    answer = edit_answer(text, "", seen({}, centre=lambda query: (5.0, 180.0), size=(200, 400)))
    assert answer == "CT: one large oval <p>cyst</p><seg7> in the lower left."


def test_relations_are_those_of_the_centres_in_pixels():
    text, asked = "CT: <p>liver</p><seg1> below the <p>aorta</p><seg3>.", "Where is the liver relative to the aorta?"
    centres = {1: (10.0, 10.0), 3: (40.0, 30.0)}
    looked = seen(centre=centres.get, size=(50, 400))
    assert edit_answer(text, asked, looked).startswith("CT: <p>liver</p><seg1> left of")
    assert edit_answer(text, asked, looked._replace(centre={1: (10.0, 10.0)}.get)) == text


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
    absent = "CT of the abdomen: no liver is visible."
    for said in (nothing, spleen, absent):
        assert measured(said, "What is below the liver?", {2: MASKS[2]}) == absent
    assert measured(absent, "What is below the liver?") == spleen


def test_nothing_lies_anywhere_to_what_is_not_there():
    """A model expects every structure somewhere, in the image or not: that alone is no place."""
    said = "CT of the abdomen: <p>spleen</p><seg2> above the <p>liver</p><seg1>."
    ask, twisted = "Where is the spleen relative to the liver?", "How does the liver lie relative to the spleen?"
    gone = {name: f"CT of the abdomen: no {name} is visible." for name in NAMES}
    assert measured(said, ask, {1: MASKS[1]}) == measured(gone["spleen"], ask, {1: MASKS[1]}) == gone["spleen"]
    assert measured(said, ask, {2: MASKS[2]}) == measured(said, twisted, {2: MASKS[2]}) == gone["liver"]
    # The decoder spoke of something else, which is there.
    assert measured(said, "Where is the aorta relative to the liver?", {1: MASKS[1], 2: MASKS[2]}) == gone["aorta"]
    # It denied what is there.
    assert measured(gone["spleen"], ask) == said.replace("above", "below")
    # Another word for the spleen, which only the decoder knows.
    assert measured(said, "Where is the milt relative to the liver?", {1: MASKS[1]}) == gone["spleen"]
    assert measured(said, "Where is the milt relative to the liver?") == said.replace("above", "below")
    assert measured("CT: no milt is visible.", "Where is the milt relative to the liver?") == "CT: no milt is visible."


POLYP = "CT: one large oval <p>polyp</p><seg0> in the center."
ABSENT = "CT: no polyp is visible."


@pytest.mark.parametrize("question", ["polyp", "Is there a polyp?", "How many polyps are there?", "the polyp"])
def test_a_sentence_and_the_findings_say_the_same_of_what_was_named(question: str):
    there, nothing = {0: MASKS[1]}, {1: MASKS[1]}
    assert measured(POLYP, question, nothing) == measured(ABSENT, question, nothing) == ABSENT
    assert measured("CT: one <p>polyp</p>.", question, nothing) == ABSENT  # that names no query asserts no less
    small = "CT: one small round <p>polyp</p><seg0> in the middle left."  # where it is expected
    for denied in (ABSENT, "CT: no colon polyp is visible.", "CT: no finding."):
        assert measured(denied, question, there) == small
    assert measured(POLYP, question, there) == small.replace("round", "oval")


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
        assert measured(said, question, {1: MASKS[1]}) == said
    else:
        assert measured(said, question, {}).startswith("CT: one large oval <p>polyp</p><seg0>")


def test_the_masks_are_asked_for_late_and_what_is_denied_waits():
    asked = []

    def mask(query: int) -> np.ndarray | None:
        asked.append(query)
        return MASKS.get(query)

    stream = AnswerPostEditor("polyp", seen(mask=mask))
    assert [stream.feed(p) for p in ("CT", " of", " the", " colon", ":", " ")] == ["CT", " of", " the", " colon", ":", " "]
    assert [stream.feed(p) for p in ("one", " large", " <p>", "polyp", "</p>", "<seg0>", " in the")] == [""] * 7 and not asked
    assert stream.feed(" center,").startswith("one small <p>polyp</p><seg0> in the") and asked
    assert stream.feed(" yes") == " yes"
    asked.clear()
    stream = AnswerPostEditor("polyp", seen(mask=mask))
    assert [stream.feed(p) for p in ("CT: ", "no", " polyp", " is visible.")] == ["CT: ", "", "", ""] and not asked
    assert stream.finish().startswith("two small round <p>polyps</p><seg0> in the") and asked


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
        lambda found, other, relation: describe(
            Description("ct", "abdomen", tuple(found), relation=relation, other=other if relation else None)
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


@settings(max_examples=300, deadline=None)
@given(sentences, questions, st.data())
def test_pieces_add_up_to_the_whole(sentence: str, question: str, data: st.DataObject):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sentence)), max_size=12)))
    masks = data.draw(st.sampled_from((MASKS, {1: MASKS[1]}, {0: MASKS[0]}, {})))
    stream = AnswerPostEditor(question, seen(masks))
    pieces = [stream.feed(sentence[a:b]) for a, b in zip([0, *cuts], [*cuts, len(sentence)])]
    assert "".join(pieces) + stream.finish() == measured(sentence, question, masks)


@settings(max_examples=200, deadline=None)
@given(sentences, questions, st.sampled_from((MASKS, {1: MASKS[1]}, {0: MASKS[0]}, {})))
def test_measuring_twice_changes_nothing(sentence: str, question: str, masks: dict[int, np.ndarray]):
    once = measured(sentence, question, masks)
    assert measured(once, question, masks) == once


def test_words_that_are_no_slots_pass_at_once():
    stream = AnswerPostEditor("", seen())
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
        *pieces, answer = scan.stream(question)
        assert answer.text == "".join(pieces) == "CT of the abdomen: no spleen is visible." and answer.findings == (), question
    *pieces, answer = scan.stream("Is the absent polyp visible?")
    assert answer.text == "".join(pieces) == "Endoscopy of the colon: no absent polyp is visible."
    assert [(f.phrase, f.present, f.mask.any()) for f in answer.findings] == [("absent polyp", False, False)]
    assert "<p>polyp</p>" in answer.generated
    monkeypatch.setitem(fakes.ANSWERS, "where is the polyp?", "Endoscopy of the colon: no polyp is visible.")
    *pieces, answer = scan.stream("where is the polyp?")
    assert answer.text == "".join(pieces)
    assert answer.text.startswith("Endoscopy of the colon: one large ") and answer.text.count("<p>polyp</p><seg>") == 1
    assert [(f.phrase, f.present) for f in answer.findings] == [("polyp", True)]


def test_structures_that_are_there_keep_their_relation(mimo, pixels, monkeypatch):
    """Also one that is too doubtful to be brought up by itself, but not too doubtful for a mask."""
    written = "CT of the abdomen: <p>liver</p><seg1> below the <p>aorta</p><seg3>."
    monkeypatch.setitem(fakes.ANSWERS, "where is the liver relative to the aorta?", written)
    mimo.config = dataclasses.replace(mimo.config, entity_threshold=0.9)  # the liver has 0.88
    answer = mimo.open(pixels).ask("where is the liver relative to the aorta?")
    assert answer.text == "CT of the abdomen: <p>liver</p><seg> above the <p>aorta</p><seg>."
    assert all(f.present for f in answer.findings) and len(answer.findings) == 2


def test_a_failing_mask_decoder_fails_the_answer(mimo, pixels):
    mimo.engines["mask_decoder"].failure = RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"):
        mimo.open(pixels).ask("polyp")
    assert mimo.open(pixels).ask("polyp", masks=False).text
