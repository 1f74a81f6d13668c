"""Speculative decoding: the tokens of greedy decoding, in fewer steps."""

from __future__ import annotations

import fakes
import numpy as np
import pytest

from mimo_runtime.engines.base import Engine
from mimo_runtime.model.graph_spec import MASKED, multi_token_spec
from mimo_runtime.text.drafts import SHARED, AnswerDrafts, add_ngrams
from mimo_runtime.text.generation import TextDecoder, generate, speculate

CONFIG = fakes.CONFIG
MEMORY = {name: np.zeros(1, np.float32) for name in ("cross_keys", "cross_values", "memory_valid")}
BOS, EOS = 1, 2
MARGIN = 0.01


class SumOfTokens(Engine):
    """An engine whose cache holds the tokens. The next token follows from the sum of all so far; above 100 the answer ends.

    Args:
        noise: added to the logit of the second most probable token in a step of several tokens.
        gap: between the largest logit and the second.
    """

    def __init__(self, noise=0.0, gap=1.0):
        spec = multi_token_spec(CONFIG)
        self.inputs, self.outputs = {t.name: t for t in spec.inputs}, {t.name: t for t in spec.outputs}
        self.steps, self.noise, self.gap = [], noise, gap

    def run(self, inputs):
        tokens, past = inputs["token"], inputs["past_keys"]
        self.steps.append(tokens.shape[1])
        new = np.broadcast_to(tokens[None, :, None, :, None], (*past.shape[:3], tokens.shape[1], past.shape[4]))
        keys = np.concatenate((past, new.astype(np.float32)), axis=3)
        assert inputs["position"].tolist() == [[*range(past.shape[3], keys.shape[3])]]
        visible = inputs["causal_bias"][0] == 0
        assert (inputs["causal_bias"][0][~visible] == np.float32(MASKED)).all()
        sums = (keys[0, 0, 0, :, 0] * visible).sum(axis=1).astype(int)
        logits = np.zeros((1, len(sums), CONFIG.vocab_size), np.float32)
        for row, total in enumerate(sums):
            logits[0, row, next_token(total)] = 5
            logits[0, row, 3] = 5 - self.gap + (self.noise if len(sums) > 1 else 0)
        return {"logits": logits, "keys": keys, "values": -keys}


def next_token(total):
    return EOS if total > 100 else 4 + total % 7


def greedy(engine, most=60):
    decoder = TextDecoder(engine, CONFIG, MEMORY, size=100, suppress_tokens=())
    return list(generate(decoder.step, bos=BOS, eos=EOS, max_tokens=most))


def speculative(engine, propose, most=60, drafted=8):
    decoder = TextDecoder(engine, CONFIG, MEMORY, size=100, suppress_tokens=())
    generator, tokens = speculate(
        lambda token, draft: decoder.advance(token, draft, MARGIN), propose,
        bos=BOS, eos=EOS, max_tokens=most, drafted=drafted,
    ), []  # fmt: skip
    while True:
        try:
            tokens.append(next(generator))
        except StopIteration as end:
            return tokens, end.value


def follow(answer, wrong_at=()):
    """Drafts of the right answer, wrong at some places."""

    def propose(tokens, count):
        draft = [*answer, EOS][len(tokens) - 1 :][:count]
        return [99 if len(tokens) - 1 + k in wrong_at else token for k, token in enumerate(draft)]

    return propose


def test_right_drafts_give_the_answer_in_few_steps():
    expected, engine = greedy(SumOfTokens()), SumOfTokens()
    assert len(expected) > 8
    assert speculative(engine, follow(expected)) == (expected, "stop")
    assert len(engine.steps) == -(-(len(expected) + 1) // 9)


@pytest.mark.parametrize("wrong_at", [(0,), (3,), (2, 4), tuple(range(60))])
def test_wrong_drafts_change_no_token(wrong_at):
    expected = greedy(SumOfTokens())
    assert speculative(SumOfTokens(), follow(expected, wrong_at)) == (expected, "stop")


def test_without_a_draft_every_step_reads_one_token():
    expected, engine = greedy(SumOfTokens()), SumOfTokens()
    assert speculative(engine, lambda tokens, count: []) == (expected, "stop")
    assert set(engine.steps) == {1}


@pytest.mark.parametrize("most", range(1, 12))
def test_a_maximum_of_tokens_cuts_the_answer_as_greedy_decoding(most):
    expected = greedy(SumOfTokens())
    assert speculative(SumOfTokens(), follow(expected), most) == (
        expected[:most],
        "length" if most <= len(expected) else "stop",
    )


def test_a_row_that_rounding_could_decide_is_computed_one_token_a_step():
    # Several tokens a step make the second token the most probable one, by less than the margin.
    expected, engine = greedy(SumOfTokens(gap=0.004)), SumOfTokens(gap=0.004, noise=0.006)
    assert 3 not in expected
    assert speculative(engine, follow(expected))[0] == expected
    assert engine.steps.count(1) >= len(expected)


def test_a_step_beyond_the_positions_of_the_model_is_refused():
    decoder = TextDecoder(SumOfTokens(), CONFIG, MEMORY, size=100, suppress_tokens=())
    with pytest.raises(ValueError, match=f"the model has {CONFIG.text_decoder.max_length} positions"):
        decoder.advance(BOS, [4] * CONFIG.text_decoder.max_length, MARGIN)


def test_drafts_continue_the_longest_context_and_prefer_the_question():
    own, grammar = {}, {}
    add_ngrams(grammar, [BOS, 10, 11, 12, 13, 14, 15, EOS])
    add_ngrams(own, [12, 50, 51])
    drafts = AnswerDrafts(own, {}, grammar)
    assert drafts.propose([BOS, 10], 8) == [11, 12, 50, 51]
    assert drafts.propose([BOS, 77], 8) == []
    assert len(AnswerDrafts({}, {}, grammar).propose([BOS], 8)) == SHARED


def test_drafts_learn_an_answer():
    drafts = AnswerDrafts({}, {}, {})
    drafts.learn([BOS, 20, 21, 22, 23, 24, EOS])
    assert drafts.propose([BOS], 8) == [20, 21, 22, 23, 24, EOS]
