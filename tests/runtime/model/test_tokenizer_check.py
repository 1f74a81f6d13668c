"""What of a ``tokenizer.json`` never reaches the library that reads it."""

from __future__ import annotations

import json
from typing import Any

import fakes
import pytest
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.errors import BundleError
from mimo_runtime.model.tokenizer import Tokenizer, special_tokens

HOSTILE = {
    "padding": {"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
                "pad_token": "<pad>"},
    "truncation": {"max_length": 0, "strategy": "LongestFirst", "stride": 2**40, "direction": "Right"},
    "normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 10**6},
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
    "post_processor": {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"Regex": "(x*)*y"}, "content": ""}]},
    "version": "2.0",
    "model": {"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]], "byte_fallback": False},
}  # fmt: skip


@pytest.fixture
def data() -> dict[str, Any]:
    return json.loads(fakes.tokenizer().to_json())


def refuse(data: object) -> str:
    with pytest.raises(BundleError) as caught:
        Tokenizer.from_bytes(json.dumps(data).encode())
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value) and caught.value.remedy
    return str(caught.value)


@pytest.mark.parametrize("part", HOSTILE)
def test_parts_that_no_tokenizer_of_this_project_has(data, part):
    assert part in refuse({**data, part: HOSTILE[part]})


def test_vocabularies_that_end_the_process(data):
    vocabulary = data["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    for index in (2**31, 2**63, 2**70, -1, 1.5, True, None, "1", len(vocabulary), 0):
        refuse({**data, "model": {**data["model"], "vocab": {**vocabulary, last: index}}})
    refuse({**data, "model": {**data["model"], "vocab": {**vocabulary, "x" * 10_000: len(vocabulary)}}})
    for key, value in (
        ("dropout", 0.5),
        ("unk_token", None),
        ("merges", [["a"]]),
        ("merges", {}),
        ("more", 1),
        ("merges", None),
    ):
        refuse({**data, "model": {**data["model"], key: value}})
    token = data["added_tokens"][0]
    for changes in (
        {"id": 2**31},
        {"content": "x"},
        {"single_word": True},
        {"lstrip": True},
        {"normalized": True},
        {"more": 1},
    ):
        refuse({**data, "added_tokens": [{**token, **changes}, *data["added_tokens"][1:]]})
    refuse({**data, "added_tokens": [{**token, "content": f"<t{k}>", "id": k} for k in range(5000)]})


def test_text_that_is_no_json_object():
    for content in (
        b"",
        b"[" * 100_000,
        b"[" * 1500 + b"]" * 1500,
        b"1",
        b"null",
        b"\xff",
        b'{"model": 1, "model": 2}',
        b"9" * 5000,
    ):
        with pytest.raises(BundleError, match="is not a tokenizer"):
            Tokenizer.from_bytes(content)


def test_the_vocabulary_of_a_bert_is_read():
    words = [*special_tokens(2), "[UNK]", "liver", "##s", "the"]
    plain = hf.Tokenizer(hf.models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    plain.normalizer = hf.normalizers.BertNormalizer(lowercase=True)
    plain.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    plain.decoder = hf.decoders.WordPiece()
    plain.add_special_tokens([hf.AddedToken(token, special=True, normalized=False) for token in special_tokens(2)])
    written = Tokenizer(plain).to_json()
    assert Tokenizer.from_bytes(written.encode()).decode([words.index("liver")]) == "liver"
    data = json.loads(written)
    without = {word: index for index, word in enumerate(word for word in words if word != "[UNK]")}
    assert "unknown" in refuse({**data, "model": {**data["model"], "vocab": without}})
    refuse({**data, "model": {**data["model"], "max_input_chars_per_word": 10**12}})


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to all values, of long lists and objects the first ten."""
    entries = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())[:10]
    return [path, *(place for key, inner in entries for place in places(inner, (*path, key)))]


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_other_value_anywhere_is_refused_or_gives_a_working_tokenizer(draw):
    data = json.loads(fakes.tokenizer().to_json())
    *parents, last = draw.draw(st.sampled_from(places(data)[1:]))
    inner = data
    for key in parents:
        inner = inner[key]
    inner[last] = draw.draw(VALUES)
    try:
        tokenizer = Tokenizer.from_bytes(json.dumps(data).encode())
    except BundleError:
        return
    tokenizer.decode(tokenizer.encode_answer("a <p>liver</p><seg0>"))
