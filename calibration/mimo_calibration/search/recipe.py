"""Quantization recipes of one graph, compared by the signal-to-noise ratio at its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from ..graph.ort_cpu import quantize_weights, to_ort_cpu_graph
from ..graph.qdq import Choice, quantize
from ..graph.quantizable import QuantizableNode, find_quantizable, fold_transposed_weights
from ..graph.smooth_quant import smoothed
from ..statistics.histogram import HistogramObserver
from ..statistics.range_estimators import amax

Arrays = Mapping[str, np.ndarray]
#: Inputs of runs with the outputs in full precision.
Calls = Sequence[tuple[Arrays, Arrays]]
Run = Callable[[Arrays], Arrays]
Edit = Callable[[onnx.ModelProto], onnx.ModelProto]
#: Signal-to-noise ratios are limited to this; beyond it an output counts as exact.
CEILING = 60.0
#: The method of weight-only quantization.
WEIGHTS = "weights"


@dataclass(frozen=True)
class QuantizationRecipe:
    """How a graph is quantized.

    Attributes:
        method: of ``range_estimators.METHODS``, or "weights" where no activation is quantized.
        bits: of the weights.
        smooth: whether outliers are moved into the weights first.
        skipped: blocks that stay in full precision.
    """

    method: str
    bits: int = 8
    smooth: bool = False
    skipped: tuple[str, ...] = ()

    def description(self) -> str:
        text = f"INT{self.bits} weights" if self.method == WEIGHTS else f"INT8, {self.method}"
        return text + (", smoothed" if self.smooth else "") + (f", {len(self.skipped)} blocks FP32" if self.skipped else "")


@dataclass
class GraphContext:
    """A graph with its statistics.

    Attributes:
        model: in full precision.
        histograms: by tensor.
        calls: a few inputs with the outputs in full precision.
    """

    model: onnx.ModelProto
    histograms: Mapping[str, HistogramObserver]
    calls: Calls
    _smoothed: tuple[onnx.ModelProto, dict[str, np.ndarray]] | None = field(default=None, repr=False)

    def nodes(self) -> list[QuantizableNode]:
        """The nodes that can be quantized."""
        return find_quantizable(fold_transposed_weights(self.model))

    def smoothed(self) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        """The smoothed model and its factors, computed once."""
        if self._smoothed is None:
            self._smoothed = smoothed(self.model, self.histograms)
        return self._smoothed

    def quantized(self, recipe: QuantizationRecipe, only: str | None = None) -> onnx.ModelProto:
        """The symmetric Q/DQ graph of a recipe.

        Args:
            only: quantize this block alone.
        """
        model, factors = self.smoothed() if recipe.smooth else (self.model, {})
        choices: dict[str, Choice] = {}
        for node in self._selected(recipe, only):
            if recipe.method == WEIGHTS:
                choices[node.node] = Choice(None, recipe.bits)
            elif limit := self._amax(node.activation, recipe.method, factors.get(node.activation)):
                choices[node.node] = Choice(limit, recipe.bits)
        return quantize(model, choices)

    def ort_cpu(self, recipe: QuantizationRecipe, only: str | None = None, edit: Edit = lambda model: model) -> onnx.ModelProto:
        """The graph of a recipe for ONNX Runtime on a CPU.

        Args:
            only: quantize this block alone.
            edit: applied before the graph is converted for ONNX Runtime.
        """
        if recipe.method == WEIGHTS:
            model = quantize_weights(self.model, self._selected(recipe, only), recipe.bits)
        else:
            model = self.quantized(recipe, only)
        return to_ort_cpu_graph(edit(model))

    def _selected(self, recipe: QuantizationRecipe, only: str | None) -> list[QuantizableNode]:
        return [n for n in self.nodes() if n.block not in recipe.skipped and only in (None, n.block)]

    def _amax(self, tensor: str, method: str, factor: np.ndarray | None) -> float | None:
        """The range of an activation, behind smoothing by ``factor``; None without statistics."""
        histogram = self.histograms.get(tensor)
        if histogram is None or not histogram.count:
            return None
        limit = amax(histogram, method)
        if factor is not None and histogram.channels is not None:
            # The histogram is of the activation before smoothing; its maximum behind it is known per channel.
            limit = float((histogram.channels / factor).max()) * limit / max(histogram.maximum, 1e-8)
        return limit


def sqnr(calls: Calls, run: Run) -> dict[str, float]:
    """Signal-to-quantization-noise ratio in dB of every output over the kept calls, at most :data:`CEILING`."""
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for inputs, reference in calls:
        outputs = run(inputs)
        for name, value in reference.items():
            signal[name] = signal.get(name, 0.0) + float(np.square(value, dtype=np.float64).sum())
            noise[name] = noise.get(name, 0.0) + float(np.square(outputs[name].astype(np.float64) - value).sum())
    return {name: _decibels(signal[name], noise[name]) for name in signal}


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return CEILING
    # NaN and infinity count as noise alone.
    return min(CEILING, 10.0 * float(np.log10(max(signal, 1e-30) / noise))) if np.isfinite(noise) else -CEILING


def score(ratios: Mapping[str, float]) -> float:
    """One number per graph: the mean over outputs that are not exact."""
    inexact = [v for v in ratios.values() if v < CEILING]
    return float(np.mean(inexact)) if inexact else CEILING
