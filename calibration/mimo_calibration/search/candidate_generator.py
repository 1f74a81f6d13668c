"""The candidates of a graph: by recipe and precision, for the engines of a CPU or for a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from ..graph.attention import operand_ranges, with_int8_attention
from ..graph.fp16 import compact, to_half
from ..graph.gpu import to_gpu_graph
from ..graph.ort_cpu import to_ort_cpu_graph
from .candidates import BF16, WEIGHTS_ONLY, Candidate, bf16_features, full_precision
from .pipeline import QuantizedPipeline
from .recipe import WEIGHTS, GraphContext, QuantizationRecipe
from .recipe_search import RecipeSearch
from .results import GraphResult
from .settings import OPENVINO, ORT


class CandidateGenerator:
    """Makes the candidates of each graph of a pipeline.

    Attributes:
        recipes: the search for the recipe of a graph.
        fp32_nodes: nodes of a candidate in half precision that stay in FP32, with the reason; by graph and label.
    """

    def __init__(self, pipeline: QuantizedPipeline, recipes: RecipeSearch) -> None:
        self.models, self.settings, self.recipes = pipeline.models, pipeline.settings, recipes
        self.fp32_nodes: dict[tuple[str, str], dict[str, str]] = {}

    def candidates(self, name: str, context: GraphContext, result: GraphResult) -> list[Candidate]:
        """All candidates of a graph beside the one in full precision on ONNX Runtime."""
        if self.settings.gpu:
            return self._for_gpu(name, context, result)
        if self.settings.precision == "fp16":
            return self._half(name, context)
        return [*self._full(name), *self._quantized(name, context, result)]

    def _full(self, name: str) -> list[Candidate]:
        """Full precision on other engines and with other settings, and BF16; for "auto" only."""
        if self.settings.precision != "auto":
            return []
        threads = self.settings.threads
        full = full_precision(name, self.models[name], self.settings.engines, threads)
        if self._in_bf16 and name != WEIGHTS_ONLY:
            data = self.models[name].SerializeToString()
            full.append(Candidate("bf16 openvino", BF16, OPENVINO, threads, data, options={"precision": BF16}))
        return full

    @property
    def _in_bf16(self) -> bool:
        """Whether BF16 is tried: it is no precision that a user can ask for by name."""
        return self.settings.precision == "auto" and OPENVINO in self.settings.engines and bool(bf16_features())

    def _half(self, name: str, context: GraphContext) -> list[Candidate]:
        half = to_half(self.models[name], context.histograms)
        data, threads = half.model.SerializeToString(), self.settings.threads
        candidates = [Candidate(f"fp16 {e}", "fp16", e, threads, data) for e in self.settings.engines]
        self.fp32_nodes |= {(name, candidate.label): half.fp32_nodes for candidate in candidates}
        return candidates

    def _quantized(self, name: str, context: GraphContext, result: GraphResult) -> list[Candidate]:
        recipe = self.recipes.run(name, context, result)
        if name == WEIGHTS_ONLY:
            return self._weights_by_bits(context)
        weights = QuantizationRecipe(WEIGHTS, 8)
        data = context.ort_cpu(weights, edit=compact).SerializeToString()
        light = Candidate("int8 weights onnxruntime", "int8-weights", ORT, self.settings.threads, data, weights)
        return [*self.int8(name, context, recipe, self.settings.engines), light]

    def _weights_by_bits(self, context: GraphContext) -> list[Candidate]:
        """Weight-only candidates, on one thread and on all: small products are fastest on one."""
        candidates = []
        for bits in (8, 4) if self.settings.precision == "auto" else (8,):
            recipe = QuantizationRecipe(WEIGHTS, bits)
            data = context.ort_cpu(recipe).SerializeToString()
            for threads in sorted({1, self.settings.threads}):
                label = f"int{bits} weights onnxruntime, {threads} thread{'s' * (threads > 1)}"
                candidates.append(Candidate(label, f"int{bits}-weights", ORT, threads, data, recipe))
        return candidates

    def int8(
        self, name: str, context: GraphContext, recipe: QuantizationRecipe, engines: Sequence[str], label: str = ""
    ) -> list[Candidate]:
        """The candidates of a recipe with quantized activations, one per engine; for a GPU one.

        Args:
            label: distinguishes them from the candidates of another recipe.
        """
        if self.settings.gpu:
            model = context.quantized(recipe)
            return [self._cast(name, f"int8{label} (FP16 between)", "int8", model, context, recipe)]
        model = compact(context.quantized(recipe))
        candidates = [
            Candidate(f"int8 {e}{label}", "int8", e, self.settings.threads,
                      (to_ort_cpu_graph(model) if e == ORT else model).SerializeToString(), recipe)
            for e in engines
        ]  # fmt: skip
        between = [replace(c, label=f"{c.label}, BF16 between", options={"precision": BF16})
                   for c in candidates if self._in_bf16 and c.engine == OPENVINO]  # fmt: skip
        return [*candidates, *between, *self._int8_attention(candidates, context)]

    def _int8_attention(self, candidates: Sequence[Candidate], context: GraphContext) -> list[Candidate]:
        """Candidates whose attention is in INT8 as well, under "auto" on OpenVINO: ONNX Runtime has no fast kernel for it."""
        if self.settings.precision != "auto" or not any(c.engine == OPENVINO for c in candidates):
            return []
        ranges = operand_ranges(context.model, [inputs for inputs, _ in context.calls])
        if not ranges:
            return []
        return [
            replace(c, label=f"{c.label}, INT8 attention",
                    data=with_int8_attention(onnx.load_from_string(c.data), ranges).SerializeToString())
            for c in candidates if c.engine == OPENVINO
        ]  # fmt: skip

    def _for_gpu(self, name: str, context: GraphContext, result: GraphResult) -> list[Candidate]:
        """The candidates for a GPU in the order in which they are tried. ONNX Runtime on the CPU computes the same files."""
        precisions = self.settings.precisions if self.settings.precision == "auto" else (self.settings.precision,)
        candidates = []
        if "int8" in precisions:
            recipe = self.recipes.run(name, context, result)
            if name == WEIGHTS_ONLY:
                model = context.quantized(recipe)
                candidates.append(self._cast(name, "int8 weights (FP16 between)", "int8-weights", model, context, recipe))
            else:
                candidates += self.int8(name, context, recipe, (ORT,))
        if "fp16" in precisions:
            candidates.append(self._cast(name, "fp16", "fp16", self.models[name], context, None))
        return candidates

    def _cast(
        self, name: str, label: str, precision: str, model: onnx.ModelProto, context: GraphContext,
        recipe: QuantizationRecipe | None,
    ) -> Candidate:  # fmt: skip
        """A candidate for a GPU: everything that is not quantized is in half precision."""
        half = to_gpu_graph(model, context.histograms)
        self.fp32_nodes[name, label] = half.fp32_nodes
        return Candidate(label, precision, ORT, self.settings.threads, half.model.SerializeToString(), recipe)
