"""The search for the recipe of one graph: method, smoothing, and the blocks that stay in full precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..graph.qdq import amax_of
from ..graph.quantizable import blocks
from ..statistics.range_estimators import METHODS
from .candidates import WEIGHTS_ONLY
from .pipeline import QuantizedPipeline
from .recipe import CEILING, WEIGHTS, GraphContext, QuantizationRecipe, Run, score, sqnr
from .results import BlockSensitivity, GraphResult

#: Loads an ONNX file on ONNX Runtime.
Runner = Callable[[bytes], Run]

#: Largest relative change of a graph's outputs by smoothing, which computes the same but for rounding.
SMOOTHING_LIMIT = 1e-3
#: Calls that the methods are compared on.
COMPARED = 6
#: Most blocks that are left out before the search ends.
MOST_SKIPPED = 6
#: Presence decisions that may change in the search, where one of some fifty exceeds the tolerance already.
SEARCH_FLIPS = 1
#: Share of the tolerance that the search aims for: the gate measures other images.
MARGIN = 0.8


class RecipeSearch:
    """Finds the recipe of a graph in a pipeline."""

    def __init__(self, pipeline: QuantizedPipeline) -> None:
        self.pipeline, self.settings = pipeline, pipeline.settings

    def run(self, name: str, context: GraphContext, result: GraphResult) -> QuantizationRecipe:
        """The best method, without the blocks that lose too much; of the text decoder the weights alone.

        Args:
            result: gets the SQNR of every method, the sensitivity of every block, the ranges and rejected recipes.
        """
        if name == WEIGHTS_ONLY:
            recipe = QuantizationRecipe(WEIGHTS, 8)
            result.sensitivity = self.sensitivity(name, context, recipe)
            return recipe
        recipe, result.methods = best_recipe(context, lambda data: self.pipeline.run_ort(name, data))
        result.sensitivity = self.sensitivity(name, context, recipe)
        recipe = self.within_tolerance(name, context, recipe, result)
        result.amax = amax_of(context.quantized(recipe))
        result.smoothed = frozenset(context.smoothed()[1]) if recipe.smooth else frozenset()
        return recipe

    def sensitivity(self, name: str, context: GraphContext, recipe: QuantizationRecipe) -> list[BlockSensitivity]:
        """Every block quantized alone: noise at the outputs of the graph, and the loss of the pipeline; worst first."""
        rows: list[BlockSensitivity] = []
        parts = blocks(context.nodes())
        draws_masks = name != WEIGHTS_ONLY  # no mask depends on the text decoder: neither Dice nor presence can change
        # The loss of the graphs upstream is not that of the block.
        before = self.pipeline.loss("blocks") if draws_masks else None
        for number, (block, nodes) in enumerate(parts.items()):
            self.pipeline.progress(f"blocks of {name}", number, len(parts))
            engine = self.pipeline.load_ort(name, context.ort_cpu(recipe, only=block))
            ratio = score(sqnr(context.calls, engine.run))
            dice = presence = 0.0
            if before is not None:
                loss = self.pipeline.loss("blocks", {name: engine})
                dice = max((value - before.dice[prompt] for prompt, value in loss.dice.items()), default=0.0)
                presence = loss.presence_f1 - before.presence_f1
            rows.append({
                "block": block, "nodes": len(nodes), "sqnr_db": round(ratio, 2), "dice_loss": round(dice, 5),
                "presence_f1_loss": round(presence, 5),
            })  # fmt: skip
            engine.close()
        return sorted(rows, key=lambda row: row["sqnr_db"])

    def mixed_precision_recipes(self, recipe: QuantizationRecipe, result: GraphResult) -> list[QuantizationRecipe]:
        """A recipe with ever more blocks left out, from none on.

        Blocks that alone lose more Dice than the tolerance come first, the largest loss before the others. A smaller loss is
        within the noise of the few images that blocks are measured on: there the signal-to-noise ratio at the outputs of the
        graph decides, the noisiest first. Blocks that count as exact stay.
        """

        def significant_loss(row: BlockSensitivity) -> float:
            return row["dice_loss"] if row["dice_loss"] > self.settings.tolerance else 0.0

        rows = [row for row in result.sensitivity if significant_loss(row) or row["sqnr_db"] < CEILING]
        order = [row["block"] for row in sorted(rows, key=lambda row: (-significant_loss(row), row["sqnr_db"]))]
        # At least one block is quantized.
        counts = [count for count in (0, 1, 2, 3, 4, MOST_SKIPPED) if count < max(1, len(order))]
        return [replace(recipe, skipped=tuple(sorted(order[:count]))) for count in counts]

    def next_recipe(self, recipe: QuantizationRecipe | None, result: GraphResult) -> QuantizationRecipe | None:
        """The recipe with more blocks left out than ``recipe``; None if there is none."""
        if recipe is None or recipe.method == WEIGHTS:
            return None
        return next(
            (mixed for mixed in self.mixed_precision_recipes(recipe, result) if len(mixed.skipped) > len(recipe.skipped)), None
        )

    def within_tolerance(
        self, name: str, context: GraphContext, recipe: QuantizationRecipe, result: GraphResult
    ) -> QuantizationRecipe:
        """The first recipe that is within a margin of the tolerance on the search images; the best one if none is."""
        before = self.pipeline.loss("search")
        losses: list[tuple[float, QuantizationRecipe]] = []
        margin, agreement = MARGIN * self.settings.tolerance, self.settings.text_agreement
        for mixed in self.mixed_precision_recipes(recipe, result):
            engine = self.pipeline.load_ort(name, context.ort_cpu(mixed))
            loss = self.pipeline.loss("search", {name: engine})
            engine.close()
            if loss.within(margin, agreement, flips=SEARCH_FLIPS) or loss.no_worse(before):
                return mixed
            result.rejected[f"search: {mixed.description()}"] = loss.summary()
            losses.append((loss.worst + max(0.0, agreement - loss.same_text), mixed))
        # The gate has more images and decides about the best recipe.
        return min(losses, key=lambda pair: pair[0])[1]


def best_recipe(context: GraphContext, runner: Runner) -> tuple[QuantizationRecipe, dict[str, float]]:
    """The method and smoothing with the best score, and the scores of all."""
    scores: dict[str, float] = {}
    recipes: dict[str, QuantizationRecipe] = {}
    for smooth in (False, True):
        if smooth and not is_smoothing_exact(context, runner):
            continue
        for method in METHODS:
            recipe = QuantizationRecipe(method, smooth=smooth)
            run = runner(context.quantized(recipe).SerializeToString())
            recipes[recipe.description()] = recipe
            scores[recipe.description()] = round(score(sqnr(context.calls[:COMPARED], run)), 2)
    best = max(scores, key=scores.__getitem__)
    return recipes[best], scores


def is_smoothing_exact(context: GraphContext, runner: Runner) -> bool:
    """Whether the graph has anything to smooth, and the smoothed graph computes the same."""
    model, factors = context.smoothed()
    if not factors or not context.calls:
        return False
    run = runner(model.SerializeToString())
    for inputs, reference in context.calls[:2]:
        outputs = run(inputs)
        for name, value in reference.items():
            if np.linalg.norm(outputs[name] - value) > SMOOTHING_LIMIT * max(float(np.linalg.norm(value)), 1e-6):
                return False
    return True
