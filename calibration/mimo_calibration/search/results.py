"""What was measured and decided about every graph, and its form in ``report.json`` and ``calibration.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from ..statistics.histogram import HistogramObserver
from .candidates import Candidate, satisfies
from .loss import Loss, LossReport
from .recipe import QuantizationRecipe


class BlockSensitivity(TypedDict):
    """What quantizing one block alone does."""

    block: str
    #: Quantized nodes of the block.
    nodes: int
    #: Signal-to-noise ratio at the outputs of the graph.
    sqnr_db: float
    #: Largest Dice loss of any kind of prompt.
    dice_loss: float
    presence_f1_loss: float


@dataclass
class GraphResult:
    """What was measured about one graph.

    Attributes:
        chosen: label of the candidate that ships.
        reason: why.
        methods: SQNR in dB by recipe.
        sqnr_db, latency_ms, bytes, gate, rejected: by label of the candidate.
        sensitivity: worst block first.
        fp32_nodes: nodes of a graph in half precision that stay in float32, with the reason.
        forced: the candidate ships although it misses the tolerance, because the user requested it.
        histograms: by tensor.
        amax: largest magnitude of every quantized activation.
        smoothed: activations whose outliers were moved into the weights: their amax is that of the smoothed activation.
    """

    chosen: str = ""
    reason: str = ""
    methods: dict[str, float] = field(default_factory=dict)
    sqnr_db: dict[str, float] = field(default_factory=dict)
    sensitivity: list[BlockSensitivity] = field(default_factory=list)
    latency_ms: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    gate: dict[str, LossReport] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    fp32_nodes: dict[str, str] = field(default_factory=dict)
    forced: bool = False
    seconds: float = 0.0
    histograms: Mapping[str, HistogramObserver] = field(default_factory=dict, repr=False)
    amax: dict[str, float] = field(default_factory=dict, repr=False)
    smoothed: frozenset[str] = frozenset()


@dataclass
class Result:
    """The chosen candidate of every graph, and what was measured.

    Attributes:
        chosen: by graph.
        symmetric: the Q/DQ graph of the same recipe, for compilers that take no other; in full precision where nothing is
            quantized.
        graphs: by graph.
        loss: of the shipped bundle on the images of the gate.
        accuracy, reference_accuracy: macro Dice by prompt, shipped and in full precision.
        seconds: by part of the work.
        peak_mb: largest resident memory of this process until then; None where the system does not say.
    """

    chosen: dict[str, Candidate]
    symmetric: dict[str, bytes]
    graphs: dict[str, GraphResult]
    loss: Loss
    accuracy: dict[str, float]
    reference_accuracy: dict[str, float]
    seconds: dict[str, float]
    peak_mb: float | None = None

    def missed(self, precision: str) -> dict[str, str]:
        """Graphs that did not get the requested precision within the tolerance, with what was measured instead.

        ``auto`` requests no precision, so nothing is missed.
        """
        reasons = {}
        for name, candidate in self.chosen.items() if precision != "auto" else ():
            graph = self.graphs[name]
            if satisfies(name, candidate.precision, precision) and not graph.forced:
                continue
            why = [f"{label}: {reason}" for label, reason in graph.rejected.items() if label.startswith(precision)]
            if candidate.precision.startswith(f"{precision}-weights"):
                why.append(f"{candidate.label} is {precision.upper()} in its weights only")
            reasons[name] = "; ".join(why) or graph.reason
        return reasons


class GraphReport(TypedDict):
    """One graph in ``report.json`` and ``calibration.json``; see :class:`GraphResult`."""

    chosen: str
    reason: str
    forced: bool
    recipe: str | None
    fp32_blocks: list[str]
    methods_sqnr_db: dict[str, float]
    sqnr_db: dict[str, float]
    latency_ms: dict[str, float]
    bytes: dict[str, int]
    amax: dict[str, float]
    gate: dict[str, LossReport]
    rejected: dict[str, str]
    sensitivity: list[BlockSensitivity]
    fp32_nodes: dict[str, str]
    seconds: float


class ResultReport(TypedDict):
    """All graphs and the whole model in ``report.json`` and ``calibration.json``."""

    graphs: dict[str, GraphReport]
    macro_dice: dict[str, float]
    macro_dice_fp32: dict[str, float]
    loss: LossReport
    seconds: dict[str, float]
    peak_mb: int | None


def results_dict(result: Result) -> ResultReport:
    """The fields of ``report.json`` and ``calibration.json``; the documentation of precision describes them."""
    return {
        "graphs": {name: _graph_report(graph, result.chosen[name].recipe) for name, graph in result.graphs.items()},
        "macro_dice": result.accuracy,
        "macro_dice_fp32": result.reference_accuracy,
        "loss": result.loss.to_dict(),
        "seconds": {k: round(v, 1) for k, v in result.seconds.items()},
        "peak_mb": None if result.peak_mb is None else round(result.peak_mb),
    }


def _graph_report(graph: GraphResult, recipe: QuantizationRecipe | None) -> GraphReport:
    return {
        "chosen": graph.chosen,
        "reason": graph.reason,
        "forced": graph.forced,
        "recipe": None if recipe is None else recipe.description(),
        "fp32_blocks": list(recipe.skipped) if recipe else [],
        "methods_sqnr_db": graph.methods,
        "sqnr_db": graph.sqnr_db,
        "latency_ms": graph.latency_ms,
        "bytes": graph.bytes,
        "amax": {tensor: round(value, 6) for tensor, value in graph.amax.items()},
        "gate": graph.gate,
        "rejected": graph.rejected,
        "sensitivity": graph.sensitivity,
        "fp32_nodes": graph.fp32_nodes,
        "seconds": graph.seconds,
    }
