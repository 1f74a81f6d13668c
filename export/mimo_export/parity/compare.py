"""Parity: the files that were written against the PyTorch model, graph by graph and from image to answer.

Per graph, both sides get the same inputs, taken from the chain as it runs on real requests: an error in one graph cannot
hide in, or be blamed on, another. End to end, each side runs its own chain.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mimo_runtime.engines.base import Engine
from mimo_runtime.evaluation.metrics import dice
from mimo_runtime.model.graph_spec import BATCH, GRAPHS, GraphSpec, graph_specs
from mimo_runtime.pipeline import Mimo
from mimo_runtime.results.answer import Answer

from .samples import Sample

#: What a bundle has to reach, by precision. In reduced precision this is a net for broken files (a wrong axis, a wrong scale):
#: what is lost was decided on real images before, see ``mimo_calibration``.
LIMITS = {
    "fp32": {"relative_l2": 1e-3, "masks_dice": 0.999, "text_agreement": 0.995, "presence_agreement": 0.995},
    "fp16": {"relative_l2": 0.05, "masks_dice": 0.98, "text_agreement": 0.9, "presence_agreement": 0.95},
    "int8": {"relative_l2": 0.3, "masks_dice": 0.9, "text_agreement": 0.5, "presence_agreement": 0.8},
}


@dataclass(frozen=True)
class Limits:
    """What a bundle has to reach: ``answers`` end to end, as in :data:`LIMITS`, and each graph in relative L2."""

    answers: Mapping[str, float]
    graphs: Mapping[str, float] = field(default_factory=dict)

    def of(self, graph: str) -> float:
        """The most that a graph may differ in relative L2."""
        return self.graphs.get(graph, self.answers["relative_l2"])


FULL_LIMITS = Limits(LIMITS["fp32"])

#: Calls of a graph that wait for a second one of the same shapes, to run both as a batch of 2.
_WAITING = 8


def relative_l2(given: np.ndarray, wanted: np.ndarray) -> float:
    """``|given - wanted| / |wanted|`` in the Euclidean norm; infinite for NaN, infinity, or anything instead of zeros."""
    if given.shape != wanted.shape or not np.isfinite(given).all():
        return float("inf")
    difference = float(np.linalg.norm(given.astype(np.float64) - wanted))
    scale = float(np.linalg.norm(wanted.astype(np.float64)))
    return difference / scale if scale else (0.0 if difference == 0.0 else float("inf"))


class ShadowedEngine(Engine):
    """Runs the reference, and beside it a candidate on the same inputs; hands on what the reference gave.

    The worst relative L2 error over all outputs and calls is kept in :attr:`worst`. Calls come with batch 1; two calls of the
    same shapes are joined to one of batch 2, because a graph whose batch axis is broken may still be right for one.
    """

    def __init__(self, contract: GraphSpec, reference: Engine, candidate: Engine) -> None:
        self.contract, self.reference, self.candidate = contract, reference, candidate
        self.name, self.inputs, self.outputs = reference.name, reference.inputs, reference.outputs
        self.worst, self.worst_output, self.calls, self.batches = 0.0, "", 0, 0
        self._waiting: dict[tuple, tuple[dict, dict]] = {}
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        wanted = self.reference.run(inputs)
        self._compare(self.candidate.run(inputs), wanted)
        key = tuple(value.shape for value in inputs.values())
        with self._lock:
            self.calls += 1
            earlier = self._waiting.pop(key, None)
            if earlier is None and len(self._waiting) < _WAITING:
                self._waiting[key] = ({k: v.copy() for k, v in inputs.items()}, {k: v.copy() for k, v in wanted.items()})
        if earlier:
            joined = {t.name: _join(t.shape.index(BATCH), earlier[0], inputs, t.name) for t in self.contract.inputs}
            expected = {t.name: _join(t.shape.index(BATCH), earlier[1], wanted, t.name) for t in self.contract.outputs}
            self._compare(self.candidate.run(joined), expected)
            self.batches += 1
        return wanted

    def _compare(self, given: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
        for name in self.outputs:
            error = relative_l2(given[name], wanted[name]) if np.isfinite(wanted[name]).all() else float("inf")
            with self._lock:
                if error >= self.worst:
                    self.worst, self.worst_output = error, name

    def close(self) -> None:
        """Nothing to free: both engines belong to the caller."""


def _join(axis: int, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return np.concatenate((a[name], b[name]), axis=axis)


@dataclass
class Parity:
    """What was measured."""

    graphs: dict[str, ShadowedEngine]
    limits: Limits = FULL_LIMITS
    samples: Counter[str] = field(default_factory=Counter)
    overlaps: list[float] = field(default_factory=list)
    texts: list[bool] = field(default_factory=list)
    presences: list[bool] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    def add(self, sample: Sample, reference: Answer, candidate: Answer, threshold: float) -> None:
        """Compare two answers. A finding that only one side has counts as a mask of Dice 0."""
        self.texts.append(reference.text == candidate.text)
        if not self.texts[-1] and len(self.differing) < 5:
            self.differing.append(f"{sample.source}, {sample.kind}: {reference.text!r} became {candidate.text!r}")
        ours, theirs = ({f.query: f for f in answer.findings} for answer in (reference, candidate))
        for query in sorted(ours.keys() | theirs.keys()):
            if query not in ours or query not in theirs:
                self.overlaps.append(0.0)
                continue
            a, b = ours[query], theirs[query]
            self.presences.append((a.presence >= threshold) == (b.presence >= threshold))
            if a.mask.any() or b.mask.any():
                self.overlaps.append(dice(a.mask, b.mask))

    def to_dict(self) -> dict[str, Any]:
        """For the manifest and ``inspect``: docs/reference/json.md, and what the numbers rest on."""
        told: dict[str, Any] = {
            name: {
                "relative_l2": _rounded(shadow.worst),
                "limit": self.limits.of(name),
                "worst_output": shadow.worst_output,
                "calls": shadow.calls,
                "batches_of_two": shadow.batches,
            }
            for name, shadow in self.graphs.items()
        }
        if self.texts:
            told |= {
                "masks_dice": _rounded(_mean(self.overlaps), 6),
                "masks_dice_min": _rounded(min(self.overlaps, default=1.0), 6),
                "masks": len(self.overlaps),
                "text_agreement": _rounded(_mean(self.texts), 6),
                "presence_agreement": _rounded(_mean(self.presences), 6),
            }
        samples, limits = dict(sorted(self.samples.items())), dict(self.limits.answers)
        return {**told, "samples": samples, "limits": limits, "missed": list(self.missed().values())}

    def failures(self) -> list[str]:
        """What is wrong or outside the limits, in words; empty if parity holds."""
        return [*self.flaws(), *self.missed().values()]

    def flaws(self) -> list[str]:
        """What no limit could allow: a graph that gives nonsense, or of which too little was seen."""
        return [
            f"{name} gives NaN, infinity or other zeros in output {shadow.worst_output}"
            for name, shadow in self.graphs.items() if not np.isfinite(shadow.worst)
        ] + [
            f"{name} ran {shadow.calls} times, but never as a batch of 2 (more samples are needed)"
            for name, shadow in self.graphs.items() if not shadow.batches
        ]  # fmt: skip

    def missed(self) -> dict[str, str]:
        """What was measured and is outside the limits, in words, by graph or measure."""
        problems = {
            name: f"{name} differs by {shadow.worst:.2g} relative L2 in output {shadow.worst_output} "
            f"(limit {self.limits.of(name):g})"
            for name, shadow in self.graphs.items() if self.limits.of(name) < shadow.worst < np.inf
        }  # fmt: skip
        measured = {"masks_dice": self.overlaps, "text_agreement": self.texts, "presence_agreement": self.presences}
        for name, values in measured.items() if self.texts else ():
            if _mean(values) < self.limits.answers[name]:
                problems[name] = f"{name} is {_mean(values):.4f} (limit {self.limits.answers[name]})"
        return problems


def measure(
    reference: Mimo,
    engines: Mapping[str, Engine],
    samples: Iterable[Sample],
    progress: Callable[[], None] = lambda: None,
    limits: Limits = FULL_LIMITS,
) -> Parity:
    """Compare engines with the reference model.

    Masks are compared whether or not the model believes in them: an absent target's mask must agree too, and a model that
    sees nothing would prove nothing.

    Args:
        reference: the chain on PyTorch.
        engines: the candidates by graph; if any of the six is missing, only graphs are compared, not answers.
        progress: called after every sample.
        limits: what has to be reached.
    """
    config = dataclasses.replace(reference.config, presence_threshold=0.0)
    contracts = graph_specs(config)
    shadows = {
        name: ShadowedEngine(contracts[name], reference.engines[name], engines[name]) for name in GRAPHS if name in engines
    }
    parity, whole = Parity(shadows, limits), len(shadows) == len(GRAPHS)
    chain = Mimo(config, {**reference.engines, **shadows}, reference.tokenizer)
    candidate = Mimo(config, engines, reference.tokenizer) if whole else None
    for sample in samples:
        wanted = ask(chain, sample)
        if candidate:
            parity.add(sample, wanted, ask(candidate, sample), reference.config.presence_threshold)
        parity.samples[sample.source] += 1
        progress()
    return parity


def ask(mimo: Mimo, sample: Sample) -> Answer:
    """The greedy answer to a sample, with masks and text."""
    prompt = sample.prompt
    return mimo.open(sample.pixels).ask(prompt.text, prompt.boxes, prompt.points, prompt.mask)


def _mean(values: list) -> float:
    return float(np.mean(values)) if values else 1.0


def _rounded(value: float, digits: int = 3) -> float | None:
    """Few digits: the last ones differ between machines and would change the manifest's hash for nothing."""
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def limits_of(entries: Mapping[str, Mapping[str, Any]]) -> Limits:
    """The limits for a bundle. A graph is compared on inputs of the reference, so its own is of the lowest precision in its
    file; an answer has been through all graphs, so those of answers are of the lowest precision of any.
    """
    found = {name: _lowest(entry["delivered"]) for name, entry in entries.items()}
    lowest = next(precision for precision in ("int8", "fp16", "fp32") if precision in {*found.values(), "fp32"})
    return Limits(LIMITS[lowest], {name: LIMITS[precision]["relative_l2"] for name, precision in found.items()})


def _lowest(delivered: Mapping[str, int]) -> str:
    """The lowest precision of a graph's matrix operators, of those that have limits."""
    for precision, kinds in (("int8", ("int8", "int8_weights", "int4")), ("fp16", ("fp16",))):
        if any(delivered.get(kind) for kind in kinds):
            return precision
    return "fp32"
