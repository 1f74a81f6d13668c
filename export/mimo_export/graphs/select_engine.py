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
    choices = {}
    for number, (name, model) in enumerate(models.items()):
        progress(f"time {name}", number, len(models))
        calls = [inputs for inputs, _ in recorders[name].calls]
        as_it_is = Candidate("fp32 onnxruntime", "fp32", ORT, None, model.SerializeToString(deterministic=True))
        candidates = [as_it_is, *full_precision(name, model, available, None)]
        choices[name] = _choose(candidates, specs[name], calls)
    return choices


def _choose(candidates: Sequence[Candidate], spec: GraphSpec, calls: Sequence[Arrays]) -> EngineChoice:
    """The fastest of the candidates; the first one, unless another is faster by more than noise."""
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
        times = graph_times(loaded, calls, seconds=SECONDS)
    finally:
        for engine in loaded.values():
            engine.close()
    first, fastest = candidates[0].label, min(times, key=lambda label: times[label])
    label = fastest if first not in times or times[fastest] <= FASTER * times[first] else first
    chosen = next(candidate for candidate in candidates if candidate.label == label)
    return EngineChoice(chosen, {name: round(ms, 4) for name, ms in times.items()}, rejected)
