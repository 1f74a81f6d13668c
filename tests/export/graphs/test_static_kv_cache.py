"""The forms of the text decoder: the same tokens from each, and what TensorRT makes of a cache that is updated in place."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper

from mimo_benchmarks import kv_cache
from mimo_benchmarks.kv_cache import answer, random_memory
from mimo_calibration.graph.ort_cpu import to_ort_cpu_graph
from mimo_calibration.graph.quantizable import copied
from mimo_export.graphs.precision_audit import delivered
from mimo_export.graphs.static_kv_cache import KV_CACHES, STATIC_CACHE_OPSET, best_cache, with_static_cache
from mimo_export.graphs.tensorrt_options import compile_graph, default_axes, rtx_options
from mimo_export.graphs.trace import export_graph
from mimo_export.targets import OPSET
from mimo_export.tools.compile_check import convert_precision
from mimo_runtime.compiler.network import Log, parse
from mimo_runtime.engines import Engine, create_engine
from mimo_runtime.engines.tensorrt_library import load_rtx_library, missing_rtx_package
from mimo_runtime.errors import EngineError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import allowed_specs, graph_specs
from mimo_runtime.model.tokenizer import BOS
from mimo_runtime.text.generation import TextDecoder
from mimo_train.model import Mimo
from mimo_train.model.graphs import graph_modules
from mimo_train.torch_engine import TorchEngine

needs_compiler = pytest.mark.skipif(missing_rtx_package() is not None, reason=f"{missing_rtx_package()} is not installed")

MICRO = MimoConfig.from_preset("micro")
#: Two layers: a cache of the wrong one would show. Two heads: TensorRT-RTX has no fused kernel for so few.
CONFIG = dataclasses.replace(MICRO, text_decoder=dataclasses.replace(MICRO.text_decoder, layers=2))
DYNAMIC = graph_specs(CONFIG)["text_decoder"]
LENGTH = CONFIG.text_decoder.max_length
MEMORIES = [random_memory(CONFIG, seed) for seed in range(4)]
PRECISIONS = ("fp32", "fp16", "int8")

Answers = list[tuple[list[int], np.ndarray]]


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    """Random weights that do not say one word again and again: what is said depends on the position most."""
    torch.manual_seed(0)
    network = Mimo(CONFIG).eval()
    with torch.no_grad():
        network.text_decoder.word.weight.normal_(std=0.1)
        network.text_decoder.position.weight.normal_(std=0.4)
    return graph_modules(network)["text_decoder"]


@pytest.fixture(scope="module")
def exported(module: torch.nn.Module) -> dict[str, onnx.ModelProto]:
    """The growing form in every precision."""
    model = export_graph(module, DYNAMIC)
    return {precision: convert_precision(model, DYNAMIC, CONFIG, precision) for precision in PRECISIONS}


@pytest.fixture(scope="module")
def wanted(module: torch.nn.Module) -> Answers:
    """What PyTorch writes."""
    return answers(TorchEngine(module, DYNAMIC))


def answers(engine: Engine) -> Answers:
    return [answer(engine, CONFIG, memory) for memory in MEMORIES]


def on(engine: str, model: onnx.ModelProto, form: str, *, shipped: bool = False) -> Engine:
    made, spec = with_static_cache(model, CONFIG, form)
    made = to_ort_cpu_graph(made) if shipped else made
    return create_engine(engine, made.SerializeToString(), spec, threads=1)


def test_answers_are_worth_comparing(wanted: Answers):
    for tokens, logits in wanted:
        assert len(tokens) == LENGTH and len(set(tokens)) > LENGTH / 4
        best = np.sort(logits, axis=1)
        assert (best[:, -1] - best[:, -2]).min() > 1e-4  # no tie that rounding may break either way
    assert len({tuple(tokens) for tokens, _ in wanted}) == len(MEMORIES)


@pytest.mark.parametrize(
    ("engine", "form", "shipped"),
    [
        ("onnxruntime", "dynamic", False),
        ("onnxruntime", "static", False),
        ("onnxruntime", "dynamic", True),
        ("onnxruntime", "static", True),
        ("openvino", "dynamic", False),
    ],
)
def test_every_form_writes_the_tokens_of_pytorch(exported, wanted: Answers, engine: str, form: str, shipped: bool):
    pytest.importorskip(engine)
    loaded = on(engine, exported["fp32"], form, shipped=shipped)
    for (tokens, logits), (expected, reference) in zip(answers(loaded), wanted):
        assert tokens == expected
        np.testing.assert_allclose(logits, reference, rtol=0, atol=2e-5)
    loaded.close()


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 0.005), ("int8", 0.05)])
def test_reduced_precision_loses_no_more_in_place(exported, wanted: Answers, precision: str, limit: float):
    """Roundings differ, since a fused softmax is computed in half precision by ONNX Runtime: their size must not."""
    loaded = [on("onnxruntime", exported[precision], form) for form in KV_CACHES]
    for memory, (tokens, reference) in zip(MEMORIES, wanted):
        found = [read(engine, memory, [BOS, *tokens[:-1]]) for engine in loaded]
        dynamic, static = (float(np.linalg.norm(logits - reference) / np.linalg.norm(reference)) for logits in found)
        assert dynamic < limit and static < 1.2 * dynamic


def read(engine: Engine, memory: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """The logits behind every token of a text that is given."""
    decoder = TextDecoder(engine, CONFIG, memory, CONFIG.vocab_size, ())
    return np.stack([decoder.step(token) for token in tokens])


def test_the_reference_implementation_of_onnx_agrees(exported, wanted: Answers):
    """ONNX Runtime's kernels of these operators are new: hold them against what defines the operators."""
    from onnx.reference import ReferenceEvaluator

    model, spec = with_static_cache(exported["fp32"], CONFIG, "static")
    evaluator = ReferenceEvaluator(model)

    class Reference(Engine):
        inputs = {t.name: t for t in spec.inputs}

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict(zip([t.name for t in spec.outputs], evaluator.run(None, inputs)))

    tokens, logits = answer(Reference(), CONFIG, MEMORIES[0])
    assert tokens == wanted[0][0]
    np.testing.assert_allclose(logits, wanted[0][1], rtol=0, atol=2e-5)


