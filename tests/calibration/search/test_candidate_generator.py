"""The candidates of a graph by requested precision and target."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from small_graphs import make_model, node, operators

from mimo_calibration.search import candidate_generator
from mimo_calibration.search.candidate_generator import CandidateGenerator
from mimo_calibration.search.recipe import GraphContext, QuantizationRecipe
from mimo_calibration.search.results import GraphResult
from mimo_calibration.search.settings import Settings
from mimo_calibration.statistics.histogram import HistogramObserver


@pytest.fixture
def context(rng) -> GraphContext:
    """A product behind a norm, with statistics."""
    constants = {"s": np.ones(32, np.float32), "w": rng.normal(size=(32, 16)).astype(np.float32)}
    nodes = [node("LayerNormalization", ["x", "s"], "n"), node("MatMul", ["n", "w"], "y")]
    model = make_model(nodes, {"x": ("batch", 32)}, ["y"], constants)
    histogram = HistogramObserver()
    histogram.add(rng.normal(size=(50, 32)).astype(np.float32))
    return GraphContext(model, {name: histogram for name in ("x", "n", "y")}, [])


def generate(context: GraphContext, name: str, **settings: object) -> tuple[CandidateGenerator, list]:
    options = {"threads": 2, "engines": ("onnxruntime", "openvino"), **settings}
    pipeline = SimpleNamespace(models={name: context.model}, settings=Settings(**options))
    recipes = SimpleNamespace(run=lambda *_: QuantizationRecipe("minmax"))
    generator = CandidateGenerator(pipeline, recipes)
    return generator, generator.candidates(name, context, GraphResult())


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_the_text_decoder_gets_weights_of_the_requested_precision(context, precision):
    _, candidates = generate(context, "text_decoder", precision=precision)
    # Four bits do not satisfy --precision int8.
    expected = {"int8-weights"} if precision == "int8" else {"fp32", "int8-weights", "int4-weights"}
    assert {c.precision for c in candidates} == expected
    assert {c.threads for c in candidates if c.precision == "int8-weights"} == {1, 2}
    assert len({c.label for c in candidates}) == len(candidates)


#: In full precision, beside the graph as it is.
FULL = ["fp32 onnxruntime, dynamic blocks", "fp32 openvino", "fp32 openvino, own threads"]


@pytest.mark.parametrize(
    ("precision", "labels"),
    [
        ("auto", [*FULL, "int8 onnxruntime", "int8 openvino", "int8 weights onnxruntime"]),
        ("int8", ["int8 onnxruntime", "int8 openvino", "int8 weights onnxruntime"]),
        ("fp16", ["fp16 onnxruntime", "fp16 openvino"]),
    ],
)
def test_a_cpu_gets_each_engine_in_the_requested_precision(context, precision, labels, monkeypatch):
    monkeypatch.setattr(candidate_generator, "bf16_features", list)
    generator, candidates = generate(context, "fusion", precision=precision)
    assert [c.label for c in candidates] == labels
    assert [bool(c.recipe) for c in candidates] == [label.startswith("int8") for label in labels]
    # The norm of a graph in half precision stays in FP32, for the report.
    assert all(set(nodes) == {"n"} for nodes in generator.fp32_nodes.values())


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_a_cpu_with_bf16_gets_products_in_it_under_auto(context, precision, monkeypatch):
    monkeypatch.setattr(candidate_generator, "bf16_features", lambda: ["avx512_bf16"])
    _, candidates = generate(context, "fusion", precision=precision)
    in_bf16 = {c.label: (c.engine, c.precision) for c in candidates if c.options.get("precision") == "bf16"}
    both = {"bf16 openvino": ("openvino", "bf16"), "int8 openvino, BF16 between": ("openvino", "int8")}
    assert in_bf16 == (both if precision == "auto" else {})


@pytest.mark.parametrize(
    ("precision", "precisions", "labels"),
    [
        ("auto", ("int8", "fp16"), ["int8 (FP16 between)", "fp16"]),
        ("auto", ("fp16",), ["fp16"]),
        ("int8", ("int8", "fp16"), ["int8 (FP16 between)"]),
        ("fp16", ("int8", "fp16"), ["fp16"]),
    ],
)
def test_a_gpu_gets_int8_before_fp16_where_the_target_has_it(context, precision, precisions, labels):
    generator, candidates = generate(context, "fusion", precision=precision, precisions=precisions, gpu=True)
    assert [c.label for c in candidates] == labels
    assert [bool(c.recipe) for c in candidates] == [label.startswith("int8") for label in labels]
    assert set(generator.fp32_nodes) == {("fusion", label) for label in labels}


def test_the_weights_of_a_gpus_text_decoder_stay_symmetric(context):
    _, (candidate,) = generate(context, "text_decoder", precision="int8", gpu=True)
    model = onnx.load_from_string(candidate.data)
    assert candidate.precision == "int8-weights" and not operators(model, "MatMulNBits")
    assert operators(model, "DequantizeLinear")
