"""Precision, earned: per graph, the fastest form that stays within the tolerance on questions that it was not calibrated on.

Graphs are taken in the order in which an answer runs them, so each is calibrated on what the chosen forms upstream emit. For
each: watch it in the running chain, find the best recipe by signal-to-noise ratio, measure every block's effect, leave out
blocks until the trial is within tolerance, time the candidates against each other, and let the fastest that passes the gate
ship. The gate runs the whole chain as it would ship so far, on images that took no part in any of this. For a GPU
nothing is raced: its INT8 form is tried before its FP16 form, and single precision is what is left.
"""

from __future__ import annotations

import hashlib
import json
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mimo_runtime.config import MimoConfig
from mimo_runtime.contracts import GRAPHS, graph_contracts
from mimo_runtime.engines import create_engine, why_not
from mimo_runtime.engines.base import Engine
from mimo_runtime.errors import EngineError
from mimo_runtime.evaluation.dataset import Dataset
from mimo_runtime.machine import process_memory_mb
from mimo_runtime.pipeline import Mimo
from mimo_runtime.tokenizer import Tokenizer

from .answers import Answers, program
from .data import Images, requests
from .evidence import WEIGHTS_ALONE, Candidate, GraphEvidence, Result, holds
from .fp16 import compact, to_half
from .half_form import half_form
from .observe import Cache, ObservedEngine, key
from .ort_form import ort_form
from .points import blocks
from .progress import Progress
from .remember import RememberedEngine
from .timing import graph_times
from .trial import Loss, Reply, Trial, compare, macro_dice
from .variants import CEILING, Calls, Material, Recipe, best_recipe, score, sqnr

#: A candidate has to be this much faster than the incumbent to take its place; less is noise.
FASTER = 0.97
#: Or no slower than this, and at most this share of its size.
NO_SLOWER, SMALLER = 1.03, 0.7
#: Blocks that are left out one after the other before the graph is given up.
MOST_SKIPPED = 6
#: Plans with more blocks left out that a graph may try when its INT8 form misses the gate.
MORE_PLANS = 2
#: Presence decisions that may change in the search, where one of some fifty is already more than the tolerance.
SEARCH_FLIPS = 1
#: Share of the tolerance that the search aims for: the gate measures other images.
MARGIN = 0.8

ORT, OPENVINO = "onnxruntime", "openvino"
#: The graph that takes most of an answer's time, and the same images in all trials of the graphs behind it.
ENCODER = GRAPHS[0]


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