def test_what_lies_behind_the_position_is_not_read(exported):
    """Samples of a batch may be at different places, and a cache need not be empty."""
    engine = on("onnxruntime", exported["fp32"], "static")
    rng, positions = np.random.default_rng(0), np.array([[0], [7], [LENGTH - 1]], np.int32)
    inputs = {t.name: rng.standard_normal(t.concrete(batch=3)).astype(t.dtype) for t in engine.inputs.values()}
    inputs |= {"token": np.array([[5], [6], [7]], np.int32), "position": positions}
    inputs["memory_valid"][:] = 1
    first = engine.run(inputs)
    for name in [name for name in inputs if name.startswith("past_")]:
        for row, position in enumerate(positions[:, 0]):
            written = first[name.removeprefix("past_")][row]
            np.testing.assert_array_equal(np.delete(written, position, 1), np.delete(inputs[name][row], position, 1))
            inputs[name][row, :, position:] = 100.0 * rng.standard_normal(inputs[name][row, :, position:].shape)
    np.testing.assert_allclose(engine.run(inputs)["logits"], first["logits"], rtol=0, atol=1e-5)
    engine.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_graph_in_place(exported, precision: str):
    model, spec = with_static_cache(exported[precision], CONFIG, "static")
    kinds = [node.op_type for node in model.graph.node]
    assert spec in allowed_specs(CONFIG)["text_decoder"]
    assert spec.inputs[2].dtype == ("float32" if precision == "fp32" else "float16")
    assert [i.version for i in model.opset_import] == [STATIC_CACHE_OPSET]
    assert (kinds.count("TensorScatter"), kinds.count("Attention")) == (4, 4)
    assert not {"Concat", "Softmax"} & set(kinds) and len({n.name for n in model.graph.node}) == len(kinds)
    # Two products became one node; every other is what it was.
    before, after = delivered(exported[precision]), delivered(model)
    fused = "fp32" if precision == "fp32" else "fp16"
    assert after == {**before, fused: before[fused] - 4}
    weights = {w.name: w.SerializeToString() for w in exported[precision].graph.initializer}
    assert all(weights[w.name] == w.SerializeToString() for w in model.graph.initializer if not w.name.startswith("cache/"))


