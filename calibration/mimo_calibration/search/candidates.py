"""The forms that a graph may take: by recipe, block by block, for the engines of a CPU or for a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx

from ..graph.fp16 import compact, to_half
from ..graph.gpu import to_gpu_graph
from ..graph.ort_cpu import to_ort_cpu_graph
from ..graph.qdq import amax_of
from ..graph.quantizable import blocks
from .pipeline import ORT, QuantizedPipeline
from .recipe import CEILING, GraphContext, QuantizationRecipe, best_recipe, score, sqnr
from .results import WEIGHTS_ONLY, Candidate, GraphResult

#: Blocks that are left out one after the other before the graph is given up.
MOST_SKIPPED = 6
#: Presence decisions that may change in the search, where one of some fifty is already more than the tolerance.
SEARCH_FLIPS = 1
#: Share of the tolerance that the search aims for: the gate measures other images.
MARGIN = 0.8


class CandidateSearch(QuantizedPipeline):
    """See the module. Arguments as for :class:`~mimo_calibration.search.pipeline.QuantizedPipeline`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        #: Nodes of a form in half precision that stay in FP32, and why; by graph and label of the candidate.
        self.islands: dict[tuple[str, str], dict[str, str]] = {}

    def _full(self, name: str) -> Candidate:
        return Candidate("fp32 onnxruntime", "fp32", ORT, self.settings.threads, self.models[name].SerializeToString())

    def _candidates(self, name: str, material: GraphContext, told: GraphResult) -> list[Candidate]:
        precision, engines = self.settings.precision, self.settings.engines
        found: list[Candidate] = []
        if self.settings.gpu:
            return self._gpu_candidates(name, material, told)
        if precision == "fp16":
            half = to_half(self.models[name], material.seen)
            data = half.model.SerializeToString()
            found = [Candidate(f"fp16 {e}", "fp16", e, self.settings.threads, data) for e in engines]
            self.islands |= {(name, candidate.label): half.islands for candidate in found}
            return found
        full = self.models[name].SerializeToString()
        if precision == "auto":
            found += [Candidate(f"fp32 {e}", "fp32", e, self.settings.threads, full) for e in engines if e != ORT]
        if name == WEIGHTS_ONLY:
            if precision == "auto":
                cut = to_ort_cpu_graph(self.models[name]).SerializeToString()
                found.append(Candidate("fp32 onnxruntime, 1 thread", "fp32", ORT, 1, cut))
            self._recipe(name, material, told)
            for bits in (8, 4) if precision == "auto" else (8,):
                data = to_ort_cpu_graph(material.quantised(QuantizationRecipe("weights", bits))).SerializeToString()
                found += [
                    Candidate(f"int{bits} weights onnxruntime, {n} thread{'s' * (n > 1)}", f"int{bits}-weights", ORT, n, data,
                              QuantizationRecipe("weights", bits))
                    for n in sorted({1, self.settings.threads})
                ]  # fmt: skip
            return found
        found += self._int8(name, material, self._recipe(name, material, told), engines)
        weights = QuantizationRecipe("weights", 8)
        data = to_ort_cpu_graph(compact(material.quantised(weights))).SerializeToString()
        found.append(Candidate("int8 weights onnxruntime", "int8-weights", ORT, self.settings.threads, data, weights))
        return found

    def _int8(
        self, name: str, material: GraphContext, recipe: QuantizationRecipe, engines: Sequence[str], label: str = ""
    ) -> list[Candidate]:  # fmt: skip
        """The forms of a recipe with quantised activations, one per engine.

        Args:
            label: what tells them from those of another recipe.
        """
        model = material.quantised(recipe)
        if self.settings.gpu:
            return [self._halved(name, f"int8{label} (FP16 between)", "int8", model, material, recipe)]
        model = compact(model)
        return [
            Candidate(f"int8 {e}{label}", "int8", e, self.settings.threads,
                      (to_ort_cpu_graph(model) if e == ORT else model).SerializeToString(), recipe)
            for e in engines
        ]  # fmt: skip

    def _gpu_candidates(self, name: str, material: GraphContext, told: GraphResult) -> list[Candidate]:
        """The forms that a GPU may get, in the order in which they are tried: ONNX Runtime computes the same files."""
        forms = self.settings.forms if self.settings.precision == "auto" else (self.settings.precision,)
        found = []
        if "int8" in forms:
            recipe = self._recipe(name, material, told)
            if name == WEIGHTS_ONLY:
                model = material.quantised(recipe)
                found.append(self._halved(name, "int8 weights (FP16 between)", "int8-weights", model, material, recipe))
            else:
                found += self._int8(name, material, recipe, (ORT,))
        if "fp16" in forms:
            found.append(self._halved(name, "fp16", "fp16", self.models[name], material))
        return found

    def _halved(
        self,
        name: str,
        label: str,
        precision: str,
        model: onnx.ModelProto,
        material: GraphContext,
        recipe: QuantizationRecipe | None = None,
    ) -> Candidate:
        """A form for a GPU: all that is not quantised is in half precision."""
        half = to_gpu_graph(model, material.seen)
        self.islands[name, label] = half.islands
        return Candidate(label, precision, ORT, self.settings.threads, half.model.SerializeToString(), recipe)

    def _recipe(self, name: str, material: GraphContext, told: GraphResult) -> QuantizationRecipe:
        """How to quantise a graph: the best method, without the blocks that lose too much; of the text decoder the weights."""
        if name == WEIGHTS_ONLY:
            recipe = QuantizationRecipe("weights", 8)
            told.sensitivity = self._sensitivity(name, material, recipe)
            return recipe
        recipe, told.methods = best_recipe(material, self._runner(name), ORT)
        told.sensitivity = self._sensitivity(name, material, recipe)
        recipe = self._within(name, material, recipe, told)
        told.clips = amax_of(material.quantised(recipe))
        told.smoothed = frozenset(material.smoothed()[1]) if recipe.smooth else frozenset()
        return recipe

    def _sensitivity(self, name: str, material: GraphContext, recipe: QuantizationRecipe) -> list[dict[str, Any]]:
        """Every block alone: noise at the graph's outputs, and what the chain loses; worst first."""
        rows, parts = [], blocks(material.points())
        masks = name != WEIGHTS_ONLY  # no mask depends on what it writes, so no Dice and no presence
        # What the graphs upstream lose already is not this block's doing.
        before = self._loss("blocks", self.engines)[0] if masks else None
        for number, (block, points) in enumerate(parts.items()):
            self.progress(f"blocks of {name}", number, len(parts))
            engine = self._engine(name, to_ort_cpu_graph(material.quantised(recipe, only=block)).SerializeToString())
            ratio = score(sqnr(material.calls, engine.run))
            lost = presence = 0.0
            if before is not None:
                loss, _ = self._loss("blocks", {**self.engines, name: engine})
                lost = max((value - before.dice[prompt] for prompt, value in loss.dice.items()), default=0.0)
                presence = loss.presence_f1 - before.presence_f1
            rows.append({
                "block": block, "points": len(points), "sqnr_db": round(ratio, 2), "dice_loss": round(lost, 5),
                "presence_f1_loss": round(presence, 5),
            })  # fmt: skip
            engine.close()
        return sorted(rows, key=lambda row: row["sqnr_db"])

    def _plans(self, recipe: QuantizationRecipe, told: GraphResult) -> list[QuantizationRecipe]:
        """A recipe with ever more blocks left out, from none on.

        First those that alone lose more Dice than the tolerance, the largest loss before the others: that is what is at stake.
        A smaller loss is within the noise of the few images that blocks are measured on; there the signal-to-noise ratio at
        the graph's outputs decides, the noisiest first. Blocks that are as good as exact stay.
        """

        def lost(row: Mapping[str, Any]) -> float:
            return row["dice_loss"] if row["dice_loss"] > self.settings.tolerance else 0.0

        rows = [row for row in told.sensitivity if lost(row) or row["sqnr_db"] < CEILING]
        order = [row["block"] for row in sorted(rows, key=lambda row: (-lost(row), row["sqnr_db"]))]
        # One block at least is quantised.
        counts = [count for count in (0, 1, 2, 3, 4, MOST_SKIPPED) if count < max(1, len(order))]
        return [replace(recipe, skipped=tuple(sorted(order[:count]))) for count in counts]

    def _next_plan(self, recipe: QuantizationRecipe | None, told: GraphResult) -> QuantizationRecipe | None:
        """The plan with more blocks left out than this; None if there is none."""
        if recipe is None or recipe.method == "weights":
            return None
        return next((plan for plan in self._plans(recipe, told) if len(plan.skipped) > len(recipe.skipped)), None)

    def _within(self, name: str, material: GraphContext, recipe: QuantizationRecipe, told: GraphResult) -> QuantizationRecipe:
        """Leave out blocks until the search trial is within the margin of the tolerance; the best attempt if it never is."""
        before, _ = self._loss("search", self.engines)
        found: list[tuple[float, QuantizationRecipe]] = []
        for attempt in self._plans(recipe, told):
            engine = self._engine(name, to_ort_cpu_graph(material.quantised(attempt)).SerializeToString())
            loss, _ = self._loss("search", {**self.engines, name: engine})
            engine.close()
            margin = MARGIN * self.settings.tolerance
            if loss.within(margin, self.settings.text_agreement, flips=SEARCH_FLIPS) or loss.no_worse(before):
                return attempt
            told.rejected[f"search: {attempt.words()}"] = loss.words()
            found.append((loss.worst + max(0.0, self.settings.text_agreement - loss.same_text), attempt))
        # The gate has more images and decides; the best attempt is what it gets to see.
        return min(found, key=lambda pair: pair[0])[1]
