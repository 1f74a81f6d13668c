"""The engine of every graph of a CPU target in single precision: the fastest on this machine.

All compute the same within the limits of the parity check, which runs on what was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from mimo_calibration.search.candidates import Candidate, full_precision
from mimo_calibration.search.latency import graph_times
from mimo_calibration.search.selector import FASTER
from mimo_calibration.search.settings import ORT, Settings
from mimo_runtime.engines import Engine, create_engine
from mimo_runtime.engines.recording import Arrays, RecordingEngine
from mimo_runtime.errors import EngineError
from mimo_runtime.hardware.host import worker_threads
from mimo_runtime.model.graph_spec import GraphSpec, graph_specs
from mimo_runtime.pipeline import Mimo
from mimo_runtime.utils.progress import Progress

from ..parity.compare import ask
from ..parity.samples import Sample
from ..schema import EngineChoiceData

#: Samples whose calls are timed, and about how many seconds a graph is.
SAMPLES, SECONDS = 4, 2.0
#: A second engine must bring the time of an answer to at most this share.
MATERIAL = 0.95


@dataclass(frozen=True)
class EngineChoice:
    """What ships of a graph, and what was measured."""

    candidate: Candidate
    #: Milliseconds per run, of a text decoder per token, by label of the candidate.
    latency_ms: dict[str, float] = field(default_factory=dict)
    #: Why a candidate could not run.
    rejected: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> EngineChoiceData:
        return {"chosen": self.candidate.label, "latency_ms": self.latency_ms, "rejected": self.rejected}


def select_engines(
    models: Mapping[str, onnx.ModelProto], reference: Mimo, samples: Sequence[Sample], engines: Sequence[str],
    progress: Progress,
) -> dict[str, EngineChoice]:  # fmt: skip
    """The choice for every graph.

    Args:
        models: in single precision.
        reference: PyTorch, whose calls the engines repeat.
        samples: of the parity check.
        engines: of the target; those that are not installed are left out.

    Raises:
        EngineError: an engine fails.
    """
    recorders = {name: RecordingEngine(engine) for name, engine in reference.engines.items()}
    recording = Mimo(reference.config, recorders, reference.tokenizer)
    for sample in samples[:SAMPLES]:
        ask(recording, sample)
    specs, available = graph_specs(reference.config), Settings.available(engines)
    measured: dict[str, MeasuredGraph] = {}
    for number, (name, model) in enumerate(models.items()):
        progress(f"time {name}", number, len(models))
        calls = [inputs for inputs, _ in recorders[name].calls]
        as_it_is = Candidate("fp32 onnxruntime", "fp32", ORT, None, model.SerializeToString(deterministic=True))
        candidates = [as_it_is, *full_precision(name, model, available, None)]
        measured[name] = _measure(candidates, specs[name], calls, len(calls) / len(samples[:SAMPLES]))
    return choose_engines(measured)


@dataclass(frozen=True)
class MeasuredGraph:
    """The candidates of a graph that ran, with milliseconds per run, and why others did not.

    Attributes:
        runs: of the graph in an answer.
    """

    candidates: Sequence[Candidate]
    latency_ms: Mapping[str, float]
    rejected: dict[str, str]
    runs: float

    def fastest(self, engines: Sequence[str]) -> Candidate:
        """The fastest on some engines; a later candidate has to be faster than an earlier one by more than noise."""
        usable = [c for c in self.candidates if c.engine in engines and c.label in self.latency_ms]
        chosen = usable[0]
        for candidate in usable[1:]:
            if self.latency_ms[candidate.label] <= FASTER * self.latency_ms[chosen.label]:
                chosen = candidate
        return chosen

    def per_answer(self, candidate: Candidate) -> float:
        """Milliseconds of an answer."""
        return self.runs * self.latency_ms[candidate.label]


def choose_engines(measured: Mapping[str, MeasuredGraph]) -> dict[str, EngineChoice]:
    """The fastest candidates of all graphs. A second engine ships where it makes an answer :data:`MATERIAL` faster: it takes
    memory and time to load."""
    every = {name: m.fastest([c.engine for c in m.candidates]) for name, m in measured.items()}
    chosen = every
    if all(any(c.engine == ORT and c.label in m.latency_ms for c in m.candidates) for m in measured.values()):
        one = {name: m.fastest([ORT]) for name, m in measured.items()}
        alone, together = (sum(m.per_answer(of[name]) for name, m in measured.items()) for of in (one, every))
        chosen = every if together <= MATERIAL * alone else one
    return {
        name: EngineChoice(chosen[name], {label: round(ms, 4) for label, ms in m.latency_ms.items()}, m.rejected)
        for name, m in measured.items()
    }


def _measure(candidates: Sequence[Candidate], spec: GraphSpec, calls: Sequence[Arrays], runs: float) -> MeasuredGraph:
    """Time the candidates in turn."""
    loaded: dict[str, Engine] = {}
    rejected: dict[str, str] = {}
    try:
        for candidate in candidates:
            try:
                threads = candidate.threads or worker_threads()
                loaded[candidate.label] = create_engine(
                    candidate.engine, candidate.data, spec, threads=threads, options=candidate.options
                )
            except EngineError as error:
                rejected[candidate.label] = str(error)
        return MeasuredGraph(candidates, graph_times(loaded, calls, seconds=SECONDS), rejected, runs)
    finally:
        for engine in loaded.values():
            engine.close()
