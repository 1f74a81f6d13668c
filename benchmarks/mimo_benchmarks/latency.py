"""Latency of a bundle and its alternatives, interleaved in one run: the ``latency`` JSON (docs/reference/json.md)."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.engines import KINDS as ENGINES
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.evaluation.metrics import dice
from mimo_runtime.utils.progress import Progress

from .contenders import CONTENDERS, ContenderSetup, Sample
from .report import machine
from .report.percentiles import percentiles
from .report.results import Agreement, ContenderLatency, Latency, TimedBundle
from .request import KINDS, Request, check_request
from .sources import find_checkpoint, is_fp32_onnx, write_fp32_graphs
from .turns.check import compare_alone, sample_alone
from .turns.order import Rounds, Samples, shuffled, take_turn
from .turns.spinning import spinning
from .worker import CAN_STOP, Worker


def measure(
    bundle_path: Path,
    request: Request,
    *,
    against: Sequence[str] | None = None,
    checkpoint: Path | None = None,
    threads: int | None = None,
    repeats: int = 30,
    warmup: int = 3,
    seed: int = 0,
    check_alone: bool = False,
    progress: Progress | None = None,
) -> Latency:
    """Time every kind of request on every contender.

    In each repeat the contenders take turns in a shuffled order, so that other work of the machine slows all of them alike. The
    processes of the others are stopped meanwhile.

    Args:
        against: names of :data:`CONTENDERS` besides ``mimo``; None is ``torch`` (if the checkpoint is found) and ``ort``.
        checkpoint: the checkpoint that the bundle was built from; see ``find_checkpoint``.
        threads: per operator, for all contenders; None leaves it to each.
        repeats: samples per contender and kind.
        warmup: unmeasured requests per contender and kind.
        seed: of the order.
        check_alone: measure each contender once more as the only process, and compare.
        progress: called with (what is done now, steps done, steps in all).

    Raises:
        RequestError: an unknown contender, or one that cannot run here.
        BundleError: the bundle or the checkpoint is not what it should be.
        EngineError: a contender failed.
    """
    bundle = Bundle.open(bundle_path)
    check_request(request, bundle)
    names, folder = _entrants(bundle, against, checkpoint)
    show = progress or (lambda *_: None)
    described = machine.describe(_distributions(bundle, names), threads)
    with ExitStack() as stack:
        setup = _setup(stack, bundle, folder, names, threads)
        rounds = Rounds(repeats, warmup, seed)
        samples, contenders, agreement = _measure_in_turns(names, setup, request, rounds, bundle, described, show)
        timed = dataclasses.replace(request, max_tokens=agreement["timed_tokens"])
        alone = _measure_alone(names, setup, timed, rounds, show) if check_alone else {}
    mimo = contenders["mimo"]
    return {
        "machine": described,
        "bundle": _describe_bundle(bundle),
        "request": request.to_dict(),
        "repeats": repeats,
        "seed": seed,
        "between_turns": "stopped" if CAN_STOP else "waiting",
        "check_alone": compare_alone(samples, alone) if alone else None,
        "contenders": contenders,
        "ratios": {name: ratios(mimo, other) for name, other in contenders.items() if name != "mimo"},
        "glue_fraction": glue(s for kind in samples["mimo"].values() for s in kind),
        "agreement": agreement,
        "warnings": machine.warnings(described),
    }


def _measure_in_turns(
    names: Sequence[str],
    setup: ContenderSetup,
    request: Request,
    rounds: Rounds,
    bundle: Bundle,
    described: machine.Machine,
    progress: Progress,
) -> tuple[dict[str, Samples], dict[str, ContenderLatency], Agreement]:
    """Samples and results by contender, and whether their answers agree. Adds the load to ``described``."""
    with ExitStack() as running:
        workers = _start_workers(running, names, setup, progress)
        texts = {w.name: w.ask(request, "text_only") for w in workers}
        agreement = compare(texts, {w.name: w.ask(request, "mask_only", findings=True) for w in workers})
        # Where answers differ in length, all are cut to the shortest: a time per answer compares only equal work.
        timed = dataclasses.replace(request, max_tokens=agreement["timed_tokens"])
        meter = _LoadMeter(workers)
        samples = _sample_rounds(workers, timed, rounds, progress)
        machine.finish(described, meter.load())
        return samples, {w.name: _describe_contender(w, samples[w.name], bundle) for w in workers}, agreement


def _measure_alone(
    names: Sequence[str], setup: ContenderSetup, request: Request, rounds: Rounds, progress: Progress
) -> dict[str, Samples]:
    samples = {}
    for number, name in enumerate(names):
        progress(f"measuring {name} by itself", number, len(names))
        samples[name] = sample_alone(partial(Worker, name, setup), request, rounds)
    return samples


def _describe_contender(worker: Worker, samples: Samples, bundle: Bundle) -> ContenderLatency:
    engines = [entry.engine for entry in bundle.manifest.graphs.values()]
    return {**summarise(samples), **machine.process_memory(worker.pid), "spinning": spinning(worker.name, engines)}


def _describe_bundle(bundle: Bundle) -> TimedBundle:
    return {
        "id": bundle.manifest.model_id,
        "target": bundle.manifest.target,
        "graphs": {n: {"engine": e.engine, "delivered": e.delivered} for n, e in bundle.manifest.graphs.items()},
        "fp32": is_fp32_onnx(bundle),
    }


def _distributions(bundle: Bundle, names: Sequence[str]) -> tuple[str, ...]:
    """Distributions of the bundle's engines and of the contenders."""
    engines = {entry.engine for entry in bundle.manifest.graphs.values()}
    of_engines = {d for name in engines for d in ENGINES[name].distributions}
    return tuple(sorted(of_engines | {d for name in names for d in CONTENDERS[name].distributions}))


