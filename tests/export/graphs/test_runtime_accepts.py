"""What the exporter and the calibration write in any precision, the runtime accepts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper

from mimo_calibration.graph.observer import ObservingEngine
from mimo_calibration.search import candidate_generator
from mimo_calibration.search.candidate_generator import CandidateGenerator
from mimo_calibration.search.recipe import GraphContext, QuantizationRecipe
from mimo_calibration.search.results import GraphResult
from mimo_calibration.search.settings import Settings
from mimo_export.graphs.graph_file import write_graph
from mimo_export.graphs.static_kv_cache import KV_CACHES, with_static_cache
from mimo_export.graphs.validate import check_runtime_accepts
from mimo_export.targets import TARGETS
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.errors import EngineError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GRAPHS, GraphSpec, Tensor

#: What ``mimo-export build --precision`` offers beside fp32, on a CPU (ONNX Runtime and OpenVINO) and for a GPU.
PRECISIONS = [(precision, gpu) for precision in ("auto", "int8", "fp16") for gpu in (False, True)]


@pytest.fixture(scope="module")
def opened(bundle: Path) -> Bundle:
    return Bundle.open(bundle)


@pytest.fixture(scope="module")
def contexts(opened: Bundle) -> dict[str, GraphContext]:
    """Each graph with statistics of one run on random inputs."""
    rng, contexts = np.random.default_rng(0), {}
    for name, entry in opened.manifest.graphs.items():
        model = onnx.load_from_string(opened.bytes(entry.file))
        observer = ObservingEngine(model, entry.spec, every=True, threads=1)
        observer.run({
            tensor.name: rng.normal(size=tensor.concrete(batch=1, past=3)).astype(tensor.dtype)
            if tensor.dtype == "float32" else np.ones(tensor.concrete(batch=1, past=3), tensor.dtype)
            for tensor in entry.spec.inputs
        })  # fmt: skip
        contexts[name] = GraphContext(model, observer.histograms, [])
    return contexts


def candidates(name: str, context: GraphContext, precision: str, gpu: bool, recipe: QuantizationRecipe) -> list:
    settings = Settings(precision, gpu=gpu, threads=2)
    generator = CandidateGenerator(
        SimpleNamespace(models={name: context.model}, settings=settings), SimpleNamespace(run=lambda *_: recipe)
    )
    return generator.candidates(name, context, GraphResult())


@pytest.mark.parametrize(
    ("precision", "gpu", "smooth"), [(*p, False) for p in PRECISIONS] + [("int8", False, True), ("int8", True, True)]
)
def test_every_candidate_of_every_graph(contexts, opened, monkeypatch, precision: str, gpu: bool, smooth: bool) -> None:
    # As on a CPU that multiplies in BF16: elsewhere these candidates are not tried.
    monkeypatch.setattr(candidate_generator, "bf16_features", lambda: ["avx512_bf16"])
    kinds = set()
    for name in GRAPHS:
        spec = opened.manifest.graphs[name].spec
        for candidate in candidates(name, contexts[name], precision, gpu, QuantizationRecipe("minmax", smooth=smooth)):
            check_runtime_accepts(candidate.data, spec, opened.config)
            kinds.add(candidate.precision)
    expected = {"int8": {"int8", "int8-weights"}, "fp16": {"fp16"}, "auto": {"int8", "int8-weights", "fp16" if gpu else "fp32"}}
    assert kinds == expected[precision] | ({"int4-weights", "bf16"} if precision == "auto" and not gpu else set())


@pytest.mark.parametrize("kind", KV_CACHES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_kv_cache_of_the_text_decoder(contexts, opened, precision: str, kind: str) -> None:
    context, data = contexts["text_decoder"], opened.bytes("graphs/text_decoder.onnx")
    if precision != "fp32":
        (candidate,) = candidates("text_decoder", context, precision, True, QuantizationRecipe("minmax"))
        data = candidate.data
    model, spec = with_static_cache(onnx.load_from_string(data), opened.config, kind)
    check_runtime_accepts(model.SerializeToString(), spec, opened.config)


def add_operator(op: str, domain: str = "") -> onnx.ModelProto:
    """A graph of one input and one output with one node."""
    value = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3])
    out = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node(op, ["image"], ["out"], domain=domain)], "g", [value], [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize("op", ["NonZero", "Det", "RandomNormalLike"])
def test_a_graph_that_the_runtime_refuses_is_not_written(op: str, tmp_path: Path) -> None:
    spec = GraphSpec("vision_encoder", (Tensor("image", "float32", (1, 3)),), ())
    with pytest.raises(EngineError, match=f"runtime refuses what was exported: graph vision_encoder holds the operator '{op}'"):
        write_graph(add_operator(op), spec, MimoConfig.from_preset("micro"), TARGETS["cpu"], "auto", tmp_path)
    assert not (tmp_path / "graphs").exists()
