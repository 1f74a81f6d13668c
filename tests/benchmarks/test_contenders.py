"""The contenders in this process, on PyTorch engines: what each kind of request runs, and that all answer alike."""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace

import numpy as np
import pytest

from mimo_benchmarks.contenders import CONTENDERS, Contender, ContenderSetup, PipelineContender
from mimo_benchmarks.contenders.text_models import equal_llama
from mimo_benchmarks.engine_trace import EngineTrace, TracedEngine
from mimo_benchmarks.reference_pipeline import ReferencePipeline
from mimo_benchmarks.request import KINDS
from mimo_benchmarks.sources import write_fp32_graphs
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.model.graph_spec import Speculation
from mimo_runtime.model.tokenizer import BOS
from mimo_train.torch_engine import torch_mimo

ENCODERS = {"text_encoder", "prompt_encoder", "fusion"}


class ReferenceTorch(Contender):
    def __init__(self, model, tokenizer) -> None:
        super().__init__(EngineTrace())
        engines = torch_mimo(model, tokenizer).engines
        self.pipeline = ReferencePipeline(model.config, tokenizer, {g: self.trace.wrap(g, e.run) for g, e in engines.items()})

    def answer(self, request, kind):
        return self.pipeline.ask(request, kind.masks, kind.text)


@pytest.fixture(scope="module")
def pipeline(model) -> PipelineContender:
    return PipelineContender(torch_mimo(*model))


@pytest.fixture(scope="module")
def reference(model) -> ReferenceTorch:
    return ReferenceTorch(*model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_runs_what_its_name_says(pipeline, request_, kind: str):
    wanted = {
        "first_ask": {"vision_encoder", *ENCODERS, "mask_decoder", "text_decoder"},
        "second_ask": {*ENCODERS, "mask_decoder", "text_decoder"},
        "mask_only": {"vision_encoder", *ENCODERS, "mask_decoder"},
        "second_ask_mask_only": {*ENCODERS, "mask_decoder"},
        "repeated_ask_mask_only": {*ENCODERS, "mask_decoder"},
        "text_only": {"vision_encoder", *ENCODERS, "text_decoder"},
    }[kind]
    for _ in range(2):  # the second time nothing may be known that the first did not know
        sample = pipeline.ask(request_, KINDS[kind])
        # Of a repeated question the pipeline may know more than the image.
        assert set(sample.graphs_ms) == wanted or (KINDS[kind].repeated and set(sample.graphs_ms) < wanted)
        assert len(sample.tokens) == (6 if KINDS[kind].text else 0)
        assert bool(sample.text) == KINDS[kind].text
        assert bool(sample.findings) == KINDS[kind].masks
        assert (sample.stages_ms["encode"] > 0) != KINDS[kind].known
        # A repeated question about masks is answered from the cache of prompts, without a graph.
        assert (sample.engine_ms > 0) == bool(sample.graphs_ms) and sample.engine_ms < sample.total_ms
        assert sample.decode_ms <= sample.total_ms
        beside_text = sample.stages_ms["masks"] + sample.stages_ms["refine"]
        assert sum(sample.stages_ms.values()) <= sample.total_ms + beside_text


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_pipeline_answers_as_the_pipeline_does(pipeline, reference, request_, kind: str):
    mine, theirs = pipeline.ask(request_, KINDS[kind]), reference.ask(request_, KINDS[kind])
    assert theirs.text == mine.text
    assert theirs.tokens == mine.tokens
    assert [(f.phrase, f.query, f.box) for f in theirs.findings] == [(f.phrase, f.query, f.box) for f in mine.findings]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(theirs.findings, mine.findings))
    assert "vision_encoder" in theirs.graphs_ms  # it has no cache, whatever the kind
    assert theirs.stages_ms.keys() == mine.stages_ms.keys()


def test_the_reference_pipeline_takes_references_and_ends_at_the_limit_of_the_model(pipeline, reference, request_):
    timed = dataclasses.replace(request_, text="", boxes=((10, 20, 200, 220),), points=((50, 60), (5, 5, 0)), max_tokens=None)
    mine, theirs = pipeline.ask(timed, KINDS["first_ask"]), reference.ask(timed, KINDS["first_ask"])
    assert theirs.tokens == mine.tokens
    assert theirs.text == mine.text
    other = reference.ask(dataclasses.replace(timed, boxes=()), KINDS["first_ask"])
    assert [f.presence for f in other.findings] != [f.presence for f in theirs.findings]


