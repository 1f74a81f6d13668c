"""Synonyms are of known names and lead nowhere else; typos are small and seeded."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mimo_runtime.text.synonyms import SYNONYMS, misspell, synonyms


def test_no_word_means_two_things() -> None:
    words = [w for ws in SYNONYMS.values() for w in ws]
    assert len(words) == len(set(words)) and not set(words) & set(SYNONYMS)
    assert all(w == w.lower().strip() and w for w in words)


def test_synonyms_of_any_case_and_of_nothing() -> None:
    assert "colon polyp" in synonyms("Polyp") and synonyms("unheard of") == ()


@given(st.text(max_size=40), st.integers(0, 10**6), st.integers(1, 3))
def test_typos_are_small(text: str, seed: int, typos: int) -> None:
    one, two = (misspell(text, np.random.default_rng(seed), typos) for _ in range(2))
    assert one == two and abs(len(one) - len(text)) <= typos
    if len(text) < 4:
        assert one == text
    else:
        assert one[0] == text[0] and one != text


@given(st.text("ab", min_size=4, max_size=8), st.integers(0, 10**6))
def test_every_slip_changes_the_text(text: str, seed: int) -> None:
    one, two = (misspell(text, np.random.default_rng(seed), typos) for typos in (1, 2))
    assert one != text != two and (two != one or len(one) < 4)
