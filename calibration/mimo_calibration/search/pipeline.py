"""The pipeline with the graphs decided so far: collects statistics, and measures what a candidate of one graph changes."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from mimo_runtime.engines import create_engine
from mimo_runtime.engines.base import Decoding, Engine
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GRAPHS, graph_specs
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.pipeline import Mimo
from mimo_runtime.text.questions import EVERYTHING
from mimo_runtime.utils.progress import Progress

from ..data import Images, ImageSplit, simulated_requests
from ..graph.observer import GraphStatistics, ObservingEngine, StatisticsCache, statistics_key
from .accuracy_gate import AccuracyGate
from .caching_engine import CachingEngine
from .candidates import WEIGHTS_ONLY, Candidate
from .loss import Loss, Reply, compare
from .recipe import Calls, GraphContext, Run
from .settings import ORT, Settings
from .trial_cache import TrialCache, program_hash


class QuantizedPipeline:
    """All graphs on their engines, the accuracy gates, and the replies in full precision.

    Args:
        models: all graphs in full precision.
        split: disjoint images to calibrate on, to search with and to decide on.
        progress: called with stage, number done and number of all.
        gates: by label, instead of :func:`default_gates`.

    Attributes:
        engines: by graph; graphs that are decided run as they ship.
        gates: "search" and "gate" ask everything about their images; "blocks" asks less about fewer images.
        references: replies in full precision by gate; :meth:`start` asks for them.
    """

    def __init__(
        self, models: Mapping[str, onnx.ModelProto], config: MimoConfig, tokenizer: Tokenizer, split: ImageSplit,
        settings: Settings, progress: Progress = lambda *_: None, gates: Mapping[str, AccuracyGate] | None = None,
    ) -> None:  # fmt: skip
        self.models, self.config, self.tokenizer, self.settings = models, config, tokenizer, settings
        self.calibration, self.progress = split.calibration, progress
        self.specs = graph_specs(config)
        self.gates = dict(gates or default_gates(split, config.entities))
        self.references: dict[str, list[Reply]] = {}
        self.engines: dict[str, Engine] = {}
        self._statistics = StatisticsCache(settings.cache)
        self._replies = TrialCache(settings.cache, json.dumps([config.to_dict(), tokenizer.to_json()]))
        #: What every engine computes: library, number of threads, settings, and hash of the file.
        self._fingerprints: weakref.WeakKeyDictionary[Engine, str] = weakref.WeakKeyDictionary()

    def full_precision(self, name: str) -> Candidate:
        """A graph as it is, on ONNX Runtime."""
        return Candidate("fp32 onnxruntime", "fp32", ORT, self.settings.threads, self.models[name].SerializeToString())

    def start(self) -> None:
        """Load every graph in full precision, and ask for the replies that candidates are compared with."""
        self.engines = {name: self.load(name, self.full_precision(name)) for name in GRAPHS}
        for label in self.gates:
            self.references[label] = self.replies(label, self.engines, None)

    def load(self, name: str, candidate: Candidate) -> Engine:
        """The engine of a candidate.

        Raises:
            EngineError: the engine refuses the file.
        """
        return self._create(name, candidate.engine, candidate.data, candidate.threads, candidate.options)

    def load_ort(self, name: str, model: onnx.ModelProto) -> Engine:
        """A model on ONNX Runtime, in place of graph ``name``."""
        return self._create(name, ORT, model.SerializeToString(), self.settings.threads)

    def run_ort(self, name: str, data: bytes) -> Run:
        """The ``run`` of an ONNX file on ONNX Runtime, in place of graph ``name``."""
        return self._create(name, ORT, data, self.settings.threads).run

    def _create(
        self, name: str, kind: str, data: bytes, threads: int | None, options: Mapping[str, str] | None = None
    ) -> Engine:
        engine = create_engine(kind, data, self.specs[name], threads=threads, options=options)
        settings = "".join(f" {option}={value}" for option, value in sorted((options or {}).items()))
        self._fingerprints[engine] = f"{kind} {threads}{settings} {hashlib.sha256(data).hexdigest()}"
        return engine

    def fingerprint(self, engine: Engine) -> str:
        """What an engine of :meth:`load` computes: library, number of threads, settings, and hash of the file."""
        return self._fingerprints[_uncached(engine)]

    def collect_statistics(self, name: str) -> GraphContext:
        """Statistics and kept calls of a graph on the calibration images, in the pipeline as it is so far."""
        model, settings = self.models[name], self.settings
        every = settings.precision == "fp16" or settings.gpu

        def collect() -> GraphStatistics:
            engine = ObservingEngine(model, self.specs[name], every=every, threads=settings.threads)
            self.ask_all("statistics of", name, engine)
            return engine.statistics

        statistics, _ = self._statistics.get(self._statistics_key(name, every), collect)
        return GraphContext(model, statistics.histograms, statistics.calls)

    def _statistics_key(self, name: str, every: bool) -> str:
        # The inputs of a graph depend on the files and engines of all others (the crop pass follows what the mask decoder
        # gives), on the words of the questions, and on what the configuration makes of answers.
        others = [self.fingerprint(engine) for graph, engine in self.engines.items() if graph != name]
        settings = {
            "every": every, "threads": self.settings.threads, "model": self._replies.fixed, "program": program_hash(),
        }  # fmt: skip
        return statistics_key(self.models[name], self.calibration.identity, others, settings)

    def ask_all(self, stage: str, name: str, engine: Engine, images: Images | None = None) -> None:
        """Every request about the calibration images, to the pipeline as it is so far with ``engine`` for graph ``name``.

        Args:
            images: others than the calibration images.
        """
        images = images or self.calibration
        # Every calibration image comes once per graph. A cache would fill with them instead of the images of the gates.
        engines = {k: _uncached(e) for k, e in self.engines.items()}
        with _open(self.config, {**engines, name: engine}, self.tokenizer) as mimo:
            for done, (questions, requests) in enumerate(simulated_requests(images)):
                self.progress(f"{stage} {name}", done, len(images.items))
                scan = mimo.open(questions.pixels)
                masks, text = name != WEIGHTS_ONLY, name == WEIGHTS_ONLY
                for request in requests:
                    # The data may name a class that the model does not know.
                    if scan.ask(**request, masks=masks, text_answer=text).refusal:
                        scan.ask(EVERYTHING, masks=masks, text_answer=text)

    def replies(self, label: str, engines: Mapping[str, Engine], reference: Sequence[Reply] | None) -> list[Reply]:
        """The replies of a pipeline to the questions of a gate; ``reference`` as for :meth:`AccuracyGate.run`."""
        gate = self.gates[label]
        gate.progress = lambda done, total: self.progress(f"accuracy ({label})", done, total)

        def ask() -> list[Reply]:
            with _open(self.config, engines, self.tokenizer) as mimo:
                return gate.run(mimo, reference)

        return self._replies.get([self.fingerprint(engines[name]) for name in GRAPHS], gate.identity, reference, ask)

    def loss(self, label: str, changed: Mapping[str, Engine] | None = None) -> Loss:
        """What the pipeline as it is so far loses in a gate.

        Args:
            changed: engines that take the place of others, by graph.
        """
        reference = self.references[label]
        return compare(
            reference, self.replies(label, {**self.engines, **(changed or {})}, reference), self.gates[label].prompts
        )

    def not_finite_on_calibration(self, name: str, candidate: Candidate, engine: Engine) -> str | None:
        """Why a candidate in half precision cannot ship: NaN or infinity on any calibration request; None if there is none."""
        if candidate.precision != "fp16" and not self.settings.gpu:
            return None
        try:
            self.ask_all("check", name, _FiniteCheck(engine))
        except _NotFiniteError as error:
            return f"NaN or infinity in output {error} on the calibration data"
        return None


def default_gates(split: ImageSplit, entities: Sequence[str]) -> dict[str, AccuracyGate]:
    """The gates of :class:`QuantizedPipeline`."""
    # Blocks are compared by their effect on masks: texts would take longer than everything else.
    few = Images(split.search.shown.items[: max(4, len(split.search.items) // 4)], split.search.seed)
    return {
        "search": AccuracyGate(split.search, split.held_out, entities=entities),
        "gate": AccuracyGate(split.gate, split.held_out, entities=entities),
        "blocks": AccuracyGate(few, split.held_out, prompts=("box", "text"), text=False, entities=entities),
    }


class _Borrowed(Engine):
    """An engine that stays open when a pipeline that uses it is closed."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.engine.run(inputs)

    def decoding(self, constant: Mapping[str, np.ndarray]) -> Decoding:
        return self.engine.decoding(constant)

    def close(self) -> None:
        """The owner closes the engine."""


def _open(config: MimoConfig, engines: Mapping[str, Engine], tokenizer: Tokenizer) -> Mimo:
    """A pipeline over engines that it does not own."""
    return Mimo(config, {name: _Borrowed(engine) for name, engine in engines.items()}, tokenizer, cache_images=1)


def _uncached(engine: Engine) -> Engine:
    """The engine that computes."""
    return engine.engine if isinstance(engine, CachingEngine) else engine


class _NotFiniteError(Exception):
    """Names the output."""


class _FiniteCheck(Engine):
    """Runs ``engine``, which it does not own, and raises at the first output that is not finite."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self.engine.run(inputs)
        if name := _first_not_finite(outputs):
            raise _NotFiniteError(name)
        return outputs

    def close(self) -> None:
        """The owner closes the engine."""


def first_output_not_finite(engine: Engine, calls: Calls) -> str | None:
    """The first output that is not finite on the kept calls."""
    return next((name for inputs, _ in calls if (name := _first_not_finite(engine.run(inputs)))), None)


def _first_not_finite(outputs: Mapping[str, np.ndarray]) -> str | None:
    return next((name for name, value in outputs.items() if not np.isfinite(value).all()), None)
