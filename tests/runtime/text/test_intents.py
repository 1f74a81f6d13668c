"""What requests ask: kind, subjects and relation of sentences as users write them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from request_cases import ANSWERABLE, ENTITIES, UNANSWERABLE, rows
from slowness import slowness

from mimo_runtime.text.grammar import RELATIONS, pluralise
from mimo_runtime.text.intents import KINDS, Intent, parse_request
from mimo_runtime.text.questions import QUESTIONS
from mimo_runtime.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary(ENTITIES)
#: Kind by frame of ``QUESTIONS``.
KIND_OF = {
    "count": "how_many", "relation": "relation", "neighbours": "neighbours", "what": "describe", "describe": "open",
    "where": "where",
}  # fmt: skip


def shown(intent: Intent) -> list[str]:
    """Subjects as the tables have them."""
    return [s.entity or f"?{s.text}" for s in (*intent.subjects, *(s for s in intent.unknown if s in intent.others))]


def listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")] if names else []


@pytest.mark.parametrize("row", rows(ANSWERABLE), ids=lambda row: row[0])
def test_requests_are_read(row: list[str]) -> None:
    text, kind, subjects, relation, other = [*row, "", "", ""][:5]
    intent = parse_request(text, VOCABULARY)
    assert (intent.kind, shown(intent)) == (kind, listed(subjects))
    assert intent.relation == relation and [s.entity for s in intent.others] == listed(other)


@pytest.mark.parametrize(
    ("text", "kind", "subjects", "relation", "others"),
    [
        ("What is next to it?", "neighbours", [], "next to", []),
        ("What is below this?", "neighbours", [], "below", []),
        ("Where is it relative to the liver?", "relation", [], "", ["liver"]),
        ("Where is the spleen relative to the box?", "relation", ["spleen"], "", []),
    ],
)
def test_a_relation_may_be_to_what_a_reference_points_at(
    text: str, kind: str, subjects: list[str], relation: str, others: list[str]
) -> None:
    intent = parse_request(text, VOCABULARY)
    assert (intent.kind, shown(intent), intent.relation) == (kind, subjects, relation)
    assert [s.entity for s in intent.others] == others and intent.needs_reference


@pytest.mark.parametrize("row", rows(UNANSWERABLE), ids=lambda row: row[0])
def test_what_a_model_does_not_know_is_not_resolved(row: list[str]) -> None:
    text, kind, subjects, reason = [*row, ""][:4]
    intent = parse_request(text, VOCABULARY)
    assert (intent.kind, shown(intent), intent.reason) == (kind, listed(subjects), reason)
    assert intent.kind == "unsupported" or intent.unknown


@pytest.mark.parametrize("frame", QUESTIONS)
def test_every_template_is_read_with_every_entity(frame: str) -> None:
    for number, name in enumerate(ENTITIES):
        other, relation = ENTITIES[(number + 1) % len(ENTITIES)], RELATIONS[number % 4]
        article = ("an " if name[0] in "aeiou" else "a ") + name
        for template in QUESTIONS[frame]:
            text = template.format(name=name, a=article, many=pluralise(name) or name, other=other, relation=relation)
            for written in (text, text.upper(), text.rstrip(".?")):
                intent = parse_request(written, VOCABULARY)
                assert intent.kind == KIND_OF.get(frame, "name") and not intent.unknown, written
                assert intent.entities == ((name,) if "{name}" in template or "{a}" in template or "{many}" in template else ())
                assert "".join(s.entity or "" for s in intent.others) == (other if "{other}" in template else ""), written
                assert intent.relation == (relation if "{relation}" in template else ""), written


SENTENCE = (
    "where is the liver ? how many polyps left of and , 肝 ¿ große 😀 not <seg0> <p> ' relative to what a this 12 é ... /"
)
WORDS = st.sampled_from(SENTENCE.split())


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.lists(WORDS, max_size=9).map(" ".join))
def test_any_text_is_read(text: str) -> None:
    intent = parse_request(text, VOCABULARY)
    assert intent.kind in KINDS and set(intent.entities) <= set(ENTITIES)
    assert (intent.kind == "unsupported") == bool(intent.reason)


@settings(max_examples=300, deadline=None)
@given(st.text("bdfghjkmqwxz", min_size=3, max_size=14))
def test_nonsense_names_nothing(text: str) -> None:
    assert parse_request(text, VOCABULARY).entities == ()
    assert parse_request(f"Where is the {text}?", VOCABULARY).entities == ()


@pytest.mark.parametrize("text", ["a," * 200, "liver and " * 40, "is there " * 45, "what is the size of " * 20])
def test_a_long_text_is_read_in_time(text: str) -> None:
    start = time.process_time()
    parse_request(text[:400], VOCABULARY)
    assert time.process_time() - start < 3 * slowness()  # milliseconds usually
