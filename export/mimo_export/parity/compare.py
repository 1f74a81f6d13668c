"""Parity: the written files against the PyTorch model, graph by graph and from image to answer.

Per graph, both sides get the same inputs, taken from the chain as it runs on real requests. So an error is attributed to the
graph that makes it. End to end, each side runs its own chain.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.metrics import dice
from mimo_runtime.model.graph_spec import BATCH, CAUSAL_BIAS, GRAPHS, GraphSpec, graph_specs
from mimo_runtime.pipeline import Mimo
from mimo_runtime.results.answer import Answer
from mimo_runtime.utils.progress import Progress, silent

from .samples import Sample
from .summary import AnswerParity, GraphParity, ParitySummary

#: What a bundle has to reach, by precision. In reduced precision these limits detect broken files (a wrong axis, a wrong
#: scale). The accuracy loss is decided on real images before, see ``mimo_calibration``.
LIMITS = {
    "fp32": {"relative_l2": 1e-3, "masks_dice": 0.999, "text_agreement": 0.995, "presence_agreement": 0.995},
    "fp16": {"relative_l2": 0.05, "masks_dice": 0.98, "text_agreement": 0.9, "presence_agreement": 0.95},
    "bf16": {"relative_l2": 0.1, "masks_dice": 0.95, "text_agreement": 0.8, "presence_agreement": 0.9},
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


Arrays = dict[str, np.ndarray]

#: Calls of a graph that wait for a second one of the same shapes, to run both as a batch of 2.
_WAITING = 8


def relative_l2(actual: np.ndarray, expected: np.ndarray) -> float:
    """``|actual - expected| / |expected|`` in the Euclidean norm; infinite for NaN, infinity, or anything instead of zeros."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    difference = float(np.linalg.norm(actual.astype(np.float64) - expected))
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    return difference / scale if scale else (0.0 if difference == 0.0 else float("inf"))


