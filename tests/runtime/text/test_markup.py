from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from mimo_runtime.text.markup import strip_markup, strip_query_ids


def test_markup_is_stripped_whole_or_to_its_query_numbers():
    text = "CT: <p>liver</p><seg5> and <p>aorta</p><seg12>."
    assert strip_markup(text) == "CT: liver and aorta."
    assert strip_query_ids(text) == "CT: <p>liver</p><seg> and <p>aorta</p><seg>."
    assert strip_markup(strip_query_ids(text)) == strip_markup(text)


@given(st.text("<>/pseg0 a", max_size=40))
def test_no_complete_tag_is_left_in_a_sentence_and_no_query_in_an_answer(text):
    assert not re.search(r"<seg\d+>", strip_query_ids(text))
    assert strip_markup(text) == strip_markup(strip_query_ids(text))
