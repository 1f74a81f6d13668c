"""The grammar leads back to what was said, for any names, and says the right thing about masks."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.text import grammar, observe, questions
from mimo_runtime.text.grammar import COUNTS, LOCATIONS, SHAPES, SIZES, Description, Phrase, describe, parse
from mimo_runtime.text.shape_descriptors import shape_numbers

TRAPS = (
    "liver and spleen", "vertebra, c7", "no x is visible", "the of", "of the", "in the center", "areas of x", "boxes", "axes",
    "buses", "lungs", "es", "ies", "s", "the", "cell nuclei", "one small round", "a: b", "<p>x</p><seg3>", "X-ray", "image",
    "12",
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=10), st.text("abs :of,the<>pseg0.-\n", max_size=16), st.sampled_from(TRAPS))
NAMES = TEXTS.filter(grammar.clean_name)
PHRASES = st.builds(
    Phrase,
    NAMES,
    st.none() | st.integers(0, 127),
    *(st.sampled_from(("", *words)) for words in (COUNTS, SIZES, SHAPES, LOCATIONS)),
)
DESCRIPTIONS = st.one_of(
    st.builds(Description, TEXTS | st.sampled_from(sorted(grammar.MODALITIES)), TEXTS, st.lists(PHRASES, max_size=5)),
    st.builds(Description, TEXTS, TEXTS, st.just(()), NAMES),
    st.builds(Description, TEXTS, TEXTS, st.lists(PHRASES, max_size=3), st.none(), st.sampled_from(grammar.RELATIONS), PHRASES),
)


@settings(max_examples=1000, deadline=None)
@given(DESCRIPTIONS)
def test_parse_leads_back(description: Description) -> None:
    assert parse(describe(description)) == description


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("<p>/seg09 :no isvble.", max_size=60))
def test_parse_never_raises(text: str) -> None:
    parse(text)


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        (
            Description("endoscopy", "colon", (Phrase("polyp", 0, "one", "large", "oval", "upper left"),)),
            "Endoscopy of the colon: one large oval <p>polyp</p><seg0> in the upper left.",
        ),
        (
            Description("microscopy", "cells", (Phrase("cell nucleus", 0, "many", "small", "round", "center"),)),
            "Microscopy of cells: many small round <p>cell nuclei</p><seg0> in the center.",
        ),
        (
            Description("ct", "abdomen", (Phrase("liver", 5), Phrase("spleen", 1), Phrase("aorta", 8))),
            "CT of the abdomen: <p>liver</p><seg5>, <p>spleen</p><seg1> and <p>aorta</p><seg8>.",
        ),
        (
            Description("mri", "brain", (Phrase("posterior hippocampus", 0, "two", "small"),)),
            "MRI of the brain: two small <p>posterior hippocampi</p><seg0>.",
        ),
        (
            Description("xray", "chest", (Phrase("lungs", 0, "two"), Phrase("vertebra, c7", 1, "three"))),
            "X-ray of the chest: two areas of <p>lungs</p><seg0> and three areas of <p>vertebra, c7</p><seg1>.",
        ),
        (Description("ultrasound", "breast", absent="breast lesion"), "Ultrasound of the breast: no breast lesion is visible."),
        (Description("mri", "brain"), "MRI of the brain: no finding."),
        (Description("pet", ""), "pet: no finding."),
    ],
)
def test_sentences_are_written_and_read_back(description: Description, sentence: str) -> None:
    assert describe(description) == sentence
    assert parse(sentence) == description


def test_parse_of_imperfect_answers() -> None:
    said = parse("endoscopy of the colon: one LARGE <p>polyp</p><seg> in the Upper Left. and then")
    assert said == Description("endoscopy", "colon", (Phrase("polyp", None, "one", "large", "", "upper left"),))
    assert parse("<p>liver</p><seg3>, <p>sple") == Description("", "", (Phrase("liver", 3),))
    assert parse("CT of the abdomen: gibberish") == Description("ct", "abdomen")
    assert parse("") == Description()


@pytest.mark.parametrize(
    ("name", "plural"),
    [("cell nucleus", "cell nuclei"), ("anterior hippocampus", "anterior hippocampi"), ("polyp", "polyps"), ("mass", "masses"),
     ("artery", "arteries"), ("vertebra", "vertebrae"), ("metastasis", "metastases"), ("pelvis", "pelvises"),
     # No plural: they are one already, have none, or theirs would be read as that of another name.
     ("lungs", None), ("c7", None), ("axe", None)],
)  # fmt: skip
def test_plurals_are_formed_and_undone(name: str, plural: str | None) -> None:
    assert grammar.pluralise(name) == plural
    if plural:
        assert grammar.singular(plural) == name


def test_wrong_words_are_refused() -> None:
    with pytest.raises(ValueError, match="size 'huge'"):
        Phrase("polyp", size="huge")
    with pytest.raises(ValueError, match="name"):
        Phrase(" . ")
    with pytest.raises(ValueError, match="excludes"):
        Description(phrases=(Phrase("polyp"),), absent="liver")


# -- looking ---------------------------------------------------------------------------------------------------------


def ellipse(height: int, width: int, x: float, y: float, a: float, b: float, angle: float = 0.0) -> np.ndarray:
    ys, xs = np.mgrid[:height, :width] + 0.5
    u = (xs - x) * np.cos(angle) + (ys - y) * np.sin(angle)
    v = -(xs - x) * np.sin(angle) + (ys - y) * np.cos(angle)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.2])
@pytest.mark.parametrize("scale", [5, 12, 40])
@pytest.mark.parametrize(("ratio", "word"), [(1.0, "round"), (0.62, "oval"), (0.3, "elongated")])
def test_shapes_at_any_angle_and_size(angle: float, scale: float, ratio: float, word: str) -> None:
    mask = ellipse(128, 128, 64, 64, scale, scale * ratio, angle)
    assert observe.shape_word(mask) == word
    assert shape_numbers(mask)[1] == pytest.approx(ratio, abs=0.1)


def test_rings_and_crosses_are_irregular() -> None:
    ring = ellipse(100, 100, 50, 50, 40, 40) & ~ellipse(100, 100, 50, 50, 25, 25)
    cross = np.zeros((100, 100), bool)
    cross[45:55, 10:90] = cross[10:90, 45:55] = True
    assert observe.shape_word(ring) == observe.shape_word(cross) == "irregular"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2**16 - 1))
def test_solidity_counts_the_pixels_of_the_hull(bits: int) -> None:
    """By Caratheodory's theorem a pixel is in the hull if it is in a triangle of the mask's pixels."""
    mask = np.array([bits >> i & 1 for i in range(16)], bool).reshape(4, 4)
    points = [tuple(p) for p in np.argwhere(mask)]

    def inside(p: tuple, corners: tuple) -> bool:
        if any(not min(c[k] for c in corners) <= p[k] <= max(c[k] for c in corners) for k in (0, 1)):
            return False
        turns = [
            (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) for a, b in zip(corners, (*corners[1:], corners[0]))
        ]
        return all(t >= 0 for t in turns) or all(t <= 0 for t in turns)

    corner_sets = list(combinations(points, min(3, len(points))))
    hull = sum(any(inside((y, x), c) for c in corner_sets) for y in range(4) for x in range(4))
    assert shape_numbers(mask)[2] == pytest.approx(mask.sum() / hull)


@pytest.mark.parametrize("index", range(9))
def test_masks_in_each_ninth_have_its_word(index: int) -> None:
    row, column = divmod(index, 3)
    mask = ellipse(90, 150, 25 + 50 * column, 15 + 30 * row, 8, 8)
    assert observe.observe_phrase(mask, "x").location == LOCATIONS[index]
    assert "upper left" in LOCATIONS[0] and "lower" in LOCATIONS[7] and "right" in LOCATIONS[5]


@pytest.mark.parametrize(
    ("fraction", "word"), [(0.001, "small"), (0.0299, "small"), (0.03, "medium"), (0.149, "medium"), (0.15, "large")]
)
def test_the_share_of_the_image_gives_the_size_word(fraction: float, word: str) -> None:
    assert observe.size_word(fraction) == word
    mask = np.zeros((100, 100), bool)
    mask.reshape(-1)[: round(fraction * 10000)] = True
    assert observe.observe_phrase(mask, "x").size == word


def test_numbers_of_objects_become_words() -> None:
    words = [observe.count_word(n) for n in (1, 2, 5, 6, 9, 10, 500)]
    assert words == ["one", "two", "five", "several", "several", "many", "many"]
    mask = np.zeros((100, 100), bool)
    for i in range(7):
        mask |= ellipse(100, 100, 10 + 12 * i, 50, 4, 4)
    mask[0, 0] = True  # a crumb
    phrase = observe.observe_phrase(mask, "cell nucleus")
    assert (phrase.count, phrase.size, phrase.shape) == ("several", "small", "round")
    assert observe.observe_phrase(mask, "cell nucleus", count=12).count == "many"
    assert observe.observe_phrase(mask, "cell nucleus", count=1).count == "one"


def test_touching_nuclei_are_counted_one_by_one() -> None:
    mask = np.zeros((100, 200), bool)
    for i in range(8):
        mask |= ellipse(100, 200, 12 + 24 * i, 30, 9, 9)
    mask |= ellipse(100, 200, 12, 48, 9, 9) | ellipse(100, 200, 36, 48, 9, 9)  # below two of the eight, and touching them
    assert observe.observe_phrase(mask, "cell nucleus").count == "many"


def test_size_is_that_of_one_instance() -> None:
    mask = np.zeros((100, 100), bool)
    for y, x in ((0, 0), (40, 0), (80, 0), (0, 40), (40, 40)):  # 5 times 4 %
        mask[y : y + 20, x : x + 20] = True
    assert observe.observe_phrase(mask, "x").size == "medium"
    assert observe.observe_phrase(mask, "x", count=1).size == "large"


def test_shape_is_that_of_the_median_instance() -> None:
    mask = np.zeros((100, 100), bool)
    for i in range(4):
        mask |= ellipse(100, 100, 10 + 20 * i, 20, 6, 6)
    mask[80:84] = True  # one long bar, larger than any of the disks
    assert observe.observe_phrase(mask, "x").shape == "round"
    mask[:50, :65] = False  # the bar and one disk: of two, the larger
    assert observe.observe_phrase(mask, "x").shape == "elongated"


def test_empty_masks_are_absent() -> None:
    empty = np.zeros((10, 10), bool)
    assert observe.observe(empty, "polyp", "endoscopy", "colon") == Description("endoscopy", "colon", absent="polyp")
    assert observe.observe_phrase(empty, "polyp") is None


def test_observe_is_said_and_read() -> None:
    mask = ellipse(100, 100, 20, 20, 15, 9)
    seen = observe.observe(mask, "polyp", "endoscopy", "colon", query=3)
    assert describe(seen) == "Endoscopy of the colon: one medium oval <p>polyp</p><seg3> in the upper left."
    assert parse(describe(seen)) == seen


# -- asking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["polyp", "aorta", "portal and splenic vein", "vertebra, c7", "cell nucleus"])
@pytest.mark.parametrize("kind", questions.QUESTIONS)
def test_subject_of_every_question(kind: str, name: str) -> None:
    for seed in range(12):
        asked = questions.question(kind, name, np.random.default_rng(seed), other="liver", relation="left of")
        assert questions.subject_of(asked) == (None if kind in ("what", "describe", *questions.SEVERAL) else name), asked
        assert questions.subject_of(asked.upper()) in (None, name.upper())


def test_questions_as_people_type_them() -> None:
    assert questions.question("presence", "aorta") == "Is there an aorta?"
    assert questions.question("name", "polyp") == "polyp"
    assert questions.subject_of("  where is  the left kidney ") == "left kidney"
    assert questions.subject_of("segment polyp") == "polyp"
    assert questions.subject_of("the polyp") == "polyp"
    assert questions.subject_of("") is questions.subject_of(" ?") is questions.subject_of("what do you see") is None
    assert questions.question("count", "cell nucleus") == "How many cell nuclei are there?"
    assert questions.question("relation", "spleen", other="liver") == "Where is the spleen relative to the liver?"
    assert questions.question("neighbours", other="liver", relation="below") == "What is below the liver?"
    assert questions.subject_of("count the polyps") == "polyp"
    for kind, missing in (("where", "a name"), ("relation", "a name"), ("neighbours", "other")):
        with pytest.raises(ValueError, match=f"needs {missing}"):
            questions.question(kind)


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [((2, 5), (12, 6), "above"), ((12, 6), (2, 5), "below"), ((5, 1), (6, 14), "left of"), ((6, 14), (5, 1), "right of")],
)
def test_relations_follow_the_longer_axis(a: tuple[int, int], b: tuple[int, int], word: str) -> None:
    masks = np.zeros((2, 20, 20), bool)
    masks[0][a], masks[1][b] = True, True
    assert observe.relation_word(masks[0], masks[1]) == word


def test_corpus_holds_the_vocabulary() -> None:
    entities = ["polyp", "cell nucleus", "left kidney"]
    texts = questions.corpus(entities, ["ct", "mri"], ["abdomen", "cells"])
    joined = "\n".join(texts)
    for words in (COUNTS, SIZES, SHAPES, LOCATIONS, entities, ("CT", "MRI", "cell nuclei", "no finding", "is visible")):
        assert all(word in joined for word in words)
    assert questions.question("where", "polyp") in texts
    assert texts == questions.corpus(entities, ["ct", "mri"], ["abdomen", "cells"])
