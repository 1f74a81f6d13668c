"""The contenders in this process, on PyTorch engines: what each kind of request runs, and that all answer alike."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from mimo_benchmarks.contenders import KINDS, Contender, PipelineContender
from mimo_benchmarks.engine_trace import Watch
from mimo_benchmarks.reference_pipeline import ReferencePipeline
from mimo_runtime.model.tokenizer import BOS
from mimo_train.torch_engine import torch_mimo

ENCODERS = {"text_encoder", "prompt_encoder", "fusion"}


class PlainTorch(Contender):
    def __init__(self, model, tokenizer) -> None:
        super().__init__(Watch())
        engines = torch_mimo(model, tokenizer).engines
        self.chain = ReferencePipeline(model.config, tokenizer, {g: self.watch.wrap(g, e.run) for g, e in engines.items()})

    def answer(self, request, kind):
        return self.chain.ask(request, kind.masks, kind.text)


@pytest.fixture(scope="module")
def pipeline(model) -> PipelineContender:
    return PipelineContender(torch_mimo(*model))


@pytest.fixture(scope="module")
def plain(model) -> PlainTorch:
    return PlainTorch(*model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_runs_what_its_name_says(pipeline, request_, kind: str):
    wanted = {
        "first_ask": {"vision_encoder", *ENCODERS, "mask_decoder", "text_decoder"},
        "second_ask": {*ENCODERS, "mask_decoder", "text_decoder"},
        "mask_only": {"vision_encoder", *ENCODERS, "mask_decoder"},
        "second_ask_mask_only": {*ENCODERS, "mask_decoder"},
        "text_only": {"vision_encoder", *ENCODERS, "text_decoder"},
    }[kind]
    for _ in range(2):  # the second time nothing may be known that the first did not know
        sample = pipeline.ask(request_, KINDS[kind])
        assert set(sample.graphs_ms) == wanted
        assert len(sample.tokens) == (6 if KINDS[kind].text else 0)
        assert bool(sample.text) == KINDS[kind].text
        assert bool(sample.findings) == KINDS[kind].masks
        assert (sample.stages_ms["encode"] > 0) != KINDS[kind].known
        assert 0 < sample.engine_ms < sample.total_ms
        assert sample.decode_ms <= sample.total_ms
        assert sum(sample.stages_ms.values()) <= sample.total_ms + sample.stages_ms["masks"]  # masks run beside text


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_chain_answers_as_the_pipeline_does(pipeline, plain, request_, kind: str):
    mine, theirs = pipeline.ask(request_, KINDS[kind]), plain.ask(request_, KINDS[kind])
    assert theirs.text == mine.text
    assert theirs.tokens == mine.tokens
    assert [(f.phrase, f.query, f.box) for f in theirs.findings] == [(f.phrase, f.query, f.box) for f in mine.findings]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(theirs.findings, mine.findings))
    assert "vision_encoder" in theirs.graphs_ms  # it remembers nothing, whatever the kind
    assert theirs.stages_ms.keys() == mine.stages_ms.keys()


def test_the_plain_chain_takes_references_and_ends_at_the_limit_of_the_model(pipeline, plain, request_):
    asked = dataclasses.replace(request_, text="", boxes=((10, 20, 200, 220),), points=((50, 60), (5, 5, 0)), max_tokens=None)
    mine, theirs = pipeline.ask(asked, KINDS["first_ask"]), plain.ask(asked, KINDS["first_ask"])
    assert theirs.tokens == mine.tokens
    assert theirs.text == mine.text
    other = plain.ask(dataclasses.replace(asked, boxes=()), KINDS["first_ask"])
    assert [f.presence for f in other.findings] != [f.presence for f in theirs.findings]


def test_a_watch_sees_runs_side_by_side_and_the_tokens_in_order():
    watch = Watch()
    decode = watch.wrap("text_decoder", lambda inputs: time.sleep(0.002) or {"logits": inputs["token"]})
    for token in (BOS, 7, 9):
        assert decode({"token": np.array([[token]], np.int32)}) == {"logits": np.array([[token]])}
    watch.runs.append(("mask_decoder", watch.runs[0][1], watch.runs[0][2]))  # at the same time as the first
    assert watch.tokens == [BOS, 7, 9]
    assert {graph: len(times) for graph, times in watch.graphs_ms.items()} == {"text_decoder": 3, "mask_decoder": 1}
    assert 6 <= watch.engine_ms <= watch.decode_ms
    watch.reset()
    assert (watch.engine_ms, watch.decode_ms, watch.tokens) == (0, 0, [])
