"""What a candidate of a graph is: one file for one engine."""

from __future__ import annotations

from dataclasses import dataclass

from .recipe import QuantizationRecipe

#: The graph whose INT8 is in its weights alone: it computes one token at a time, and quantizing that activation saves nothing.
WEIGHTS_ONLY = "text_decoder"


@dataclass(frozen=True)
class Candidate:
    """One variant of a graph for one engine.

    Attributes:
        label: unique among the candidates of a graph; reports use it.
        precision: fp32, fp16, int8, int8-weights or int4-weights.
        engine: name of the engine.
        threads: of the engine; None leaves the choice to the engine.
        data: the ONNX file.
        recipe: None where nothing is quantized.
    """

    label: str
    precision: str
    engine: str
    threads: int | None
    data: bytes
    recipe: QuantizationRecipe | None = None


def satisfies(graph: str, precision: str, requested: str) -> bool:
    """Whether a candidate's ``precision`` is the ``requested`` one. Weight-only INT8 counts as INT8 in the text decoder."""
    return precision == requested or (precision == "int8-weights" and requested == "int8" and graph == WEIGHTS_ONLY)
