"""The ways to quantise one graph, compared by how much signal is left over noise at its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from ..graph.qdq import Choice, quantise
from ..graph.quantizable import QuantizableNode, find_quantizable, fold_transposed_weights
from ..graph.smooth_quant import smoothed
from ..statistics.histogram import HistogramObserver
from ..statistics.range_estimators import METHODS, amax

Calls = Sequence[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]]
#: Signal-to-noise ratios are capped here: beyond it an output is as good as exact.
CEILING = 60.0
#: Largest relative change of a graph's outputs by smoothing, which computes the same but for rounding.
SMOOTHING_LIMIT = 1e-3

#: Calls that the methods are compared on.
COMPARED = 6

Runner = Callable[[bytes, str], Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]]


@dataclass(frozen=True)
class QuantizationRecipe:
    """How a graph is quantised.

    Attributes:
        method: of ``ranges.METHODS``, or "weights" where no activation is quantised; bits: of the weights.
        smooth: whether outliers were moved into the weights first.
        skipped: blocks that stay in full precision.
    """

    method: str
    bits: int = 8
    smooth: bool = False
    skipped: tuple[str, ...] = ()

    def words(self) -> str:
        text = f"INT{self.bits} weights" if self.method == "weights" else f"INT8, {self.method}"
        return text + (", smoothed" if self.smooth else "") + (f", {len(self.skipped)} blocks FP32" if self.skipped else "")


@dataclass
class GraphContext:
    """All that is known about a graph when it is quantised.

    Attributes:
        model: in full precision; seen: statistics by tensor; calls: a few inputs with the outputs in full precision.
    """

    model: onnx.ModelProto
    seen: Mapping[str, HistogramObserver]
    calls: Calls
    _smooth: tuple | None = field(default=None, repr=False)

    def points(self) -> list[QuantizableNode]:
        return find_quantizable(fold_transposed_weights(self.model))

    def smoothed(self) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        if self._smooth is None:
            self._smooth = smoothed(self.model, self.seen)
        return self._smooth

    def quantised(self, recipe: QuantizationRecipe, only: str | None = None) -> onnx.ModelProto:
        """The symmetric Q/DQ form by a recipe; ``only`` quantises a single block."""
        model, factors = self.smoothed() if recipe.smooth else (self.model, {})
        choices = {}
        for point in self.points():
            if point.block in recipe.skipped or (only is not None and point.block != only):
                continue
            if recipe.method == "weights":
                choices[point.node] = Choice(None, recipe.bits)
                continue
            seen = self.seen.get(point.activation)
            if seen is None or not seen.seen:
                continue
            limit = amax(seen, recipe.method)
            if point.activation in factors and seen.channels is not None:
                # The histogram is of the activation before smoothing; its largest value behind it is known per channel.
                limit = float((seen.channels / factors[point.activation]).max()) * limit / max(seen.maximum, 1e-8)
            choices[point.node] = Choice(limit, recipe.bits)
        return quantise(model, choices)


def sqnr(given: Calls, run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Signal-to-quantisation-noise ratio in dB of every output over the kept calls, at most :data:`CEILING`."""
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for inputs, wanted in given:
        got = run(inputs)
        for name, value in wanted.items():
            signal[name] = signal.get(name, 0.0) + float(np.square(value, dtype=np.float64).sum())
            noise[name] = noise.get(name, 0.0) + float(np.square(got[name].astype(np.float64) - value).sum())
    return {name: _decibels(signal[name], noise[name]) for name in signal}


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return CEILING
    # What is not a number is nothing but noise.
    return min(CEILING, 10.0 * float(np.log10(max(signal, 1e-30) / noise))) if np.isfinite(noise) else -CEILING


def score(ratios: Mapping[str, float]) -> float:
    """One number per graph: the mean over outputs that are not exact."""
    inexact = [v for v in ratios.values() if v < CEILING]
    return float(np.mean(inexact)) if inexact else CEILING


def best_recipe(material: GraphContext, runner: Runner, engine: str) -> tuple[QuantizationRecipe, dict[str, float]]:
    """The method and smoothing with the best score, and the scores of all."""
    scores: dict[str, float] = {}
    recipes: dict[str, QuantizationRecipe] = {}
    for smooth in (False, True):
        if smooth and not smoothing_holds(material, runner):
            continue
        for method in METHODS:
            recipe = QuantizationRecipe(method, smooth=smooth)
            run = runner(material.quantised(recipe).SerializeToString(), engine)
            recipes[recipe.words()] = recipe
            scores[recipe.words()] = round(score(sqnr(material.calls[:COMPARED], run)), 2)
    best = max(scores, key=scores.__getitem__)
    return recipes[best], scores


def smoothing_holds(material: GraphContext, runner: Runner) -> bool:
    """Whether the graph has anything to smooth, and the smoothed one still computes the same."""
    model, factors = material.smoothed()
    if not factors or not material.calls:
        return False
    run = runner(model.SerializeToString(), "onnxruntime")
    for inputs, wanted in material.calls[:2]:
        got = run(inputs)
        for name, value in wanted.items():
            if np.linalg.norm(got[name] - value) > SMOOTHING_LIMIT * max(float(np.linalg.norm(value)), 1e-6):
                return False
    return True