def test_wrong_drafts_are_no_tokens_of_a_trace():
    trace, kept = EngineTrace(), []
    decoding = SimpleNamespace(step=lambda inputs: {"logits": inputs["token"]}, keep=kept.append)
    engine = SimpleNamespace(
        name="one", inputs={}, outputs={}, run=None, speculation=Speculation(8, 0.001), decoding=lambda constant: decoding
    )
    traced = TracedEngine(engine, "text_decoder", trace)
    steps = traced.decoding({})
    steps.step({"token": np.array([[BOS, 7, 9]], np.int32), "position": np.array([[0, 1, 2]], np.int32)})
    steps.keep(2)
    assert trace.tokens == [BOS, 7] and kept == [2] and len(trace.runs) == 2
    assert traced.speculation == Speculation(8, 0.001)


def test_a_trace_has_runs_side_by_side_and_the_tokens_in_order():
    trace = EngineTrace()
    decode = trace.wrap("text_decoder", lambda inputs: time.sleep(0.002) or {"logits": inputs["token"]})
    for place, token in enumerate((BOS, 7, 9)):
        inputs = {"token": np.array([[token]], np.int32), "position": np.array([[place]], np.int32)}
        assert decode(inputs) == {"logits": np.array([[token]])}
    trace.runs.append(("mask_decoder", trace.runs[0][1], trace.runs[0][2]))  # at the same time as the first
    assert trace.tokens == [BOS, 7, 9]
    assert {graph: len(times) for graph, times in trace.graphs_ms.items()} == {"text_decoder": 3, "mask_decoder": 1}
    assert 6 <= trace.engine_ms <= trace.decode_ms
    decode({"token": np.array([[8, 6, 5]], np.int32), "position": np.array([[2, 3, 4]], np.int32)})
    assert trace.tokens == [BOS, 7, 8, 6, 5]
    trace.reset()
    assert (trace.engine_ms, trace.decode_ms, trace.tokens) == (0, 0, [])


def test_a_repeated_question_is_asked_before_it_is_timed(pipeline, request_, monkeypatch):
    asked = []
    answer = pipeline.answer
    monkeypatch.setattr(pipeline, "answer", lambda *arguments: asked.append(arguments) or answer(*arguments))
    pipeline.ask(request_, KINDS["second_ask_mask_only"])
    assert len(asked) == 1
    pipeline.ask(request_, KINDS["repeated_ask_mask_only"])
    assert len(asked) == 3


# -- other models ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setup(bundle, tmp_path_factory) -> ContenderSetup:
    folder = tmp_path_factory.mktemp("onnx")
    write_fp32_graphs(Bundle.open(bundle), None, folder)
    return ContenderSetup(bundle, None, folder, 1)


def test_the_text_model_of_transformers_is_as_large_and_writes_every_token(setup, request_):
    pytest.importorskip("transformers")
    values = sum(parameter.numel() for parameter in equal_llama(setup).parameters())
    assert values == pytest.approx((setup.onnx / "text_decoder.onnx").stat().st_size / 4, rel=0.1)
    sample = CONTENDERS["transformers"].make(setup).ask(request_, KINDS["text_only"])
    assert len(sample.tokens) == request_.max_tokens and sample.decode_ms > 0 and sample.text == ""


def test_the_text_model_of_genai_writes_the_same_tokens_as_transformers(setup, request_):
    pytest.importorskip("onnxruntime_genai")
    mine, theirs = (CONTENDERS[name].make(setup).ask(request_, KINDS["text_only"]) for name in ("genai", "transformers"))
    assert mine.tokens == theirs.tokens


@pytest.mark.parametrize("name", ["sam2", "sam-hq", "edgetam"])
def test_segmenters_encode_a_new_image_and_remember_a_known_one(setup, request_, name):
    spec = CONTENDERS[name]
    for module in spec.modules:
        pytest.importorskip(module)
    contender = spec.make(setup)
    new, known = (contender.ask(request_, KINDS[kind]) for kind in spec.kinds)
    assert set(new.graphs_ms) == {"vision_encoder", "mask_decoder"} and new.stages_ms["encode"] > known.stages_ms["encode"]
    boxed = dataclasses.replace(request_, boxes=((10, 20, 200, 220),))
    assert contender._decode(boxed, contender._encode(boxed)).shape == request_.pixels.shape[:2]


def test_bf16_answers_are_near_those_of_fp32(bundle, checkpoint, request_):
    setup = ContenderSetup(bundle, checkpoint, None, 1)
    mine, theirs = (CONTENDERS[name].make(setup).ask(request_, KINDS["mask_only"]) for name in ("torch-bf16", "torch"))
    scores = [[finding.score for finding in sample.findings] for sample in (mine, theirs)]
    assert scores[0] != scores[1] and scores[0] == pytest.approx(scores[1], abs=0.1)


def test_openvino_without_options_answers_as_onnx_runtime_does(setup, request_):
    pytest.importorskip("openvino")
    mine, theirs = (CONTENDERS[name].make(setup).ask(request_, KINDS["first_ask"]) for name in ("openvino-default", "ort"))
    assert len(mine.tokens) == len(theirs.tokens) and len(mine.findings) == len(theirs.findings)
