"""The text decoder that reads several tokens a step: the logits of one token a step, and the answers of greedy decoding."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from mimo_benchmarks.kv_cache import random_memory
from mimo_calibration.graph.ort_cpu import quantize_weights, to_ort_cpu_graph
from mimo_calibration.graph.quantizable import find_quantizable
from mimo_export.graphs import select_decoding
from mimo_export.graphs.token_axis import with_token_axis
from mimo_export.graphs.trace import export_graph
from mimo_export.graphs.validate import check_runtime_accepts
from mimo_export.parity.compare import ShadowedEngine
from mimo_runtime.engines import create_engine
from mimo_runtime.errors import EngineError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import graph_specs, multi_token_spec
from mimo_runtime.model.tokenizer import BOS
from mimo_runtime.text.generation import TextDecoder, generate, speculate
from mimo_train.model import Mimo
from mimo_train.model.graphs import graph_modules

MICRO = MimoConfig.from_preset("micro")
CONFIG = dataclasses.replace(MICRO, text_decoder=dataclasses.replace(MICRO.text_decoder, layers=2))
LONGEST = CONFIG.text_decoder.max_length - 1


@pytest.fixture(scope="module")
def exported() -> onnx.ModelProto:
    torch.manual_seed(0)
    network = Mimo(CONFIG).eval()
    with torch.no_grad():
        network.text_decoder.word.weight.normal_(std=0.1)
        network.text_decoder.position.weight.normal_(std=0.4)
    return export_graph(graph_modules(network)["text_decoder"], graph_specs(CONFIG)["text_decoder"])


@pytest.fixture(scope="module", params=["stacked", "one cache a layer", "8-bit weights"])
def engines(request, exported):
    """One token a step, and several."""
    model = exported if request.param == "stacked" else to_ort_cpu_graph(exported)
    if request.param == "8-bit weights":
        model = quantize_weights(model, find_quantizable(model), 8)
    longer, spec = with_token_axis(model, CONFIG)
    assert spec == multi_token_spec(CONFIG)
    check_runtime_accepts(longer.SerializeToString(), spec, CONFIG)
    specs = (model, graph_specs(CONFIG)["text_decoder"]), (longer, spec)
    return [create_engine("onnxruntime", m.SerializeToString(), s, threads=1) for m, s in specs]


def decoder(engine, seed) -> TextDecoder:
    return TextDecoder(engine, CONFIG, random_memory(CONFIG, seed), CONFIG.vocab_size, ())


def greedy(engine, seed) -> list[int]:
    return list(generate(decoder(engine, seed).step, bos=BOS, eos=-1, max_tokens=LONGEST))


@pytest.mark.parametrize("sizes", [(12,), (1, 5, 1, 5), (3, 3, 3, 3)])
def test_logits_are_those_of_one_token_a_step(engines, sizes):
    one, several = (decoder(engine, 1) for engine in engines)
    tokens = np.random.default_rng(0).integers(4, CONFIG.vocab_size, 12).tolist()
    expected = np.stack([one.step(token) for token in tokens])
    begins = np.cumsum([0, *sizes[:-1]])
    logits = np.concatenate([several.read(tokens[begin : begin + size]) for begin, size in zip(begins, sizes)])
    np.testing.assert_allclose(logits, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_speculative_answers_are_greedy_whatever_is_drafted(engines, seed, wrong):
    one, several = engines
    expected, rng = greedy(one, seed), np.random.default_rng(seed)

    def propose(tokens, count):
        draft = expected[len(tokens) - 1 :][:count]
        return [4 if rng.random() < wrong else token for token in draft]

    writer, steps = decoder(several, seed), []

    def advance(token, draft):
        steps.append(len(draft))
        return writer.advance(token, draft, 1e-3)

    assert list(speculate(advance, propose, bos=BOS, eos=-1, max_tokens=LONGEST, drafted=8)) == expected
    if not wrong:
        assert len(steps) <= -(-LONGEST // 9) + 1


def test_interleaved_answers_keep_their_caches_apart(engines):
    one, several = engines
    writers = [decoder(several, seed) for seed in range(2)]
    expected = [greedy(one, seed)[:6] for seed in range(2)]
    written = [[], []]
    for _ in range(3):
        for writer, tokens, right in zip(writers, written, expected):
            draft = [right[len(tokens)], 4] if len(tokens) < 5 else []
            tokens += writer.advance(tokens[-1] if tokens else BOS, draft, 1e-3)
    assert [tokens[:5] for tokens in written] == [tokens[:5] for tokens in expected]


def test_parity_compares_it_with_the_graph_of_one_token_a_step(engines):
    one, several = engines
    shadow = ShadowedEngine(graph_specs(CONFIG)["text_decoder"], one, several)
    assert greedy(shadow, 0) == greedy(one, 0)
    assert greedy(shadow, 1) == greedy(one, 1)
    assert shadow.calls == 2 * LONGEST and shadow.batches > 0
    assert 0 < shadow.worst < 1e-3


def test_a_graph_of_another_model_is_refused(exported):
    other = dataclasses.replace(CONFIG, text_decoder=dataclasses.replace(CONFIG.text_decoder, layers=3))
    with pytest.raises(EngineError, match="text_decoder cannot take several tokens a step"):
        with_token_axis(exported, other)


def test_an_engine_that_computes_no_such_graph_keeps_one_token_a_step(tmp_path):
    file = {"engine": "openvino", "threads": None, "file": "graphs/text_decoder.onnx"}
    same, spec, decision = select_decoding.select_decoding(tmp_path, file, {}, [], CONFIG, None)
    assert same is file and spec == graph_specs(CONFIG)["text_decoder"]
    assert decision.kind == "greedy" and "openvino" in decision.reason
