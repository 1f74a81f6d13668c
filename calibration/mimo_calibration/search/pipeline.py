"""The chain as it is so far, and what it answers: every form of a graph is judged by what it does in there."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mimo_runtime.data.dataset import Dataset
from mimo_runtime.engines import create_engine, why_not
from mimo_runtime.engines.base import Engine
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GRAPHS, graph_specs
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.pipeline import Mimo

from ..data import Images, requests
from ..graph.observer import Cache, ObservingEngine, key
from ..progress import Progress
from .accuracy_gate import AccuracyGate, Loss, Reply, compare
from .caching_engine import CachingEngine
from .recipe import Calls, GraphContext
from .results import WEIGHTS_ONLY, Candidate
from .trial_cache import TrialCache, program

ORT, OPENVINO = "onnxruntime", "openvino"


@dataclass(frozen=True)
class Settings:
    """What the user decided, and what the machine has."""

    precision: str = "auto"  # auto, fp16, int8
    tolerance: float = 0.005
    text_agreement: float = 0.98
    threads: int = 2
    engines: tuple[str, ...] = (ORT, OPENVINO)
    cache: Path | None = None
    seed: int = 0
    #: Ship what was asked for although it misses the tolerance.
    force: bool = False
    #: For a GPU, which need not be here: its forms are computed by ONNX Runtime on the CPU, and nothing is timed.
    gpu: bool = False
    #: What "auto" tries for a GPU, in this order; not every target has INT8.
    forms: tuple[str, ...] = ("int8", "fp16")

    @staticmethod
    def available(names: Sequence[str]) -> tuple[str, ...]:
        """Those engines that load here."""
        return tuple(name for name in names if why_not(name) is None)


class QuantizedPipeline:
    """Graphs on their engines, the questions that they are asked, and what they answered in full precision.

    Args:
        models: all graphs in full precision.
        calibration, search, gate: disjoint images; see ``data.refuse_overlap``.
    """

    def __init__(
        self, models: Mapping[str, onnx.ModelProto], config: MimoConfig, tokenizer: Tokenizer, datasets: Sequence[Dataset],
        calibration: Images, search: Images, gate: Images, settings: Settings, progress: Progress = lambda *_: None,
    ) -> None:  # fmt: skip
        self.models, self.config, self.tokenizer, self.settings = models, config, tokenizer, settings
        self.calibration, self.progress = calibration, progress
        self.contracts = graph_specs(config)
        # Blocks are told apart by their effect on masks; texts would cost more than all the rest.
        small = Images(search.shown.items[: max(4, len(search.items) // 4)], search.seed)
        self.trials = {
            "search": AccuracyGate(search, datasets, entities=config.entities),
            "gate": AccuracyGate(gate, datasets, entities=config.entities),
            "blocks": AccuracyGate(small, datasets, prompts=("box", "text"), text=False, entities=config.entities),
        }
        self.references: dict[str, list[Reply]] = {}
        self.cache = Cache(settings.cache)
        self.answers = TrialCache(settings.cache, json.dumps([config.to_dict(), tokenizer.to_json()]))
        #: What every engine computes: which library, on how many threads, what file.
        self.computes: weakref.WeakKeyDictionary[Engine, str] = weakref.WeakKeyDictionary()
        self.engines: dict[str, Engine] = {}

    def _watch(self, name: str) -> GraphContext:
        """Statistics and kept calls of a graph in the chain as it is so far."""
        model = self.models[name]
        every = self.settings.precision == "fp16" or self.settings.gpu
        # All that decides what the graph is fed: the other graphs (what is near is looked at again by what they drew), in which
        # file on which engine, the questions' words, and what the configuration makes of answers.
        chain = [self.computes[_inner(engine)] for graph, engine in self.engines.items() if graph != name]
        settings = {
            "every": every, "threads": self.settings.threads, "model": self.answers.fixed, "program": program(),
        }  # fmt: skip

        def make() -> tuple[dict, list]:
            watched = ObservingEngine(model, self.contracts[name], every=every, threads=self.settings.threads)
            self._ask_all("watch", name, watched)
            return watched.seen, watched.calls

        seen, calls, _ = self.cache.get(key(model, self.calibration.identity, chain, settings), make)
        return GraphContext(model, seen, calls)

    def _ask_all(self, label: str, name: str, engine: Engine) -> None:
        """Every calibration request, to the chain as it is so far with another engine for one graph."""
        # The calibration images come once per graph: remembering them would take the room of those of the trials.
        engines = {k: _inner(e) for k, e in self.engines.items()}
        with _borrowed(self.config, {**engines, name: engine}, self.tokenizer) as mimo:
            for done, (questions, asks) in enumerate(requests(self.calibration)):
                self.progress(f"{label} {name}", done, len(self.calibration.items))
                scan = mimo.open(questions.pixels)
                for given in asks:
                    scan.ask(**given, masks=name != WEIGHTS_ONLY, text_answer=name == WEIGHTS_ONLY)

    def _replies(
        self, label: str, trial: AccuracyGate, engines: Mapping[str, Engine], reference: Sequence[Reply] | None
    ) -> list[Reply]:
        trial.progress = lambda done, total: self.progress(f"trial ({label})", done, total)

        def ask() -> list[Reply]:
            with _borrowed(self.config, engines, self.tokenizer) as mimo:
                return trial.run(mimo, reference)

        return self.answers.get([self.computes[_inner(engines[name])] for name in GRAPHS], trial.identity, reference, ask)

    def _loss(self, label: str, engines: Mapping[str, Engine]) -> tuple[Loss, list[Reply]]:
        trial = self.trials[label]
        replies = self._replies(label, trial, engines, self.references[label])
        return compare(self.references[label], replies, trial.prompts), replies

    def _load(self, name: str, candidate: Candidate) -> Engine:
        return self._create(name, candidate.engine, candidate.data, candidate.threads)

    def _engine(self, name: str, data: bytes, engine: str = ORT) -> Engine:
        return self._create(name, engine, data, self.settings.threads)

    def _create(self, name: str, kind: str, data: bytes, threads: int) -> Engine:
        engine = create_engine(kind, data, self.contracts[name], threads=threads)
        self.computes[engine] = f"{kind} {threads} {hashlib.sha256(data).hexdigest()}"
        return engine

    def _runner(self, name: str) -> Any:
        return lambda data, engine: self._engine(name, data, engine).run

    def _not_finite_anywhere(self, name: str, candidate: Candidate, engine: Engine) -> str | None:
        """Why a form in half precision cannot ship: its outputs on all calibration requests, in the running chain."""
        if candidate.precision != "fp16" and not self.settings.gpu:
            return None
        try:
            self._ask_all("check", name, _Finite(engine))
        except _NotFinite as flaw:
            return f"NaN or infinity in output {flaw} on the calibration data"
        return None


class _borrowed:
    """A chain over engines that it does not own: leaving it closes none of them."""

    def __init__(self, config: MimoConfig, engines: Mapping[str, Engine], tokenizer: Tokenizer) -> None:
        self.mimo = Mimo(config, engines, tokenizer, cache_images=1)

    def __enter__(self) -> Mimo:
        return self.mimo

    def __exit__(self, *_: object) -> None:
        self.mimo.engines = {}
        self.mimo.close()


def _inner(engine: Engine) -> Engine:
    """What computes."""
    return engine.engine if isinstance(engine, CachingEngine) else engine


class _NotFinite(Exception):
    """Names the output."""


class _Finite(Engine):
    """Runs of ``engine`` up to the first output that is not finite; it belongs to someone else."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = self.engine.run(inputs)
        if flaw := _first_not_finite(found):
            raise _NotFinite(flaw)
        return found

    def close(self) -> None:
        """Its owner closes it."""


def not_finite(engine: Engine, calls: Calls) -> str | None:
    """The first output that is not finite on the kept calls."""
    return next((flaw for given, _ in calls if (flaw := _first_not_finite(engine.run(given)))), None)


def _first_not_finite(outputs: Mapping[str, np.ndarray]) -> str | None:
    return next((name for name, value in outputs.items() if not np.isfinite(value).all()), None)
