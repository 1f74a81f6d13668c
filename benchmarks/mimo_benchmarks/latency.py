"""Latency of a bundle and its alternatives, interleaved in one run: the ``latency`` JSON (docs/reference/json.md)."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.engines import KINDS as ENGINES
from mimo_runtime.errors import MimoError
from mimo_runtime.evaluation.metrics import dice
from mimo_runtime.utils.progress import Progress

from .contenders import CONTENDERS, ContenderSetup, Sample
from .report import machine
from .report.percentiles import percentiles
from .report.results import Agreement, ContenderLatency, Latency, TimedBundle
from .request import KINDS, Request, check_request
from .sources import is_fp32_onnx, write_fp32_graphs
from .turns.check import compare_alone
from .turns.order import Rounds, Samples, widest
from .turns.rounds import MeasuredRounds, sample_rounds
from .turns.selection import SelectedContenders, select_contenders
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

    In each repeat the contenders take turns in a shuffled order, while the processes of the others are stopped.

    Args:
        against: names of :data:`CONTENDERS` besides ``mimo``; "all" is every one that can run here; None is ``torch`` (if the
            checkpoint is found) and ``ort``.
        checkpoint: the checkpoint that the bundle was built from; see ``find_checkpoint``.
        threads: per operator, for all contenders; None leaves it to each.
        repeats: samples per contender and kind.
        warmup: unmeasured requests per contender and kind.
        seed: of the order.
        check_alone: measure each contender once more in turns that follow its own, and compare.

    Raises:
        RequestError: an unknown contender, or one that cannot run here.
        BundleError, EngineError: the bundle or the checkpoint is not what it should be, or a contender failed.
    """
    bundle = Bundle.open(bundle_path)
    check_request(request, bundle)
    selected = select_contenders(bundle, against, checkpoint)
    show = progress or (lambda *_: None)
    described = machine.describe(_distributions(bundle, selected.names), threads)
    with ExitStack() as stack:
        setup = _setup(stack, bundle, selected, threads)
        workers, measured, agreement = _measure_in_turns(
            stack, selected, setup, request, Rounds(repeats, warmup, seed), check_alone, show
        )
        machine.finish(described, measured.load)
        contenders = {w.name: _describe_contender(w, measured.samples[w.name], bundle) for w in workers}
    mimo = contenders["mimo"]
    return {
        "machine": described,
        "bundle": _describe_bundle(bundle),
        "request": request.to_dict(),
        "repeats": repeats,
        "seed": seed,
        "between_turns": "stopped" if CAN_STOP else "waiting",
        "idle_cpu_s": measured.idle_cpu_s,
        "check_alone": compare_alone(measured.samples, measured.alone) if check_alone else None,
        "contenders": contenders,
        "skipped": selected.skipped,
        "ratios": {name: ratios(mimo, other) for name, other in contenders.items() if name != "mimo"},
        "glue_fraction": _glue_of_mimo(measured.samples["mimo"]),
        "agreement": agreement,
        "warnings": machine.warnings(described),
    }


def _measure_in_turns(
    stack: ExitStack,
    contenders: SelectedContenders,
    setup: ContenderSetup,
    request: Request,
    rounds: Rounds,
    check_alone: bool,
    progress: Progress,
) -> tuple[list[Worker], MeasuredRounds, Agreement]:
    """The processes, which ``stack`` ends; their samples; and whether their answers agree."""
    workers = _start_workers(stack, contenders, setup, request, progress)
    equal = [worker for worker in workers if CONTENDERS[worker.name].same_model]
    texts = {w.name: w.ask(request, "text_only") for w in equal}
    agreement = compare(texts, {w.name: w.ask(request, "mask_only", findings=True) for w in equal})
    # Where answers differ in length, all are cut to the shortest: a time per answer compares only equal work.
    timed = dataclasses.replace(request, max_tokens=agreement["timed_tokens"])
    measured = sample_rounds(workers, timed, rounds, check_alone, progress, failed=contenders.skip)
    return [worker for worker in workers if worker.name in measured.samples], measured, agreement