class Optimiser:
    """See the module.

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
        self.contracts = graph_contracts(config)
        # Blocks are told apart by their effect on masks; texts would cost more than all the rest.
        small = Images(search.shown.items[: max(4, len(search.items) // 4)], search.seed)
        self.trials = {
            "search": Trial(search, datasets, entities=config.entities),
            "gate": Trial(gate, datasets, entities=config.entities),
            "blocks": Trial(small, datasets, prompts=("box", "text"), text=False, entities=config.entities),
        }
        self.references: dict[str, list[Reply]] = {}
        self.cache = Cache(settings.cache)
        self.answers = Answers(settings.cache, json.dumps([config.to_dict(), tokenizer.to_json()]))
        #: What every engine computes: which library, on how many threads, what file.
        self.computes: weakref.WeakKeyDictionary[Engine, str] = weakref.WeakKeyDictionary()
        self.engines: dict[str, Engine] = {}
        #: Nodes of a form in half precision that stay in FP32, and why; by graph and label of the candidate.
        self.islands: dict[tuple[str, str], dict[str, str]] = {}

    # -- the whole -------------------------------------------------------------------------------------------------------

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
            told = GraphEvidence(seen=material.seen)
            chosen[name], engine = self._decide(name, material, incumbents[name], told)
            self.engines[name].close()
            self.engines[name] = RememberedEngine(engine) if name == ENCODER else engine
            recipe = chosen[name].recipe
            model = material.quantised(recipe) if recipe else material.model
            symmetric[name] = model.SerializeToString()
            told.clips = _clips(model) or told.clips
            told.islands = self.islands.get((name, told.chosen), {})
            told.seconds = round(time.perf_counter() - start, 1)
            spent["decide"] += told.seconds
            evidence[name] = told
        loss, replies = self._loss("gate", self.engines)
        memory, reference = process_memory_mb(), macro_dice(self.references["gate"])
        peak = memory[1] if memory else None
        return Result(chosen, symmetric, evidence, loss, macro_dice(replies), reference, spent, peak)

    def _decide(self, name: str, material: Material, incumbent: Candidate, told: GraphEvidence) -> tuple[Candidate, Engine]:
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
        self, name: str, candidate: Candidate, material: Material, running: dict[str, tuple[Candidate, Engine]],
        told: GraphEvidence,
    ) -> bool:  # fmt: skip
        """Load a candidate into ``running``; False, and ``told`` says why, if it does not load or gives NaN or infinity."""
        try:
            engine = self._load(name, candidate)
        except EngineError as error:
            told.rejected[candidate.label] = str(error)
            return False
        # The first is the graph as it came, which was watched, and gave none.
        if running and (flaw := _not_finite(engine, material.calls)):
            told.rejected[candidate.label] = f"NaN or infinity in output {flaw} on the calibration calls that were kept"
            engine.close()
            return False
        running[candidate.label] = candidate, engine
        told.bytes[candidate.label] = len(candidate.data)
        return True

    def _race(self, running: Mapping[str, tuple[Candidate, Engine]], material: Material, told: GraphEvidence) -> None:
        """Time engines against each other; nothing on behalf of a GPU, which need not be here."""
        if not self.settings.gpu:
            times = graph_times({k: e for k, (_, e) in running.items()}, [given for given, _ in material.calls])
            told.latency_ms |= {label: round(ms, 4) for label, ms in times.items()}

    def _not_finite_anywhere(self, name: str, candidate: Candidate, engine: Engine) -> str | None:
        """Why a form in half precision cannot ship: its outputs on all calibration requests, in the running chain."""
        if candidate.precision != "fp16" and not self.settings.gpu:
            return None
        try:
            self._ask_all("check", name, _Finite(engine))
        except _NotFinite as flaw:
            return f"NaN or infinity in output {flaw} on the calibration data"
        return None

    def _not_worth(self, candidate: Candidate, incumbent: Candidate, told: GraphEvidence) -> str | None:
        """Why a candidate is not even tried, in words. What was asked for by name is, however slow, and what nobody timed."""
        precision = self.settings.precision
        if not told.latency_ms or (precision in ("int8", "fp16") and candidate.precision.startswith(precision)):
            return None
        ms, base = told.latency_ms[candidate.label], told.latency_ms[incumbent.label]
        if ms <= FASTER * base or (ms <= NO_SLOWER * base and len(candidate.data) <= SMALLER * len(incumbent.data)):
            return None
        return f"not faster: {ms:.2f} ms against {base:.2f} ms"

    # -- candidates ------------------------------------------------------------------------------------------------------

    def _full(self, name: str) -> Candidate:
        return Candidate("fp32 onnxruntime", "fp32", ORT, self.settings.threads, self.models[name].SerializeToString())

    def _candidates(self, name: str, material: Material, told: GraphEvidence) -> list[Candidate]:
        precision, engines = self.settings.precision, self.settings.engines
        found: list[Candidate] = []
        if self.settings.gpu:
            return self._gpu_candidates(name, material, told)
        if precision == "fp16":
            half = to_half(self.models[name], material.seen)
            data = half.model.SerializeToString()
            found = [Candidate(f"fp16 {e}", "fp16", e, self.settings.threads, data) for e in engines]
            self.islands |= {(name, candidate.label): half.islands for candidate in found}
            return found
        full = self.models[name].SerializeToString()
        if precision == "auto":
            found += [Candidate(f"fp32 {e}", "fp32", e, self.settings.threads, full) for e in engines if e != ORT]
        if name == WEIGHTS_ALONE:
            if precision == "auto":
                cut = ort_form(self.models[name]).SerializeToString()
                found.append(Candidate("fp32 onnxruntime, 1 thread", "fp32", ORT, 1, cut))
            self._recipe(name, material, told)
            for bits in (8, 4) if precision == "auto" else (8,):
                data = ort_form(material.quantised(Recipe("weights", bits))).SerializeToString()
                found += [
                    Candidate(f"int{bits} weights onnxruntime, {n} thread{'s' * (n > 1)}", f"int{bits}-weights", ORT, n, data,
                              Recipe("weights", bits))
                    for n in sorted({1, self.settings.threads})
                ]  # fmt: skip
            return found
        found += self._int8(name, material, self._recipe(name, material, told), engines)
        weights = Recipe("weights", 8)
        data = ort_form(compact(material.quantised(weights))).SerializeToString()
        found.append(Candidate("int8 weights onnxruntime", "int8-weights", ORT, self.settings.threads, data, weights))
        return found

    def _int8(
        self, name: str, material: Material, recipe: Recipe, engines: Sequence[str], label: str = ""
    ) -> list[Candidate]:  # fmt: skip
        """The forms of a recipe with quantised activations, one per engine.

        Args:
            label: what tells them from those of another recipe.
        """
        model = material.quantised(recipe)
        if self.settings.gpu:
            return [self._halved(name, f"int8{label} (FP16 between)", "int8", model, material, recipe)]
        model = compact(model)
        return [
            Candidate(f"int8 {e}{label}", "int8", e, self.settings.threads,
                      (ort_form(model) if e == ORT else model).SerializeToString(), recipe)
            for e in engines
        ]  # fmt: skip

    def _gpu_candidates(self, name: str, material: Material, told: GraphEvidence) -> list[Candidate]:
        """The forms that a GPU may get, in the order in which they are tried: ONNX Runtime computes the same files."""
        forms = self.settings.forms if self.settings.precision == "auto" else (self.settings.precision,)
        found = []
        if "int8" in forms:
            recipe = self._recipe(name, material, told)
            if name == WEIGHTS_ALONE:
                model = material.quantised(recipe)
                found.append(self._halved(name, "int8 weights (FP16 between)", "int8-weights", model, material, recipe))
            else:
                found += self._int8(name, material, recipe, (ORT,))
        if "fp16" in forms:
            found.append(self._halved(name, "fp16", "fp16", self.models[name], material))
        return found

    def _halved(
        self, name: str, label: str, precision: str, model: onnx.ModelProto, material: Material, recipe: Recipe | None = None
    ) -> Candidate:
        """A form for a GPU: all that is not quantised is in half precision."""
        half = half_form(model, material.seen)
        self.islands[name, label] = half.islands
        return Candidate(label, precision, ORT, self.settings.threads, half.model.SerializeToString(), recipe)

    def _recipe(self, name: str, material: Material, told: GraphEvidence) -> Recipe:
        """How to quantise a graph: the best method, without the blocks that lose too much; of the text decoder the weights."""
        if name == WEIGHTS_ALONE:
            recipe = Recipe("weights", 8)
            told.sensitivity = self._sensitivity(name, material, recipe)
            return recipe
        recipe, told.methods = best_recipe(material, self._runner(name), ORT)
        told.sensitivity = self._sensitivity(name, material, recipe)
        recipe = self._within(name, material, recipe, told)
        told.clips = _clips(material.quantised(recipe))
        told.smoothed = frozenset(material.smoothed()[1]) if recipe.smooth else frozenset()
        return recipe

    def _sensitivity(self, name: str, material: Material, recipe: Recipe) -> list[dict[str, Any]]:
        """Every block alone: noise at the graph's outputs, and what the chain loses; worst first."""
        rows, parts = [], blocks(material.points())
        masks = name != WEIGHTS_ALONE  # no mask depends on what it writes, so no Dice and no presence
        # What the graphs upstream lose already is not this block's doing.
        before = self._loss("blocks", self.engines)[0] if masks else None
        for number, (block, points) in enumerate(parts.items()):
            self.progress(f"blocks of {name}", number, len(parts))
            engine = self._engine(name, ort_form(material.quantised(recipe, only=block)).SerializeToString())
            ratio = score(sqnr(material.calls, engine.run))
            lost = presence = 0.0
            if before is not None:
                loss, _ = self._loss("blocks", {**self.engines, name: engine})
                lost = max((value - before.dice[prompt] for prompt, value in loss.dice.items()), default=0.0)
                presence = loss.presence_f1 - before.presence_f1
            rows.append({
                "block": block, "points": len(points), "sqnr_db": round(ratio, 2), "dice_loss": round(lost, 5),
                "presence_f1_loss": round(presence, 5),
            })  # fmt: skip
            engine.close()
        return sorted(rows, key=lambda row: row["sqnr_db"])

    def _plans(self, recipe: Recipe, told: GraphEvidence) -> list[Recipe]:
        """A recipe with ever more blocks left out, from none on.

        First those that alone lose more Dice than the tolerance, the largest loss before the others: that is what is at stake.
        A smaller loss is within the noise of the few images that blocks are measured on; there the signal-to-noise ratio at
        the graph's outputs decides, the noisiest first. Blocks that are as good as exact stay.
        """

        def lost(row: Mapping[str, Any]) -> float:
            return row["dice_loss"] if row["dice_loss"] > self.settings.tolerance else 0.0

        rows = [row for row in told.sensitivity if lost(row) or row["sqnr_db"] < CEILING]
        order = [row["block"] for row in sorted(rows, key=lambda row: (-lost(row), row["sqnr_db"]))]
        # One block at least is quantised.
        counts = [count for count in (0, 1, 2, 3, 4, MOST_SKIPPED) if count < max(1, len(order))]
        return [replace(recipe, skipped=tuple(sorted(order[:count]))) for count in counts]

    def _next_plan(self, recipe: Recipe | None, told: GraphEvidence) -> Recipe | None:
        """The plan with more blocks left out than this; None if there is none."""
        if recipe is None or recipe.method == "weights":
            return None
        return next((plan for plan in self._plans(recipe, told) if len(plan.skipped) > len(recipe.skipped)), None)

    def _within(self, name: str, material: Material, recipe: Recipe, told: GraphEvidence) -> Recipe:
        """Leave out blocks until the search trial is within the margin of the tolerance; the best attempt if it never is."""
        before, _ = self._loss("search", self.engines)
        found: list[tuple[float, Recipe]] = []
        for attempt in self._plans(recipe, told):
            engine = self._engine(name, ort_form(material.quantised(attempt)).SerializeToString())
            loss, _ = self._loss("search", {**self.engines, name: engine})
            engine.close()
            margin = MARGIN * self.settings.tolerance
            if loss.within(margin, self.settings.text_agreement, flips=SEARCH_FLIPS) or loss.no_worse(before):
                return attempt
            told.rejected[f"search: {attempt.words()}"] = loss.words()
            found.append((loss.worst + max(0.0, self.settings.text_agreement - loss.same_text), attempt))
        # The gate has more images and decides; the best attempt is what it gets to see.
        return min(found, key=lambda pair: pair[0])[1]

    # -- running ---------------------------------------------------------------------------------------------------------

    def _watch(self, name: str) -> Material:
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
            watched = ObservedEngine(model, self.contracts[name], every=every, threads=self.settings.threads)
            self._ask_all("watch", name, watched)
            return watched.seen, watched.calls

        seen, calls, _ = self.cache.get(key(model, self.calibration.identity, chain, settings), make)
        return Material(model, seen, calls)

    def _ask_all(self, label: str, name: str, engine: Engine) -> None:
        """Every calibration request, to the chain as it is so far with another engine for one graph."""
        # The calibration images come once per graph: remembering them would take the room of those of the trials.
        engines = {k: _inner(e) for k, e in self.engines.items()}
        with _borrowed(self.config, {**engines, name: engine}, self.tokenizer) as mimo:
            for done, (questions, asks) in enumerate(requests(self.calibration)):
                self.progress(f"{label} {name}", done, len(self.calibration.items))
                scan = mimo.open(questions.pixels)
                for given in asks:
                    scan.ask(**given, masks=name != WEIGHTS_ALONE, text_answer=name == WEIGHTS_ALONE)

    def _replies(
        self, label: str, trial: Trial, engines: Mapping[str, Engine], reference: Sequence[Reply] | None
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

    @staticmethod
    def _keep(running: Mapping[str, tuple[Candidate, Engine]], kept: str) -> tuple[Candidate, Engine]:
        for label, (_, engine) in running.items():
            if label != kept:
                engine.close()
        return running[kept]


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
    return engine.engine if isinstance(engine, RememberedEngine) else engine


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


def _not_finite(engine: Engine, calls: Calls) -> str | None:
    """The first output that is not finite on the kept calls."""
    return next((flaw for given, _ in calls if (flaw := _first_not_finite(engine.run(given)))), None)


def _first_not_finite(outputs: Mapping[str, np.ndarray]) -> str | None:
    return next((name for name, value in outputs.items() if not np.isfinite(value).all()), None)


def _clips(model: onnx.ModelProto) -> dict[str, float]:
    """The clip of every quantised activation, by tensor."""
    values = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    return {
        node.input[0]: float(np.max(values[node.input[1]])) * 127
        for node in model.graph.node if node.op_type == "QuantizeLinear"
    }  # fmt: skip
