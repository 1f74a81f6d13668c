from __future__ import annotations

import json

import fakes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.errors import BundleError, PromptError, RequestError
from mimo_runtime.model.tokenizer import BOS, EOS, FIRST_SEG, PAD, PHRASE_BEGIN, PHRASE_END, Tokenizer, special_tokens

ANSWER = "CT of the abdomen: <p>liver</p><seg5> and <p>spleen</p><seg1>."


@pytest.fixture(scope="module")
def tokenizer():
    return fakes.tokenizer()


def test_special_tokens_have_fixed_ids(tokenizer):
    vocabulary = {tokenizer.decode([i]): i for i in range(4, FIRST_SEG + 32)}
    assert vocabulary == {token: i for i, token in enumerate(special_tokens(32)) if i >= 4}
    assert tokenizer.queries == 32
    assert tokenizer.size <= fakes.CONFIG.vocab_size


def test_answer_round_trip_keeps_markup_as_single_tokens(tokenizer):
    ids = tokenizer.encode_answer(ANSWER)
    assert ids[0] == BOS and ids[-1] == EOS
    assert ids.count(PHRASE_BEGIN) == ids.count(PHRASE_END) == 2
    assert [i - FIRST_SEG for i in ids if i >= FIRST_SEG and i < FIRST_SEG + tokenizer.queries] == [5, 1]
    assert tokenizer.decode(ids) == ANSWER


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_survives_as_an_answer(text):
    assert fakes.tokenizer().decode(fakes.tokenizer().encode_answer(text)) == _without_control(text)


def _without_control(text):
    for token in ("<pad>", "<bos>", "<eos>", "<unk>"):
        text = text.replace(token, "")
    return text


def test_words_of_the_corpus_are_single_tokens_in_questions_and_answers(tokenizer):
    assert len(tokenizer.encode_answer("<p>liver</p><seg1>")) == 2 + 4
    query = tokenizer.encode_query("Where is the liver?", 24)
    assert np.count_nonzero(query) == 2 + 5


def test_query_is_padded_and_ignores_case_and_space(tokenizer):
    query = tokenizer.encode_query("  The   LIVER\n", 24)
    assert query.dtype == np.int32 and query.shape == (24,)
    np.testing.assert_array_equal(query, tokenizer.encode_query("the liver", 24))
    end = int(np.flatnonzero(query == EOS)[0])
    assert query[0] == BOS and (query[end + 1 :] == PAD).all()


def test_composed_and_decomposed_accents_are_the_same(tokenizer):
    np.testing.assert_array_equal(tokenizer.encode_query("tumeur c\u0327a", 24), tokenizer.encode_query("tumeur \u00e7a", 24))


def test_empty_query_is_begin_and_end(tokenizer):
    assert tokenizer.encode_query(" ", 8).tolist() == [BOS, EOS, 0, 0, 0, 0, 0, 0]


def test_typed_markup_in_a_question_is_text(tokenizer):
    query = tokenizer.encode_query("<seg3> <pad> <eos>", 24)
    assert not set(range(3, FIRST_SEG + 32)) & set(query.tolist())
    assert (query == EOS).sum() == 1
    # The same switch must not leak into answers.
    assert tokenizer.encode_answer("<seg3>") == [BOS, FIRST_SEG + 3, EOS]


def test_longest_query_fits_and_one_more_token_does_not(tokenizer):
    assert tokenizer.encode_query("liver " * 22, 24)[-1] == EOS
    with pytest.raises(PromptError, match="too long.*takes 22 tokens"):
        tokenizer.encode_query("liver " * 23, 24)


def test_a_megabyte_of_text_is_refused_without_encoding_it(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "_encode", None)
    with pytest.raises(PromptError, match="1999999 characters"):
        tokenizer.encode_query("a " * 1_000_000, 24)


def test_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(PromptError, match="not valid Unicode"):
        tokenizer.encode_query("\ud800", 24)


def test_pieces_of_complete_characters_join_to_the_text(tokenizer):
    ids = tokenizer.encode_answer("é 😀 <p>ö</p><seg0>")
    assert tokenizer.decode(ids[1:2]) == "\ufffd"
    assert tokenizer.decode(ids) == "é 😀 <p>ö</p><seg0>"


def test_training_is_reproducible_and_files_round_trip(tokenizer, tmp_path):
    texts = ["where is the liver?", ANSWER] * 3
    first, second = (Tokenizer.train(texts, 320, 8) for _ in range(2))
    assert first.to_json() == second.to_json()
    first.save(tmp_path / "tokenizer.json")
    again = Tokenizer.read(tmp_path / "tokenizer.json")
    assert again.to_json() == first.to_json() and again.queries == 8
    assert again.encode_answer(ANSWER) == first.encode_answer(ANSWER)


def test_vocabulary_without_room_is_refused():
    with pytest.raises(RequestError, match="at least 270"):
        Tokenizer.train(["a"], 269, 8)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"not json"])
def test_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="tokenizer.json is not a tokenizer"):
        Tokenizer.read(path)


def test_missing_file_and_foreign_tokenizer_are_refused(tokenizer, tmp_path):
    with pytest.raises(BundleError, match="cannot be read"):
        Tokenizer.read(tmp_path / "none.json")
    data = json.loads(tokenizer.to_json())
    for token in data["added_tokens"]:
        token["content"] = token["content"].replace("<p>", "[P]")
    data["model"]["vocab"] = {k.replace("<p>", "[P]"): v for k, v in data["model"]["vocab"].items()}
    with pytest.raises(BundleError, match="token <p> has id None instead of 4"):
        Tokenizer.from_bytes(json.dumps(data).encode())