def _describe_contender(worker: Worker, samples: Samples, bundle: Bundle) -> ContenderLatency:
    engines = [entry.engine for entry in bundle.manifest.graphs.values()]
    spec = CONTENDERS[worker.name]
    # The time of a text model is that of decoding alone: only its tokens per second compare.
    times = [kind for kind in samples if spec.same_model or not KINDS[kind].text]
    return {
        **summarise(samples, times),
        **machine.process_memory(worker.pid),
        "spinning": spinning(worker.name, engines),
        "same_model": spec.same_model,
        "description": spec.description,
    }


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


def _setup(stack: ExitStack, bundle: Bundle, selected: SelectedContenders, threads: int | None) -> ContenderSetup:
    """What contenders start with; ``stack`` removes the FP32 files that some of them take."""
    onnx = None
    if any(CONTENDERS[name].needs_onnx for name in selected.names):
        onnx = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mimo-bench-")))
        write_fp32_graphs(bundle, selected.checkpoint, onnx)
    return ContenderSetup(Path(bundle.path), selected.checkpoint, onnx, threads)


def _start_workers(
    stack: ExitStack, selected: SelectedContenders, setup: ContenderSetup, request: Request, progress: Progress
) -> list[Worker]:
    """One process per contender; ``stack`` ends them. One that is not named is skipped if it does not start or answer."""
    workers = []
    for number, name in enumerate(selected.names):
        progress(f"starting {name}", number, len(selected.names))
        try:
            with ExitStack() as attempt:
                worker = attempt.enter_context(Worker(name, setup))
                for kind in worker.kinds if selected.all else ():
                    worker.ask(request, kind)
                stack.push(attempt.pop_all())
                workers.append(worker)
        except MimoError as error:
            selected.skip(name, error)
    return workers


def _glue_of_mimo(samples: Samples) -> float:
    """Over all kinds but repeated questions, for which no engine may run."""
    return glue(sample for kind, of_kind in samples.items() if not KINDS[kind].repeated for sample in of_kind)


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


def summarise(samples: Samples, times: Sequence[str] | None = None) -> dict[str, object]:
    """One contender's part of the JSON.

    Args:
        times: the kinds whose times are given; None is all.
    """
    first = samples[widest(list(samples))]
    runs: dict[str, list[float]] = {}
    for sample in first:
        for graph, of_run in sample.graphs_ms.items():
            runs.setdefault(graph, []).extend(of_run)
    speeds = [1000 * len(s.tokens) / s.decode_ms for s in samples.get("text_only", ())]
    return {
        **{kind: percentiles([s.total_ms for s in samples[kind]]) for kind in (samples if times is None else times)},
        "tokens_per_s": round(median(speeds), 2) if speeds else None,
        "stages": {stage: percentiles([s.stages_ms[stage] for s in first]) for stage in first[0].stages_ms},
        "graphs": {graph: percentiles(times_ms) for graph, times_ms in runs.items()},
        "glue_fraction": {kind: glue(of_kind) for kind, of_kind in samples.items()},
    }


def ratios(mimo: ContenderLatency, other: ContenderLatency) -> dict[str, float]:
    """How many times faster ``mimo`` is, by what both have: medians against medians."""
    times = {kind: round(other[kind]["p50_ms"] / mimo[kind]["p50_ms"], 3) for kind in KINDS if kind in mimo and kind in other}
    if mimo["tokens_per_s"] and other["tokens_per_s"]:
        times["tokens_per_s"] = round(mimo["tokens_per_s"] / other["tokens_per_s"], 3)
    return times


def glue(samples: Iterable[Sample]) -> float:
    """The share of the time in which no engine ran: Python, numpy, image and mask resampling."""
    timed = list(samples)
    return round(1 - sum(s.engine_ms for s in timed) / sum(s.total_ms for s in timed), 4)


def _masks_dice(reference: Sample, other: Sample) -> float | None:
    mine, theirs = ({f.query: f.mask for f in sample.findings} for sample in (reference, other))
    queries = mine.keys() | theirs.keys()
    if not queries:
        return None
    return round(float(np.mean([dice(mine[q], theirs[q]) if q in mine and q in theirs else 0.0 for q in queries])), 6)
