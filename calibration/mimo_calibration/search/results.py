"""What was decided about every graph, and why: the evidence that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .accuracy_gate import Loss
from .recipe import QuantizationRecipe

#: The graph whose INT8 is in its weights by design: the activations of one token are nothing to gain from.
WEIGHTS_ONLY = "text_decoder"


@dataclass(frozen=True)
class Candidate:
    """One form of a graph for one engine."""

    label: str
    precision: str  # fp32, fp16, int8, int8-weights, int4-weights
    engine: str
    threads: int | None
    data: bytes
    recipe: QuantizationRecipe | None = None


def holds(graph: str, precision: str, asked: str) -> bool:
    """Whether a candidate's ``precision`` is what was ``asked`` for by name. Weights alone are INT8 in the text decoder."""
    return precision == asked or (precision == "int8-weights" and asked == "int8" and graph == WEIGHTS_ONLY)


@dataclass
class GraphResult:
    """What was measured about one graph; everything the report needs."""

    chosen: str = ""
    reason: str = ""
    methods: dict[str, float] = field(default_factory=dict)
    sqnr_db: dict[str, float] = field(default_factory=dict)
    sensitivity: list[dict[str, Any]] = field(default_factory=list)
    latency_ms: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    gate: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    islands: dict[str, str] = field(default_factory=dict)
    #: Shipped although it misses the tolerance, because the user insisted.
    forced: bool = False
    seconds: float = 0.0
    seen: Mapping[str, Any] = field(default_factory=dict, repr=False)
    clips: dict[str, float] = field(default_factory=dict, repr=False)
    #: Activations whose outliers were moved into the weights: their clips are of what is left.
    smoothed: frozenset[str] = frozenset()


@dataclass
class Result:
    """The chosen form of every graph, and the evidence."""

    chosen: dict[str, Candidate]
    #: The Q/DQ form by the same recipe, for compilers that take no other; in full precision where nothing was quantised.
    symmetric: dict[str, bytes]
    evidence: dict[str, GraphResult]
    loss: Loss
    accuracy: dict[str, float]
    reference_accuracy: dict[str, float]
    seconds: dict[str, float]
    #: Largest resident memory of this process until then, in MB; None where the system does not tell.
    peak_mb: float | None = None

    def missed(self, precision: str) -> dict[str, str]:
        """Graphs that did not become what was asked for by name within the tolerance, with what was measured instead.

        ``auto`` asks for nothing that could be missed.
        """
        told = {}
        for name, candidate in self.chosen.items() if precision != "auto" else ():
            evidence = self.evidence[name]
            if holds(name, candidate.precision, precision) and not evidence.forced:
                continue
            reasons = [f"{label}: {why}" for label, why in evidence.rejected.items() if label.startswith(precision)]
            if candidate.precision.startswith(f"{precision}-weights"):
                reasons.append(f"{candidate.label} is {precision.upper()} in its weights alone")
            told[name] = "; ".join(reasons) or evidence.reason
        return told


def results_dict(result: Result) -> dict[str, Any]:
    """For ``report.json`` and ``calibration.json``: docs/reference/json.md says what the fields mean."""
    graphs = {}
    for name, told in result.evidence.items():
        recipe = result.chosen[name].recipe
        graphs[name] = {
            "chosen": told.chosen, "reason": told.reason, "forced": told.forced,
            "recipe": None if recipe is None else recipe.words(), "fp32_blocks": list(recipe.skipped) if recipe else [],
            "methods_sqnr_db": told.methods, "sqnr_db": told.sqnr_db, "latency_ms": told.latency_ms, "bytes": told.bytes,
            "clips": {tensor: round(clip, 6) for tensor, clip in told.clips.items()},
            "gate": told.gate, "rejected": told.rejected, "sensitivity": told.sensitivity, "fp32_islands": told.islands,
            "seconds": told.seconds,
        }  # fmt: skip
    return {
        "graphs": graphs, "macro_dice": result.accuracy, "macro_dice_fp32": result.reference_accuracy,
        "loss": result.loss.to_dict(), "seconds": {k: round(v, 1) for k, v in result.seconds.items()},
        "peak_mb": None if result.peak_mb is None else round(result.peak_mb),
    }  # fmt: skip