def _setup(
    stack: ExitStack, bundle: Bundle, checkpoint: Path | None, names: Sequence[str], threads: int | None
) -> ContenderSetup:
    """What contenders start with; ``stack`` removes the FP32 files that some of them take."""
    onnx = None
    if any(CONTENDERS[name].needs_onnx for name in names):
        onnx = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mimo-bench-")))
        write_fp32_graphs(bundle, checkpoint, onnx)
    return ContenderSetup(Path(bundle.path), checkpoint, onnx, threads)


def _start_workers(stack: ExitStack, names: Sequence[str], setup: ContenderSetup, progress: Progress) -> list[Worker]:
    """One process per contender; ``stack`` ends them."""
    workers = []
    for number, name in enumerate(names):
        progress(f"starting {name}", number, len(names))
        workers.append(stack.enter_context(Worker(name, setup)))
    return workers


class _LoadMeter:
    """The average number of cores that the workers use from now on."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers, self._start, self._used = workers, time.perf_counter(), _cpu_seconds(workers)

    def load(self) -> float | None:
        """Until now; None where the system does not say."""
        used = _cpu_seconds(self._workers)
        if used is None or self._used is None:
            return None
        return round((used - self._used) / (time.perf_counter() - self._start), 2)


def _cpu_seconds(workers: Sequence[Worker]) -> float | None:
    seconds = [machine.cpu_seconds(worker.pid) for worker in workers]
    return None if None in seconds else sum(s for s in seconds if s is not None)


def _sample_rounds(workers: Sequence[Worker], request: Request, rounds: Rounds, progress: Progress) -> dict[str, Samples]:
    """Rounds without samples, then rounds with samples.

    Raises:
        EngineError: a contender decodes another number of tokens than before.
    """
    samples: dict[str, Samples] = {worker.name: {kind: [] for kind in KINDS} for worker in workers}
    steps = rounds.warmup + rounds.repeats
    for repeat in range(steps):
        progress("warming up" if repeat < rounds.warmup else "measuring", repeat, steps)
        for worker, kinds in shuffled(workers, rounds.seed, repeat):
            for kind, sample in take_turn(worker, request, kinds).items():
                _check_length(worker.name, kind, sample, request.max_tokens or 0)
                if repeat >= rounds.warmup:
                    samples[worker.name][kind].append(sample)
    progress("measuring", steps, steps)
    return samples


def compare(texts: dict[str, Sample], masks: dict[str, Sample]) -> Agreement:
    """Whether all contenders answer as ``mimo`` does.

    Args:
        texts: answers to ``text_only`` by contender.
        masks: answers to ``mask_only``, with findings; these do not depend on the text.
    """
    mimo = texts["mimo"]
    decoded = {name: len(sample.tokens) for name, sample in texts.items()}
    differs = [name for name, sample in texts.items() if sample.text != mimo.text]
    return {
        "reference": "mimo",
        "decoded_tokens": decoded,
        "timed_tokens": min(decoded.values()),
        "same_tokens": all(sample.tokens == mimo.tokens for sample in texts.values()),
        "same_text": not differs,
        "differs": differs,
        "masks_dice": {name: _masks_dice(masks["mimo"], sample) for name, sample in masks.items() if name != "mimo"},
        "text": mimo.text,
    }


def summarise(samples: Samples) -> dict[str, object]:
    """One contender's part of the JSON."""
    first = samples["first_ask"]
    runs: dict[str, list[float]] = {}
    for sample in first:
        for graph, times in sample.graphs_ms.items():
            runs.setdefault(graph, []).extend(times)
    return {
        **{kind: percentiles([s.total_ms for s in of_kind]) for kind, of_kind in samples.items()},
        "tokens_per_s": round(median(1000 * len(s.tokens) / s.decode_ms for s in samples["text_only"]), 2),
        "stages": {stage: percentiles([s.stages_ms[stage] for s in first]) for stage in first[0].stages_ms},
        "graphs": {graph: percentiles(times) for graph, times in runs.items()},
        "glue_fraction": {kind: glue(of_kind) for kind, of_kind in samples.items()},
    }