def test_the_model_that_it_is_made_from_stays_as_it_was(exported):
    model = exported["fp32"]
    before = model.SerializeToString(deterministic=True)
    first, second = (with_static_cache(model, CONFIG, "static")[0].SerializeToString(deterministic=True) for _ in range(2))
    assert model.SerializeToString(deterministic=True) == before and first == second
    assert with_static_cache(model, CONFIG, "dynamic") == (model, DYNAMIC)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.opset_import[0].__setattr__("version", OPSET - 1), f"not in opset {OPSET}"),
        (lambda model: swap(model, "Concat", "Sum"), r"appends to the caches \(none\)"),
        (lambda model: swap(model, "Softmax", "Sigmoid"), "has 0 attentions in 2 layers"),
        (lambda model: grow_scores(model), "is no attention that can be fused"),
        (lambda model: widen(model), "attends in several precisions"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(exported, change, words: str):
    model = copied(exported["fp32"])
    change(model)
    with pytest.raises(EngineError, match=f"cannot have a static KV cache: .*{words}.*dynamic KV cache"):
        with_static_cache(model, CONFIG, "static")


def swap(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        if node.op_type == old:
            node.op_type = new
            del node.attribute[:]


def grow_scores(model: onnx.ModelProto) -> None:
    """Square the attention scores: they leave the range of half precision."""
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    model.graph.node.append(helper.make_node("Mul", [softmax.input[0], softmax.input[0]], ["grown"], name="grown"))
    softmax.input[0] = "grown"


def widen(model: onnx.ModelProto) -> None:
    """A value that is read in another precision than it has in the cache."""
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    product = next(node for node in model.graph.node if softmax.output[0] in node.input)
    for name in list(product.input):
        model.graph.node.append(helper.make_node("Cast", [name], [f"{name}_half"], name=f"{name}/Cast", to=TensorProto.FLOAT16))
    product.input[:] = [f"{name}_half" for name in product.input]


def test_an_unknown_form_is_refused(exported):
    with pytest.raises(ValueError, match="KV cache paged is none of dynamic, static"):
        with_static_cache(exported["fp32"], CONFIG, "paged")


@pytest.mark.parametrize(
    ("api", "version", "form"),
    [
        ("tensorrt", "10.3.0", "dynamic"), ("tensorrt", "10.14.1", "dynamic"), ("tensorrt", "10.15.1", "static"),
        ("tensorrt", "10.16.1.11", "static"), ("tensorrt", "11.4.0.106", "static"), ("tensorrt-rtx", "", "static"),
        ("onnxruntime", "", "dynamic"), ("openvino", "", "dynamic"), ("onnxruntime-cuda", "", "dynamic"),
    ],
)  # fmt: skip
def test_every_engine_has_its_form(api: str, version: str, form: str):
    assert best_cache(api, version) == form


def test_a_tensorrt_without_a_version_has_none():
    with pytest.raises(ValueError, match="no version"):
        best_cache("tensorrt")


# -- TensorRT for RTX ------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.rtx
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("capabilities", [(), ("7.5",)])
def test_it_compiles_in_place(exported, precision: str, capabilities: tuple[str, ...]):
    model, spec = with_static_cache(exported[precision], CONFIG, "static")
    options = rtx_options(default_axes(CONFIG), precision, capabilities)
    if precision == "fp32" and capabilities:  # its products are refused for Turing in any form
        with pytest.raises(EngineError, match="FP32 GEMM"):
            compile_graph(model, spec, options)
        return
    built = compile_graph(model, spec, options)
    assert len(built.plan) > 10_000 and built.in_graph == delivered(model)
    assert built.profiles == ({"batch": (1, 1, 4)},)


@needs_compiler
@pytest.mark.rtx
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_sees_a_cache_that_is_updated_in_place_and_attention_with_a_mask(exported, precision: str):
    """Without the mask it would attend to what lies behind the last token: the compiler would not mind."""
    trt = load_rtx_library()
    model, spec = with_static_cache(exported[precision], CONFIG, "static")
    log = Log(trt)
    network, _parser = parse(trt, trt.Builder(log.logger), model.SerializeToString(), spec, log, "TensorRT-RTX")
    layers = [network.get_layer(k) for k in range(network.num_layers)]
    updates = [layer for layer in layers if layer.type == trt.LayerType.KV_CACHE_UPDATE]
    inputs = {network.get_input(k).name for k in range(network.num_inputs)}
    outputs = {network.get_output(k).name for k in range(network.num_outputs)}
    for layer, cache in zip(updates, spec.outputs[1:], strict=True):
        assert (layer.get_input(0).name, layer.get_output(0).name) == (f"past_{cache.name}", cache.name)
        assert layer.get_input(0).name in inputs and layer.get_output(0).name in outputs
    masks = [layer.get_input(3) for layer in layers if layer.type == trt.LayerType.ATTENTION_INPUT]
    assert [tuple(mask.shape)[-1] for mask in masks] == [LENGTH, CONFIG.memory_tokens] * 2
    assert [mask.dtype == trt.bool for mask in masks] == [True, False] * 2


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, module: torch.nn.Module, exported):
    monkeypatch.setattr(kv_cache, "export_decoder", lambda *_: (CONFIG, TorchEngine(module, DYNAMIC), exported["fp32"]))
    return lambda *arguments: CliRunner().invoke(kv_cache.command, ["--seconds", "0", *arguments])


def test_the_command_measures_every_kv_cache(command, monkeypatch):
    monkeypatch.setattr(kv_cache, "missing_rtx_package", lambda: "tensorrt_rtx_bindings")
    result = command("--threads", "1", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [(r["engine"], r["kv_cache"]) for r in found["cpu"]] == list(kv_cache.CONTENDERS)
    assert all(r["identical"] and 0 < r["ms_per_token"] < 100 and r["logits_differ"] < 2e-5 for r in found["cpu"])
    assert found["compiled"] == []


@needs_compiler
@pytest.mark.rtx
def test_the_command_compiles_both_caches_and_prints_tables(command):
    result = command("--threads", "1")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert [row[:2] for row in rows if row[0] in ("onnxruntime", "openvino")] == [list(c) for c in kv_cache.CONTENDERS]
    assert [row[2] for row in rows if row[0] == "tensorrt-rtx"] == list(KV_CACHES)


def test_the_command_ends_with_1_if_a_cache_writes_other_tokens(command, monkeypatch):
    monkeypatch.setattr(kv_cache, "missing_rtx_package", lambda: "tensorrt_rtx_bindings")
    right = kv_cache.with_static_cache

    def wrong(model: onnx.ModelProto, config: MimoConfig, form: str):
        made, spec = right(model, config, form)
        made = copied(made)
        if form == "static":  # every token at place 0
            for weight in made.graph.initializer:
                if weight.name == "cache/slots":
                    weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros(LENGTH, np.int32), weight.name))
        return made, spec

    monkeypatch.setattr(kv_cache, "with_static_cache", wrong)
    result = command("--threads", "1")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: other tokens than PyTorch: onnxruntime static")
