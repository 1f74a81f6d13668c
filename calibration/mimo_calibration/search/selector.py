"""Precision, earned: per graph, the fastest form that stays within the tolerance on questions that it was not calibrated on.

Graphs are taken in the order in which an answer runs them, so each is calibrated on what the chosen forms upstream emit. For
each: watch it in the running chain, find the best recipe by signal-to-noise ratio, measure every block's effect, leave out
blocks until the trial is within tolerance, time the candidates against each other, and let the fastest that passes the gate
ship. The gate runs the whole chain as it would ship so far, on images that took no part in any of this. For a GPU
nothing is raced: its INT8 form is tried before its FP16 form, and single precision is what is left.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import EngineError
from mimo_runtime.hardware.host import process_memory_mb
from mimo_runtime.model.graph_spec import GRAPHS

from ..graph.qdq import amax_of
from .accuracy_gate import macro_dice
from .caching_engine import CachingEngine
from .candidates import CandidateSearch
from .latency import graph_times
from .pipeline import not_finite
from .recipe import GraphContext, score, sqnr
from .results import Candidate, GraphResult, Result, holds

#: A candidate has to be this much faster than the incumbent to take its place; less is noise.
FASTER = 0.97
#: Or no slower than this, and at most this share of its size.
NO_SLOWER, SMALLER = 1.03, 0.7
#: Plans with more blocks left out that a graph may try when its INT8 form misses the gate.
MORE_PLANS = 2
#: The graph that takes most of an answer's time, and the same images in all trials of the graphs behind it.
ENCODER = GRAPHS[0]


class PrecisionSelector(CandidateSearch):
    """See the module."""

    def run(self) -> Result:
        """Decide every graph.

        Raises:
            EngineError: an engine fails, or activations are not finite.
        """
        incumbents = {name: self._full(name) for name in GRAPHS}
        self.engines = {name: self._load(name, incumbent) for name, incumbent in incumbents.items()}
        spent = {"calibrate": 0.0, "decide": 0.0}
        for label, trial in self.trials.items():
            self.references[label] = self._replies(label, trial, self.engines, None)
        chosen, symmetric, evidence = dict(incumbents), {}, {}
        for number, name in enumerate(GRAPHS):
            self.progress(f"quantise {name}", number, len(GRAPHS))
            start = time.perf_counter()
            material = self._watch(name)
            spent["calibrate"] += time.perf_counter() - start
            told = GraphResult(seen=material.seen)
            chosen[name], engine = self._decide(name, material, incumbents[name], told)
            self.engines[name].close()
            self.engines[name] = CachingEngine(engine) if name == ENCODER else engine
            recipe = chosen[name].recipe
            model = material.quantised(recipe) if recipe else material.model
            symmetric[name] = model.SerializeToString()
            told.clips = amax_of(model) or told.clips
            told.islands = self.islands.get((name, told.chosen), {})
            told.seconds = round(time.perf_counter() - start, 1)
            spent["decide"] += told.seconds
            evidence[name] = told
        loss, replies = self._loss("gate", self.engines)
        memory, reference = process_memory_mb(), macro_dice(self.references["gate"])
        peak = memory[1] if memory else None
        return Result(chosen, symmetric, evidence, loss, macro_dice(replies), reference, spent, peak)

    def _decide(self, name: str, material: GraphContext, incumbent: Candidate, told: GraphResult) -> tuple[Candidate, Engine]:
        """The form that ships, and its engine; those of all others are closed."""
        candidates = [incumbent, *self._candidates(name, material, told)]
        running: dict[str, tuple[Candidate, Engine]] = {}
        for candidate in candidates:
            self._start(name, candidate, material, running, told)
        self._race(running, material, told)
        waiting = [label for label in running if label != incumbent.label]
        asked = self.settings.precision
        recipes, more = {candidate.recipe for candidate in candidates}, MORE_PLANS
        while waiting:
            # What does not answer to the name that was asked for comes last, however fast. Sorting is stable: what nobody timed
            # stays in the order in which it is to be tried.
            waiting.sort(key=lambda k: (not holds(name, running[k][0].precision, asked), told.latency_ms.get(k, 0.0)))
            label = waiting.pop(0)
            candidate, engine = running[label]
            if why := self._not_worth(candidate, incumbent, told) or self._not_finite_anywhere(name, candidate, engine):
                told.rejected[label] = why
                continue
            if candidate.precision != "fp32":
                told.sqnr_db[label] = round(score(sqnr(material.calls, engine.run)), 2)
            loss, _ = self._loss("gate", {**self.engines, name: engine})
            told.gate[label] = loss.to_dict()
            if loss.within(self.settings.tolerance, self.settings.text_agreement):
                told.chosen = label
                told.reason = loss.words()
                if told.latency_ms:
                    times = told.latency_ms[incumbent.label] / told.latency_ms[label]
                    told.reason = f"{times:.2f} times as fast as {incumbent.label}; {told.reason}"
                return self._keep(running, label)
            told.rejected[label] = f"outside the tolerance of {self.settings.tolerance}: {loss.words()}"
            recipe = self._next_plan(candidate.recipe, told) if more else None
            if recipe is not None and recipe not in recipes:
                recipes.add(recipe)
                more -= 1
                left_out = f" without {len(recipe.skipped)} block{'s' * (len(recipe.skipped) > 1)}"
                (other,) = self._int8(name, material, recipe, (candidate.engine,), left_out)
                if self._start(name, other, material, running, told):
                    waiting.insert(0, other.label)
                    self._race({k: running[k] for k in (incumbent.label, *waiting)}, material, told)
        if self.settings.force and self.settings.precision != "auto" and told.gate:
            label = min(
                told.gate,
                key=lambda k: max(told.gate[k]["dice"].values(), default=0.0) - (told.gate[k]["text_agreement"] or 0.0),
            )
            told.chosen, told.forced = label, True
            told.reason = f"forced, although {told.rejected[label]}"
            return self._keep(running, label)
        kind = "in lower precision" if self.settings.gpu else "faster"
        told.chosen, told.reason = incumbent.label, f"nothing {kind} stays within the tolerance"
        return self._keep(running, incumbent.label)

    def _start(
        self, name: str, candidate: Candidate, material: GraphContext, running: dict[str, tuple[Candidate, Engine]],
        told: GraphResult,
    ) -> bool:  # fmt: skip
        """Load a candidate into ``running``; False, and ``told`` says why, if it does not load or gives NaN or infinity."""
        try:
            engine = self._load(name, candidate)
        except EngineError as error:
            told.rejected[candidate.label] = str(error)
            return False
        # The first is the graph as it came, which was watched, and gave none.
        if running and (flaw := not_finite(engine, material.calls)):
            told.rejected[candidate.label] = f"NaN or infinity in output {flaw} on the calibration calls that were kept"
            engine.close()
            return False
        running[candidate.label] = candidate, engine
        told.bytes[candidate.label] = len(candidate.data)
        return True

    def _race(self, running: Mapping[str, tuple[Candidate, Engine]], material: GraphContext, told: GraphResult) -> None:
        """Time engines against each other; nothing on behalf of a GPU, which need not be here."""
        if not self.settings.gpu:
            times = graph_times({k: e for k, (_, e) in running.items()}, [given for given, _ in material.calls])
            told.latency_ms |= {label: round(ms, 4) for label, ms in times.items()}

    def _not_worth(self, candidate: Candidate, incumbent: Candidate, told: GraphResult) -> str | None:
        """Why a candidate is not even tried, in words. What was asked for by name is, however slow, and what nobody timed."""
        precision = self.settings.precision
        if not told.latency_ms or (precision in ("int8", "fp16") and candidate.precision.startswith(precision)):
            return None
        ms, base = told.latency_ms[candidate.label], told.latency_ms[incumbent.label]
        if ms <= FASTER * base or (ms <= NO_SLOWER * base and len(candidate.data) <= SMALLER * len(incumbent.data)):
            return None
        return f"not faster: {ms:.2f} ms against {base:.2f} ms"

    @staticmethod
    def _keep(running: Mapping[str, tuple[Candidate, Engine]], kept: str) -> tuple[Candidate, Engine]:
        for label, (_, engine) in running.items():
            if label != kept:
                engine.close()
        return running[kept]
