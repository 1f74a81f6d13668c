"""A bundle whose text decoder updates a cache of a fixed size, from the manifest to the answer, on real ONNX Runtime."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fakes
import numpy as np
import pytest

from mimo_runtime.bundle.manifest import parse_manifest, spell, with_checksum
from mimo_runtime.engines.base import Decoding
from mimo_runtime.errors import BundleError
from mimo_runtime.model.graph_spec import BATCH, allowed_specs, graph_specs, multi_token_spec, static_cache_spec
from mimo_runtime.pipeline import Mimo

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
CONFIG = fakes.CONFIG
CONTRACT = static_cache_spec(CONFIG)


def decoder_bytes() -> bytes:
    """Every step writes a one into the cache, and says the word whose number is the count of ones: a cache that is not fed back
    says the first word for ever."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    ids = fakes.tokenizer().encode_answer(onnx_bundle.SENTENCE)[1:]
    script = np.zeros((CONFIG.text_decoder.max_length, 1, CONFIG.vocab_size), np.float32)
    script[np.arange(len(ids)), 0, ids] = 5
    cache = CONTRACT.outputs[1]
    one = np.ones((1, cache.shape[1], 1, cache.shape[3]), np.float32)
    constants = {
        "flat": np.array([-1], np.int64), "one": one, "axes": np.array([1, 3], np.int64), "slots": np.array([1], np.int64),
        "less": np.array(1, np.int64), "script": script,
    }  # fmt: skip
    nodes = [
        helper.make_node("Reshape", ["position", "flat"], ["positions"]),
        helper.make_node("Cast", ["positions"], ["index"], to=TensorProto.INT64),
        *(helper.make_node("TensorScatter", [f"past_{t.name}", "one", "index"], [t.name]) for t in CONTRACT.outputs[1:]),
        helper.make_node("ReduceMax", [cache.name, "axes"], ["ones"], keepdims=0),
        helper.make_node("ReduceSum", ["ones", "slots"], ["count"], keepdims=0),
        helper.make_node("Cast", ["count"], ["counted"], to=TensorProto.INT64),
        helper.make_node("Sub", ["counted", "less"], ["word"]),
        helper.make_node("Gather", ["script", "word"], ["logits"], axis=0),
    ]
    kinds = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    ports = [
        [helper.make_tensor_value_info(t.name, kinds[t.dtype], t.shape) for t in tensors]
        for tensors in (CONTRACT.inputs, CONTRACT.outputs)
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "text_decoder", *ports, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=12)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def folder(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = Path(shutil.copytree(bundle_folder, tmp_path_factory.mktemp("in_place") / "bundle"))
    manifest = json.loads((copy / "manifest.json").read_text("utf-8"))
    entry = manifest["graphs"]["text_decoder"]
    entry["contract"] = CONTRACT.to_dict()
    (copy / entry["file"]).write_bytes(decoder_bytes())
    onnx_bundle.reseal(copy, manifest)
    return copy


def test_it_answers_as_a_bundle_whose_cache_grows(folder: Path, bundle_folder: Path, pixels):
    answers = []
    for one in (bundle_folder, folder):
        with Mimo.load(one) as mimo:
            scan = mimo.open(pixels)
            answers.append([scan.ask("polyp", boxes=[fakes.BOX]) for _ in range(2)])  # no answer sees the last one's cache
    texts = {answer.text for pair in answers for answer in pair}
    assert len(texts) == 1 and answers[1][0].findings[0].phrase == "polyp"


def test_the_longest_answer_fits_into_the_cache(folder: Path, pixels):
    """One that never ends takes every position but the last, which the end would have."""
    with Mimo.load(folder) as mimo:
        asked = []
        engine = mimo.engines["text_decoder"]
        run, word = engine.run, np.zeros((1, 1, CONFIG.vocab_size), np.float32)
        word[..., mimo.tokenizer.encode_answer("polyp")[1]] = 1
        engine.decoding = lambda constant: Decoding(engine, constant)  # through what follows
        engine.run = lambda inputs: asked.append(int(inputs["position"][0, 0])) or {**run(inputs), "logits": word}
        answer = mimo.open(pixels).ask("polyp", masks=False)
    assert answer.finish_reason == "length" and asked == list(range(CONFIG.text_decoder.max_length - 1))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_its_spec_stands_in_the_manifest(folder: Path, dtype: str):
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    spec = static_cache_spec(CONFIG, dtype)
    manifest["graphs"]["text_decoder"]["contract"] = spec.to_dict()
    assert parse_manifest(spell(with_checksum(manifest))).graphs["text_decoder"].spec == spec


@pytest.mark.parametrize("graph", ["text_decoder", "fusion"])
def test_no_other_spec_does(folder: Path, graph: str):
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    changed = CONTRACT.to_dict()
    changed["inputs"][2]["shape"][2] -= 1  # a cache that is too short
    manifest["graphs"][graph]["contract"] = changed
    with pytest.raises(BundleError, match=f"graphs.{graph}.contract"):
        parse_manifest(spell(with_checksum(manifest)))


def test_specs_differ_in_the_cache_alone():
    growing, several_tokens, *in_place = allowed_specs(CONFIG)["text_decoder"]
    assert growing == graph_specs(CONFIG)["text_decoder"]
    assert several_tokens == multi_token_spec(CONFIG)
    layers, length = CONFIG.text_decoder.layers, CONFIG.text_decoder.max_length
    shape = (BATCH, CONFIG.text_decoder.heads, length, CONFIG.dim // CONFIG.text_decoder.heads)
    for spec, dtype in zip(in_place, ("float32", "float16"), strict=True):
        past, present = spec.inputs[2:-3], spec.outputs[1:]
        assert [t.name for t in past] == [f"past_{t.name}" for t in present] and len(past) == 2 * layers
        assert {(t.dtype, t.shape) for t in (*past, *present)} == {(dtype, shape)}
        assert spec.inputs[:2] + spec.inputs[-3:] == growing.inputs[:2] + growing.inputs[-3:]
        assert spec.outputs[0] == growing.outputs[0]
    assert all(len(allowed) == 1 for name, allowed in allowed_specs(CONFIG).items() if name != "text_decoder")