def ratios(mimo: ContenderLatency, other: ContenderLatency) -> dict[str, float]:
    """How many times faster ``mimo`` is, by kind: medians against medians."""
    times = {kind: round(other[kind]["p50_ms"] / mimo[kind]["p50_ms"], 3) for kind in KINDS}
    return {**times, "tokens_per_s": round(mimo["tokens_per_s"] / other["tokens_per_s"], 3)}


def glue(samples: Iterable[Sample]) -> float:
    """The share of the time in which no engine ran: Python, numpy, image and mask resampling."""
    timed = list(samples)
    return round(1 - sum(s.engine_ms for s in timed) / sum(s.total_ms for s in timed), 4)


def _entrants(bundle: Bundle, against: Sequence[str] | None, checkpoint: Path | None) -> tuple[list[str], Path | None]:
    """The contenders' names and the checkpoint, or a refusal before anything starts."""
    for name in against or ():
        if name not in CONTENDERS or name == "mimo":
            raise RequestError(f"unknown contender '{name}'", f"Choose from {', '.join(n for n in CONTENDERS if n != 'mimo')}")
    folder = find_checkpoint(bundle, checkpoint)
    if against is None:
        against = ["torch", "ort"] if folder else ["ort"]
    names = list(dict.fromkeys(("mimo", *against)))
    for name in names:
        entry = CONTENDERS[name]
        entry.check(name)
        if entry.needs_checkpoint and folder is None:
            what = f"--against {name} needs the checkpoint that bundle {bundle.path} was built from"
            raise RequestError(what, "Add --checkpoint CKPT")
    return names, folder


def _check_length(name: str, kind: str, sample: Sample, tokens: int) -> None:
    expected = tokens if KINDS[kind].text else 0
    if len(sample.tokens) != expected:
        what = f"contender {name} decoded {len(sample.tokens)} tokens instead of {expected} in {kind}"
        raise EngineError(what, "It does not repeat its own answer, so its times mean nothing: leave it out of --against")


def _masks_dice(reference: Sample, other: Sample) -> float | None:
    mine, theirs = ({f.query: f.mask for f in sample.findings} for sample in (reference, other))
    queries = mine.keys() | theirs.keys()
    if not queries:
        return None
    return round(float(np.mean([dice(mine[q], theirs[q]) if q in mine and q in theirs else 0.0 for q in queries])), 6)
