"""What a candidate of a graph is: one file for one engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from mimo_runtime.hardware.host import cpu_features

from ..graph.ort_cpu import to_ort_cpu_graph
from .recipe import QuantizationRecipe
from .settings import OPENVINO, ORT

#: The graph whose INT8 is in its weights alone: it computes one token at a time, and quantizing that activation saves nothing.
WEIGHTS_ONLY = "text_decoder"
#: A setting of OpenVINO: products in BF16, sums in FP32.
BF16 = "bf16"


@dataclass(frozen=True)
class Candidate:
    """One variant of a graph for one engine.

    Attributes:
        label: unique among the candidates of a graph; reports use it.
        precision: fp32, bf16, fp16, int8, int8-weights or int4-weights.
        engine: name of the engine.
        threads: of the engine; None leaves the choice to the engine.
        data: the ONNX file.
        recipe: None where nothing is quantized.
        options: settings of the engine, see ``mimo_runtime.engines.create_engine``.
    """

    label: str
    precision: str
    engine: str
    threads: int | None
    data: bytes
    recipe: QuantizationRecipe | None = None
    options: Mapping[str, str] = field(default_factory=dict)


def bf16_features() -> list[str]:
    """The features of this CPU with which products in BF16 are faster than in FP32."""
    return sorted({"avx512_bf16", "amx_bf16", BF16} & (cpu_features() or set()))


def full_precision(name: str, model: onnx.ModelProto, engines: Sequence[str], threads: int | None) -> list[Candidate]:
    """Candidates of a graph in full precision, beside the graph as it is on ONNX Runtime.

    Args:
        engines: installed ones.
    """
    data, candidates = model.SerializeToString(), []
    if ORT in engines and name == WEIGHTS_ONLY:
        unstacked = to_ort_cpu_graph(model).SerializeToString()
        candidates.append(Candidate("fp32 onnxruntime, 1 thread", "fp32", ORT, 1, unstacked))
    elif ORT in engines:
        options = {"dynamic_block_base": "4"}
        candidates.append(Candidate("fp32 onnxruntime, dynamic blocks", "fp32", ORT, threads, data, options=options))
    if OPENVINO in engines:
        candidates.append(Candidate("fp32 openvino", "fp32", OPENVINO, threads, data))
        own = {"threads": "own"}
        candidates.append(Candidate("fp32 openvino, own threads", "fp32", OPENVINO, threads, data, options=own))
    return candidates


def satisfies(graph: str, precision: str, requested: str) -> bool:
    """Whether a candidate's ``precision`` is the ``requested`` one. Weight-only INT8 counts as INT8 in the text decoder."""
    return precision == requested or (precision == "int8-weights" and requested == "int8" and graph == WEIGHTS_ONLY)
