from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_runtime.text.markup import ground, parse_grounded, strip_markup, strip_query_ids


def test_phrases_and_queries_in_order():
    text = "CT: <p>liver</p><seg5>, <p>spleen</p><seg1> and <p> left  kidney </p> <seg12>."
    assert parse_grounded(text) == [("liver", 5), ("spleen", 1), ("left kidney", 12)]


def test_one_phrase_with_several_queries():
    assert parse_grounded("<p>nodules</p><seg3><seg4>") == [("nodules", 3), ("nodules", 4)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<seg2>", [("", 2)]),
        ("<p>liver</p>", []),
        ("<p>liver <p>spleen</p><seg1>", [("spleen", 1)]),
        ("liver</p><seg1>", [("", 1)]),
        ("<p></p><seg0>", [("", 0)]),
        ("<p>a\nb</p><seg0>", [("a b", 0)]),
        ("<seg> <segx> <seg-1>", []),
        ("", []),
    ],
)
def test_malformed_markup_gives_what_can_be_read(text, expected):
    assert parse_grounded(text) == expected


def test_plain_and_public():
    text = "CT: <p>liver</p><seg5> and <p>aorta</p><seg12>."
    assert strip_markup(text) == "CT: liver and aorta."
    assert strip_query_ids(text) == "CT: <p>liver</p><seg> and <p>aorta</p><seg>."
    assert strip_markup(strip_query_ids(text)) == strip_markup(text)


@given(st.lists(st.tuples(st.text(st.characters(categories=["L", "N"]), min_size=1), st.integers(0, 127)), max_size=5))
def test_what_is_grounded_is_parsed_back(pairs):
    assert parse_grounded(", ".join(ground(phrase, query) for phrase, query in pairs)) == pairs


@given(st.text("<>/pseg0 a", max_size=40))
def test_never_raises_and_plain_leaves_no_complete_tag(text):
    parse_grounded(text)
    strip_query_ids(text)
    assert strip_markup("no tags here") == "no tags here"
