"""Accuracy-controlled quantization: per graph, the fastest candidate that stays within the tolerance on held-out questions.

Graphs are decided in the order in which an answer runs them, so each is calibrated on what the chosen graphs upstream give.
For each graph: collect statistics in the running pipeline; find the best recipe by signal-to-noise ratio; measure the effect of
every block; leave blocks in full precision until the search images are within the tolerance; time the candidates in turn;
ship the fastest that passes the accuracy gate. The gate runs the whole pipeline as it would ship so far, on images that took
no part before. For a GPU nothing is timed: INT8 is tried before FP16, and FP32 ships if both fail.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import EngineError
from mimo_runtime.hardware.host import process_memory_mb
from mimo_runtime.model.graph_spec import GRAPHS

from ..graph.qdq import amax_of
from .caching_engine import CachingEngine
from .candidate_generator import CandidateGenerator
from .candidates import Candidate, satisfies
from .latency import graph_times
from .loss import LossReport, compare, macro_dice
from .pipeline import QuantizedPipeline, first_output_not_finite
from .recipe import GraphContext, QuantizationRecipe, score, sqnr
from .recipe_search import RecipeSearch
from .results import GraphResult, Result

#: A candidate must take at most this share of the incumbent's time; a smaller difference is noise.
FASTER = 0.97
#: Or be no slower than this, and at most this share of its size.
NO_SLOWER, SMALLER = 1.03, 0.7
#: Recipes with more blocks left out that a graph may try when its INT8 candidate misses the gate.
MORE_RECIPES = 2
#: This graph takes most of the time of an answer, and gets the same images in all gate runs of the graphs behind it.
ENCODER = GRAPHS[0]


class PrecisionSelector:
    """Decides the precision of every graph of a pipeline.

    Args:
        pipeline: the graphs in full precision and the images.
        generator: makes the candidates; by default all that the settings of the pipeline allow.
    """

    def __init__(self, pipeline: QuantizedPipeline, generator: CandidateGenerator | None = None) -> None:
        self.pipeline = pipeline
        self.generator = generator or CandidateGenerator(pipeline, RecipeSearch(pipeline))

    def run(self) -> Result:
        """Decide every graph.

        Raises:
            EngineError: an engine fails, or activations are not finite.
        """
        pipeline, seconds = self.pipeline, {"calibrate": 0.0, "decide": 0.0}
        chosen: dict[str, Candidate] = {}
        symmetric: dict[str, bytes] = {}
        graphs: dict[str, GraphResult] = {}
        pipeline.start()
        for number, name in enumerate(GRAPHS):
            pipeline.progress(f"quantize {name}", number, len(GRAPHS))
            start = time.perf_counter()
            context = pipeline.collect_statistics(name)
            seconds["calibrate"] += time.perf_counter() - start
            result = graphs[name] = GraphResult(histograms=context.histograms)
            chosen[name], engine = self.decide(name, context, result)
            pipeline.engines[name].close()
            pipeline.engines[name] = CachingEngine(engine) if name == ENCODER else engine
            recipe = chosen[name].recipe
            model = context.quantized(recipe) if recipe else context.model
            symmetric[name] = model.SerializeToString()
            result.amax = amax_of(model) or result.amax
            result.fp32_nodes = self.generator.fp32_nodes.get((name, result.chosen), {})
            result.seconds = round(time.perf_counter() - start, 1)
            seconds["decide"] += result.seconds
        return self._result(chosen, symmetric, graphs, seconds)

    def _result(
        self,
        chosen: dict[str, Candidate],
        symmetric: dict[str, bytes],
        graphs: dict[str, GraphResult],
        seconds: dict[str, float],
    ) -> Result:
        """Measure the whole bundle as it ships."""
        pipeline = self.pipeline
        reference = pipeline.references["gate"]
        replies = pipeline.replies("gate", pipeline.engines, reference)
        loss = compare(reference, replies, pipeline.gates["gate"].prompts)
        memory = process_memory_mb()
        peak = memory[1] if memory else None
        return Result(chosen, symmetric, graphs, loss, macro_dice(replies), macro_dice(reference), seconds, peak)

    def decide(self, name: str, context: GraphContext, result: GraphResult) -> tuple[Candidate, Engine]:
        """The candidate of a graph that ships, and its engine; the engines of all others are closed."""
        return _Decision(self.pipeline, self.generator, name, context, result).run()


@dataclass
class _Decision:
    """The decision about one graph: candidates are loaded, timed, and measured in the gate from the fastest on.

    Attributes:
        result: gets all that is measured.
        running: loaded candidates with their engines, by label.
        waiting: labels that the gate has not measured.
        tried: recipes that candidates were made of.
        more: recipes that may still be added.
    """

    pipeline: QuantizedPipeline
    generator: CandidateGenerator
    name: str
    context: GraphContext
    result: GraphResult
    running: dict[str, tuple[Candidate, Engine]] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    tried: set[QuantizationRecipe | None] = field(default_factory=set)
    more: int = MORE_RECIPES

    def __post_init__(self) -> None:
        self.settings = self.pipeline.settings
        self.incumbent = self.pipeline.full_precision(self.name)

    def run(self) -> tuple[Candidate, Engine]:
        candidates = [self.incumbent, *self.generator.candidates(self.name, self.context, self.result)]
        for candidate in candidates:
            self._load(candidate)
        self._time(self.running)
        self.tried = {candidate.recipe for candidate in candidates}
        self.waiting = [label for label in self.running if label != self.incumbent.label]
        while self.waiting:
            self._sort_waiting()
            label = self.waiting.pop(0)
            if self._passes(label):
                return self._keep(label)
            if label in self.result.gate and not self._has_variant(self.running[label][0]):
                self._add_next_recipe(self.running[label][0])
        if self.settings.force and self.settings.precision != "auto" and self.result.gate:
            return self._force()
        kind = "in lower precision" if self.settings.gpu else "faster"
        self.result.reason = f"nothing {kind} stays within the tolerance"
        return self._keep(self.incumbent.label)

    def _has_variant(self, candidate: Candidate) -> bool:
        """Whether another candidate of the same recipe and engine waits: without BF16 between, or without INT8 attention."""
        waiting = [self.running[label][0] for label in self.waiting]
        return any((c.recipe, c.engine) == (candidate.recipe, candidate.engine) for c in waiting)

    def _sort_waiting(self) -> None:
        """The fastest first, but what is not of the requested precision last. Untimed candidates keep their order."""

        def order(label: str) -> tuple[bool, float]:
            requested = satisfies(self.name, self.running[label][0].precision, self.settings.precision)
            return not requested, self.result.latency_ms.get(label, 0.0)

        self.waiting.sort(key=order)

    def _passes(self, label: str) -> bool:
        """Measure a candidate in the gate, and keep the reason where it does not pass."""
        candidate, engine = self.running[label]
        result, pipeline = self.result, self.pipeline
        if reason := self._not_worth_measuring(candidate) or pipeline.not_finite_on_calibration(self.name, candidate, engine):
            result.rejected[label] = reason
            return False
        if candidate.precision != "fp32":
            result.sqnr_db[label] = round(score(sqnr(self.context.calls, engine.run)), 2)
        loss = pipeline.loss("gate", {self.name: engine})
        result.gate[label] = loss.to_dict()
        if not loss.within(self.settings.tolerance, self.settings.text_agreement):
            result.rejected[label] = f"outside the tolerance of {self.settings.tolerance}: {loss.summary()}"
            return False
        result.reason = loss.summary()
        if result.latency_ms:
            ratio = result.latency_ms[self.incumbent.label] / result.latency_ms[label]
            result.reason = f"{ratio:.2f} times as fast as {self.incumbent.label}; {result.reason}"
        return True

    def _not_worth_measuring(self, candidate: Candidate) -> str | None:
        """Why a candidate is not measured in the gate. The requested precision and untimed candidates always are."""
        precision, times = self.settings.precision, self.result.latency_ms
        if not times or (precision in ("int8", "fp16") and candidate.precision.startswith(precision)):
            return None
        ms, base = times[candidate.label], times[self.incumbent.label]
        if ms <= FASTER * base or (ms <= NO_SLOWER * base and len(candidate.data) <= SMALLER * len(self.incumbent.data)):
            return None
        return f"not faster: {ms:.2f} ms against {base:.2f} ms"

    def _add_next_recipe(self, candidate: Candidate) -> None:
        """Try the recipe of a rejected candidate with more blocks left out, on the same engine."""
        recipe = self.generator.recipes.next_recipe(candidate.recipe, self.result) if self.more else None
        if recipe is None or recipe in self.tried:
            return
        self.tried.add(recipe)
        self.more -= 1
        label = f" without {len(recipe.skipped)} block{'s' * (len(recipe.skipped) > 1)}"
        variants = self.generator.int8(self.name, self.context, recipe, (candidate.engine,), label)
        if loaded := [added.label for added in variants if self._load(added)]:
            self.waiting[:0] = loaded
            self._time({k: self.running[k] for k in (self.incumbent.label, *self.waiting)})

    def _load(self, candidate: Candidate) -> bool:
        """Load a candidate into ``running``; False, with the reason in ``result``, if it fails or gives NaN or infinity."""
        result = self.result
        try:
            engine = self.pipeline.load(self.name, candidate)
        except EngineError as error:
            result.rejected[candidate.label] = str(error)
            return False
        # The first is the graph in full precision; collecting its statistics has checked it.
        if self.running and (output := first_output_not_finite(engine, self.context.calls)):
            result.rejected[candidate.label] = f"NaN or infinity in output {output} on the calibration calls that were kept"
            engine.close()
            return False
        self.running[candidate.label] = candidate, engine
        result.bytes[candidate.label] = len(candidate.data)
        return True

    def _time(self, running: Mapping[str, tuple[Candidate, Engine]]) -> None:
        """Measure the latency of engines in turn; not for a GPU, which need not be present."""
        if not self.settings.gpu:
            times = graph_times({k: e for k, (_, e) in running.items()}, [inputs for inputs, _ in self.context.calls])
            self.result.latency_ms |= {label: round(ms, 4) for label, ms in times.items()}

    def _force(self) -> tuple[Candidate, Engine]:
        """Ship the candidate that loses least."""
        gate = self.result.gate

        def lost(loss: LossReport) -> float:
            return max(loss["dice"].values(), default=0.0) - (loss["text_agreement"] or 0.0)

        label = min(gate, key=lambda k: lost(gate[k]))
        self.result.forced = True
        self.result.reason = f"forced, although {self.result.rejected[label]}"
        return self._keep(label)

    def _keep(self, kept: str) -> tuple[Candidate, Engine]:
        """Choose a candidate and close the engines of all others."""
        self.result.chosen = kept
        for label, (_, engine) in self.running.items():
            if label != kept:
                engine.close()
        return self.running[kept]