class ShadowedEngine(Engine):
    """Runs the reference, and beside it a candidate on the same inputs; returns the outputs of the reference.

    The worst relative L2 error over all outputs and calls is kept in :attr:`worst`. Calls come with batch 1. Two calls of the
    same shapes are joined to one of batch 2, because a graph with a wrong batch axis may still be right for batch 1.
    """

    def __init__(self, spec: GraphSpec, reference: Engine, candidate: Engine) -> None:
        self.spec, self.reference, self.candidate = spec, reference, candidate
        self.name, self.inputs, self.outputs = reference.name, reference.inputs, reference.outputs
        self.worst, self.worst_output, self.calls, self.batches = 0.0, "", 0, 0
        self._waiting: dict[tuple[tuple[int, ...], ...], tuple[Arrays, Arrays]] = {}
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        expected = self.reference.run(inputs)
        self._compare(self.candidate.run(self._completed(inputs)), expected)
        key = tuple(value.shape for value in inputs.values())
        with self._lock:
            self.calls += 1
            earlier = self._waiting.pop(key, None)
            if earlier is None and len(self._waiting) < _WAITING:
                self._waiting[key] = ({k: v.copy() for k, v in inputs.items()}, {k: v.copy() for k, v in expected.items()})
        if earlier:
            joined = {t.name: _join(t.shape.index(BATCH), earlier[0], inputs, t.name) for t in self.spec.inputs}
            both = {t.name: _join(t.shape.index(BATCH), earlier[1], expected, t.name) for t in self.spec.outputs}
            self._compare(self.candidate.run(self._completed(joined)), both)
            self.batches += 1
        return expected

    def _completed(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs of the candidate: a text decoder that reads several tokens a step takes a bias, of zeros for one token."""
        biases = {
            tensor.name: np.zeros(
                tensor.concrete(batch=inputs["token"].shape[0], past=inputs["past_keys"].shape[3]), np.float32
            )
            for tensor in self.candidate.inputs.values()
            if tensor.name == CAUSAL_BIAS
        }
        return {**inputs, **biases}

    def _compare(self, actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
        for name in self.outputs:
            error = relative_l2(actual[name], expected[name]) if np.isfinite(expected[name]).all() else float("inf")
            with self._lock:
                if error >= self.worst:
                    self.worst, self.worst_output = error, name

    def close(self) -> None:
        """Nothing to free: both engines belong to the caller."""


def _join(axis: int, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return np.concatenate((a[name], b[name]), axis=axis)


@dataclass
class Parity:
    """The comparison so far: :func:`measure` adds the samples."""

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

    def summary(self) -> ParitySummary:
        """The numbers for the manifest and the report."""
        graphs: dict[str, GraphParity] = {
            name: {
                "relative_l2": _rounded(shadow.worst),
                "limit": self.limits.of(name),
                "worst_output": shadow.worst_output,
                "calls": shadow.calls,
                "batches_of_two": shadow.batches,
            }
            for name, shadow in self.graphs.items()
        }
        answers = None
        if self.texts:
            answers = AnswerParity(
                masks_dice=_six_digits(_mean(self.overlaps)),
                masks_dice_min=_six_digits(min(self.overlaps, default=1.0)),
                masks=len(self.overlaps),
                text_agreement=_six_digits(_mean(self.texts)),
                presence_agreement=_six_digits(_mean(self.presences)),
            )
        missed = tuple(self.missed().values())
        return ParitySummary(graphs, answers, dict(sorted(self.samples.items())), dict(self.limits.answers), missed)

    def failures(self) -> list[str]:
        """What is wrong or outside the limits, in words; empty if parity holds."""
        return [*self.flaws(), *self.missed().values()]

    def flaws(self) -> list[str]:
        """What no limit allows: a graph that gives NaN, infinity or other zeros, or that ran too few times."""
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
        measured: dict[str, Sequence[float]] = {
            "masks_dice": self.overlaps,
            "text_agreement": self.texts,
            "presence_agreement": self.presences,
        }
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

    Masks are compared whatever their presence: the mask of an absent target must agree, too. Otherwise a model that never
    finds a target would have no masks to compare.

    Args:
        reference: the chain on PyTorch.
        engines: the candidates by graph; if any of the six is missing, only graphs are compared, not answers.
        progress: called after every sample.
        limits: what has to be reached.
    """
    config = dataclasses.replace(reference.config, presence_threshold=0.0)
    specs = graph_specs(config)
    shadows = {name: ShadowedEngine(specs[name], reference.engines[name], engines[name]) for name in GRAPHS if name in engines}
    parity, whole = Parity(shadows, limits), len(shadows) == len(GRAPHS)
    chain = Mimo(config, {**reference.engines, **shadows}, reference.tokenizer)
    candidate = Mimo(config, engines, reference.tokenizer) if whole else None
    for sample in samples:
        expected = ask(chain, sample)
        # Outputs that are not finite are a flaw already, and a chain refuses to answer with them.
        if candidate and all(np.isfinite(shadow.worst) for shadow in shadows.values()):
            parity.add(sample, expected, ask(candidate, sample), reference.config.presence_threshold)
        parity.samples[sample.source] += 1
        progress()
    return parity


def compare(
    reference: Mimo,
    engines: Mapping[str, Engine],
    samples: Iterable[Sample],
    count: int,
    progress: Progress = silent,
    limits: Limits = FULL_LIMITS,
) -> Parity:
    """Measure parity over the ``count`` samples; whether it suffices is for :meth:`Parity.failures`."""
    done = iter(range(1, count + 1))
    progress("compare", 0, count)
    return measure(reference, engines, samples, lambda: progress("compare", next(done), count), limits)


def parity_failures(parity: Parity, forced: bool) -> list[str]:
    """What keeps a build from being written, in words.

    Args:
        forced: a graph ships outside the tolerance because of ``--force``. Answers may then miss their limits, and so may
            graphs in reduced precision. A graph that gives NaN, or one in single precision that differs, is still a failure.
    """
    if not forced:
        return parity.failures()
    full = [name for name in parity.graphs if parity.limits.of(name) <= FULL_LIMITS.of(name)]
    return [*parity.flaws(), *(problem for name, problem in parity.missed().items() if name in full)]


def check_samples(count: int) -> None:
    """Refuse a parity check of too few samples.

    Raises:
        RequestError: fewer than 2.
    """
    if count < 2:
        raise RequestError(f"{count} parity samples are too few", "Use at least 2: graphs are compared as a batch of 2 too")


def ask(mimo: Mimo, sample: Sample) -> Answer:
    """The greedy answer to a sample, with masks and text."""
    prompt = sample.prompt
    return mimo.open(sample.pixels).ask(prompt.text, prompt.boxes, prompt.points, prompt.mask, any_domain=True)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 1.0


def _rounded(value: float) -> float | None:
    """Three digits: the last ones differ between machines and would change the manifest's hash for nothing."""
    return float(f"{value:.3g}") if np.isfinite(value) else None


def _six_digits(share: float) -> float:
    return float(f"{share:.6g}")


def limits_of(delivered: Mapping[str, Mapping[str, int]]) -> Limits:
    """The limits for a bundle.

    A graph is compared on inputs of the reference, so its limit is that of the lowest precision in its file. An answer goes
    through all graphs, so the limits of answers are those of the lowest precision of any graph.

    Args:
        delivered: matrix operators by precision, of each graph.
    """
    precisions = {name: _lowest(counts) for name, counts in delivered.items()}
    lowest = next(precision for precision in ("int8", "bf16", "fp16", "fp32") if precision in {*precisions.values(), "fp32"})
    return Limits(LIMITS[lowest], {name: LIMITS[precision]["relative_l2"] for name, precision in precisions.items()})


def _lowest(delivered: Mapping[str, int]) -> str:
    """The lowest precision of a graph's matrix operators, of those that have limits."""
    for precision, kinds in (("int8", ("int8", "int8_weights", "int4")), ("bf16", ("bf16",)), ("fp16", ("fp16",))):
        if any(delivered.get(kind) for kind in kinds):
            return precision
    return "fp32"
