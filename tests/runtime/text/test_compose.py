"""Sentences that are composed from masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.text import compose
from mimo_runtime.text.compose import NamedMask
from mimo_runtime.text.grammar import LOCATIONS, SHAPES, SIZES, Description, Phrase, parse, write_phrase
from mimo_runtime.text.observe import NEAR, is_next_to

CT = Description("ct", "abdomen")


def disk(x: float, y: float, radius: float = 8.0, side: int = 96) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def named(name: str, query: int, x: float, y: float, radius: float = 8.0, certain: bool = True, size: str = "") -> NamedMask:
    return NamedMask(name, query, disk(x, y, radius), (x, y), certain, size)


def absent(name: str, query: int) -> NamedMask:
    return NamedMask(name, query, None, (5.0, 5.0))


LIVER, SPLEEN, AORTA = named("liver", 1, 16, 16), named("spleen", 2, 20, 80), named("aorta", 3, 80, 20, 30)


def test_a_named_structure_has_number_size_shape_and_place_of_its_mask():
    assert compose.compose_named([LIVER], CT) == (
        "CT of the abdomen: one small round <p>liver</p><seg1> in the upper left of the image."
    )
    two = NamedMask("cyst", 0, disk(20, 40, 6) | disk(20, 56, 6), (20.0, 48.0))
    assert compose.compose_named([two], Description()).startswith(
        "Image: two small round <p>cysts</p><seg0> in the middle left of"
    )
    assert compose.compose_named([two], CT, "CT: one large <p>cyst</p><seg0>.").startswith("CT of the abdomen: one small ")


def test_parts_of_a_structure_that_a_body_has_once_are_areas_of_it():
    parts = disk(20, 40, 6) | disk(20, 56, 6)
    sentence = compose.compose_named([NamedMask("left kidney", 2, parts, (20.0, 48.0))], CT)
    assert "two small round areas of <p>left kidney</p><seg2> in the middle left" in sentence
    assert parse(sentence).phrases[0] == Phrase("left kidney", 2, "two", "small", "round", "middle left")
    assert "two small round <p>lung nodules</p>" in compose.compose_named([NamedMask("lung nodule", 2, parts, None)], CT)


def test_an_uncertain_structure_is_possibly_there():
    sentence = compose.compose_named([named("polyp", 0, 16, 16, certain=False)], CT)
    assert sentence == "CT of the abdomen: possibly one small round <p>polyp</p><seg0> in the upper left of the image."
    assert parse(sentence).phrases == (Phrase("polyp", 0, "one", "small", "round", "upper left", uncertain=True),)


def test_uncertain_structures_come_last_in_every_list():
    polyp, cyst = named("polyp", 0, 16, 16, certain=False, size="an area of 9 mm²"), named("cyst", 4, 20, 20, certain=False)
    masks = [polyp, LIVER, cyst, absent("spleen", 2), named("aorta", 3, 24, 24, size="an area of 7 mm²")]
    order = [(1, False), (3, False), (0, True), (4, True)]

    def phrases(sentence: str) -> list[tuple[int | None, bool]]:
        return [(phrase.query, phrase.uncertain) for phrase in parse(sentence).phrases]

    sentence = compose.compose_named(masks, CT)
    assert phrases(sentence) == order
    assert sentence.endswith("The aorta has an area of 7 mm². The possible polyp has an area of 9 mm².")
    assert phrases(compose.compose_open(masks, CT)) == order
    present = [mask for mask in masks if mask.mask is not None]
    assert phrases(compose.compose_neighbours(present, "left of", [named("spine", 2, 80, 20)], CT)) == order


def test_what_is_not_present_is_denied_by_its_name_and_nothing_else_is():
    assert compose.compose_named([absent("polyp", 0)], CT) == "CT of the abdomen: no polyp is visible."
    both = compose.compose_named([absent("left kidney", 6), absent("right kidney", 11)], CT)
    assert both == "CT of the abdomen: no left kidney or right kidney is visible."
    mixed = compose.compose_named([LIVER, absent("spleen", 2)], CT)
    assert mixed.endswith("in the upper left of the image. No spleen is visible.")
    assert [p.name for p in parse(mixed).phrases] == ["liver"] and parse(mixed).absent is None


def test_what_cannot_be_excluded_is_not_denied():
    def absent_below(name: str, excluded: bool | None) -> NamedMask:
        return NamedMask(name, 0, None, None, excluded=excluded)

    sentence = compose.compose_named([absent_below("polyp", False)], CT)
    assert sentence == "CT of the abdomen: no polyp is found, but cannot be excluded."
    assert parse(sentence).absent == "polyp" and parse(sentence).phrases == ()
    assert compose.compose_named([absent_below("polyp", True)], CT) == "CT of the abdomen: no polyp is visible."
    both = compose.compose_named([absent_below("liver", True), absent_below("polyp", False), absent_below("cyst", None)], CT)
    assert both == "CT of the abdomen: no liver or cyst is visible. No polyp is found, but cannot be excluded."
    mixed = compose.compose_named([LIVER, absent_below("spleen", False)], CT)
    assert mixed.endswith("in the upper left of the image. No spleen is found, but cannot be excluded.")


def test_a_measured_size_is_a_sentence_of_its_own():
    sentence = compose.compose_named([named("liver", 0, 16, 16, size="an area of 9 mm²", certain=False)], CT)
    assert sentence.endswith("of the image. The possible liver has an area of 9 mm².")


def test_verbs_and_articles_fit_the_number_of_a_name():
    def sentence(*masks: NamedMask) -> str:
        return compose.compose_named(masks, CT).removeprefix("CT of the abdomen: ")

    assert sentence(absent("ventricles", 4)) == "no ventricles are visible."
    assert sentence(absent("ventricles", 4), absent("pancreas", 5)) == "no ventricles or pancreas is visible."
    unsure = sentence(replace(absent("ventricles", 4), excluded=False))
    assert unsure == "no ventricles are found, but cannot be excluded." and parse(unsure).absent == "ventricles"
    assert compose.compose_relations([SPLEEN], [absent("ventricles", 1)], CT).endswith("no ventricles are visible.")
    parts = disk(20, 40, 6) | disk(20, 56, 6)
    for name, said in (
        ("ventricles", "The ventricles have 9 px."),
        ("polyp", "The polyps together have 9 px."),
        ("left kidney", "The left kidney has 9 px."),
        ("pancreas", "The pancreas has 9 px."),
    ):
        assert sentence(NamedMask(name, 0, parts, None, size="9 px")).endswith(said)
    assert sentence(NamedMask("polyp", 0, parts, None, False, "9 px")).endswith("The possible polyps together have 9 px.")


def test_an_open_answer_lists_what_is_present_and_denies_no_structure():
    assert compose.compose_open([LIVER, absent("spleen", 2), AORTA], CT) == (
        "CT of the abdomen: <p>liver</p><seg1> and <p>aorta</p><seg3>."
    )
    nothing = compose.compose_open([], CT)
    assert nothing == "CT of the abdomen: none of the structures that this model knows is visible."
    assert parse(nothing) == CT


def test_relations_follow_the_centres():
    assert compose.compose_relations([SPLEEN], [LIVER], CT) == (
        "CT of the abdomen: <p>spleen</p><seg2> below the <p>liver</p><seg1> in the image."
    )
    two = compose.compose_relations([SPLEEN, AORTA], [LIVER], CT)
    assert two.endswith("<seg1>; <p>aorta</p><seg3> right of the <p>liver</p><seg1> in the image.")
    assert compose.compose_relations([SPLEEN], [absent("liver", 1)], CT) == "CT of the abdomen: no liver is visible."


def test_neighbours_are_those_that_lie_there():
    unsure = named("liver", 1, 16, 16, certain=False)
    nothing = compose.compose_neighbours([], "above", [unsure], CT)
    assert nothing == "CT of the abdomen: no known structure above the possible <p>liver</p><seg1> in the image."
    assert parse(nothing) == Description("ct", "abdomen", relation="above", other=Phrase("liver", 1, uncertain=True))
    cyst = named("cyst", 4, 18, 60)
    said = parse(compose.compose_neighbours([SPLEEN, cyst], "below", [LIVER], CT))
    assert ([p.name for p in said.phrases], said.relation, said.other) == (["spleen", "cyst"], "below", Phrase("liver", 1))


def test_relations_to_several_structures_are_said_of_each():
    both = compose.compose_relations([SPLEEN], [LIVER, AORTA], CT)
    assert both == (
        "CT of the abdomen: <p>spleen</p><seg2> below the <p>liver</p><seg1>; "
        "<p>spleen</p><seg2> below the <p>aorta</p><seg3> in the image."
    )
    below = compose.compose_neighbours([SPLEEN], "left of", [LIVER, AORTA], CT)
    assert below.startswith("CT of the abdomen: no known structure left of the <p>liver</p><seg1>; no known structure left of")


def test_what_is_next_to_a_structure_is_said_with_its_direction():
    near, touching = named("cyst", 4, 34, 16), named("stomach", 5, 16, 30)
    said = compose.compose_neighbours([near, touching], "next to", [LIVER], CT)
    assert said == (
        "CT of the abdomen: <p>cyst</p><seg4> right of the <p>liver</p><seg1>; "
        "<p>stomach</p><seg5> below the <p>liver</p><seg1> in the image."
    )
    assert compose.lies(near, "next to", LIVER) and not compose.lies(SPLEEN, "next to", LIVER)
    nothing = compose.compose_neighbours([], "next to", [LIVER], CT)
    assert nothing == "CT of the abdomen: no known structure next to the <p>liver</p><seg1> in the image."


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_next_to_is_a_small_gap_along_rows_and_columns(seed: int):
    rng = np.random.default_rng(seed)
    a, b = (rng.random((40, 75)) < 0.002 for _ in range(2))
    gap, points = round(NEAR * 75), (np.argwhere(a), np.argwhere(b))
    gaps = np.abs(points[0][:, None] - points[1][None]).max(axis=2) if a.any() and b.any() else np.array([99])
    assert is_next_to(a, b) == is_next_to(b, a) == (gaps.min() <= gap)


@pytest.mark.parametrize(
    ("draft", "regions", "modality", "expected"),
    [
        ("CT of the abdomen: one <p>liver</p><seg0>.", None, None, ("ct", "abdomen")),
        ("CT of the abdomen: no finding.", ("abdomen",), None, ("ct", "abdomen")),
        ("CT of the abdomen: no finding.", ("brain",), None, ("ct", "")),
        ("CT of the abdomen: no finding.", (), None, ("ct", "")),
        ("CT of the abdomen: no finding.", None, "mri", ("mri", "")),
        ("CT of the abdomen: no finding.", None, "ct", ("ct", "abdomen")),
        ("dermoscopy of the skin: no finding.", None, None, ("dermoscopy", "skin")),
        ("xqz of the abdomen: no finding.", None, None, ("", "")),
        ("no head", None, "xray", ("xray", "")),
        ("", None, None, ("", "")),
    ],
)
def test_the_head_is_that_of_the_draft_unless_the_modality_is_known(draft, regions, modality, expected):
    head = compose.head_of(draft, ("dermoscopy",), regions, modality)
    assert (head.modality, head.region) == expected and head == Description(*expected)


def test_both_wordings_of_a_place_are_read():
    phrase = Phrase("polyp", 0, "one", "small", "oval", "upper left")
    for of_image in (True, False):
        assert parse(f"Image: {write_phrase(phrase, of_image=of_image)}.").phrases == (phrase,)


def test_a_refusal_says_nothing_about_the_image():
    assert parse("This model does not know 'fracture'. It knows: liver, no polyp is visible.") == Description()
    said = parse("CT: one <p>liver</p><seg0>. This model does not know '(p)polyp(/p)'.")
    assert said == Description("ct", phrases=(Phrase("liver", 0, "one"),))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(
            named,
            st.sampled_from(("liver", "cell nucleus", "gas in gut", "肝脏")),
            st.integers(0, 40),
            st.floats(10, 86),
            st.floats(10, 86),
            st.floats(2, 9),
            st.booleans(),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_the_sentence_is_read_as_it_was_composed(masks):
    for sentence in (compose.compose_named(masks, CT), compose.compose_open(masks, CT)):
        said = parse(sentence)
        assert (said.modality, said.region) == ("ct", "abdomen")
        expected = [m for m in masks if m.certain] + [m for m in masks if not m.certain]
        assert [(p.name, p.query, p.uncertain) for p in said.phrases] == [(m.name, m.query, not m.certain) for m in expected]
    for phrase in parse(compose.compose_named(masks, CT)).phrases:
        assert phrase.size in SIZES and phrase.shape in SHAPES and phrase.location in LOCATIONS
