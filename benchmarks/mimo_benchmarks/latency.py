"""Latency of a bundle and its alternatives, interleaved in one run: the ``latency`` JSON (docs/reference/json.md)."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.engines import KINDS as ENGINES
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.evaluation.metrics import dice

from .contenders import CONTENDERS, KINDS, Sample, Setup
from .report import machine
from .report.percentiles import percentiles
from .request import Request, check_request
from .sources import find_checkpoint, is_fp32_onnx, write_fp32_graphs
from .worker import Worker

#: Samples of a contender: kind -> one per repeat.
Samples = dict[str, list[Sample]]


def measure(
    bundle_path: Path,
    request: Request,
    *,
    against: Sequence[str] | None = None,
    checkpoint: Path | None = None,
    threads: int | None = None,
    repeats: int = 30,
    warmup: int = 3,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Time every kind of request on every contender.

    In each repeat the contenders take turns, and who begins changes from repeat to repeat, as does the order of the kinds:
    whatever else the machine does hits all alike.

    Args:
        against: names of :data:`CONTENDERS` besides ``mimo``; None is ``torch`` (if the checkpoint is found) and ``ort``.
        checkpoint: that the bundle was built from; see ``find_checkpoint``.
        threads: per operator, for all contenders; None leaves it to each.
        repeats: samples per contender and kind.
        warmup: unmeasured requests per contender and kind.
        progress: called with (what is done now, steps done, steps in all).

    Returns:
        docs/reference/json.md; ``request``, ``bundle``, ``agreement``, ``repeats``, ``warnings``; per contender ``stages``
        (milliseconds by stage of ``first_ask``), ``graphs`` (milliseconds per run of each graph), ``glue_fraction`` by kind,
        ``resident_mb`` and ``peak_mb``.

    Raises:
        RequestError: an unknown contender, or one that cannot run here.
        BundleError: the bundle or the checkpoint is not what it should be.
        EngineError: a contender failed.
    """
    bundle = Bundle.open(bundle_path)
    check_request(request, bundle)
    names, folder = _entrants(bundle, against, checkpoint)
    tell = progress or (lambda *_: None)
    entries = [CONTENDERS[name] for name in names]
    engines = {e.engine for e in bundle.manifest.graphs.values()}
    distributions = {d for name in engines for d in ENGINES[name].distributions} | {d for e in entries for d in e.distributions}
    told = machine.describe(tuple(sorted(distributions)), threads)
    with ExitStack() as stack:
        onnx = None
        if any(entry.needs_onnx for entry in entries):
            onnx = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mimo-bench-")))
            write_fp32_graphs(bundle, folder, onnx)
        setup = Setup(bundle_path, folder, onnx, threads)
        workers = []
        for number, name in enumerate(names):
            tell(f"starting {name}", number, len(names))
            workers.append(stack.enter_context(Worker(name, setup)))
        texts = {w.name: w.ask(request, "text_only") for w in workers}
        agreement = compare(texts, {w.name: w.ask(request, "mask_only", findings=True) for w in workers})
        # Where answers differ in length, all are cut to the shortest: a time per answer compares only equal work.
        timed = dataclasses.replace(request, max_tokens=agreement["timed_tokens"])
        samples: dict[str, Samples] = {name: {kind: [] for kind in KINDS} for name in names}
        steps = warmup + repeats
        for repeat in range(steps):
            for worker, kind in turns(workers, repeat):
                tell("warming up" if repeat < warmup else "measuring", repeat, steps)
                sample = worker.ask(timed, kind)
                _check_length(worker.name, kind, sample, agreement["timed_tokens"])
                if repeat >= warmup:
                    samples[worker.name][kind].append(sample)
        tell("measuring", steps, steps)
        contenders = {w.name: {**summarise(samples[w.name]), **machine.process_memory(w.pid)} for w in workers}
    told["load_after"] = machine.load()
    mimo = contenders["mimo"]
    return {
        "machine": told,
        "bundle": {
            "id": bundle.manifest.model_id,
            "target": bundle.manifest.target,
            "graphs": {n: {"engine": e.engine, "delivered": e.delivered} for n, e in bundle.manifest.graphs.items()},
            "fp32": is_fp32_onnx(bundle),
        },
        "request": request.to_dict(),
        "repeats": repeats,
        "contenders": contenders,
        "ratios": {name: ratios(mimo, found) for name, found in contenders.items() if name != "mimo"},
        "glue_fraction": glue(s for kind in samples["mimo"].values() for s in kind),
        "agreement": agreement,
        "warnings": machine.warnings(told),
    }


def turns(workers: Sequence[Any], repeat: int) -> Iterator[tuple[Any, str]]:
    """Who answers what, in one repeat: every worker every kind once, both rotated by the number of the repeat."""
    kinds = list(KINDS)
    for worker in _rotated(workers, repeat):
        for kind in _rotated(kinds, repeat):
            yield worker, kind


def compare(texts: dict[str, Sample], masks: dict[str, Sample]) -> dict[str, Any]:
    """Whether all contenders answer as ``mimo`` does.

    Args:
        texts: answers to ``text_only`` by contender.
        masks: answers to ``mask_only``, with findings; these do not depend on the text.

    Returns:
        ``decoded_tokens`` by contender, ``timed_tokens`` (the fewest of them), ``same_tokens`` and ``same_text`` over all,
        ``differs`` (who writes another text), ``masks_dice`` by contender (mean over findings, 0 for one that only one of the
        two has, None where neither has any) and the ``text``.
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


def summarise(samples: Samples) -> dict[str, Any]:
    """One contender's part of the JSON."""
    first = samples["first_ask"]
    runs: dict[str, list[float]] = {}
    for sample in first:
        for graph, times in sample.graphs_ms.items():
            runs.setdefault(graph, []).extend(times)
    return {
        **{kind: percentiles([s.total_ms for s in found]) for kind, found in samples.items()},
        "tokens_per_s": round(median(1000 * len(s.tokens) / s.decode_ms for s in samples["text_only"]), 2),
        "stages": {stage: percentiles([s.stages_ms[stage] for s in first]) for stage in first[0].stages_ms},
        "graphs": {graph: percentiles(times) for graph, times in runs.items()},
        "glue_fraction": {kind: glue(found) for kind, found in samples.items()},
    }


def ratios(mimo: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """How many times faster ``mimo`` is, by kind: medians against medians."""
    times = {kind: round(other[kind]["p50_ms"] / mimo[kind]["p50_ms"], 3) for kind in KINDS}
    return {**times, "tokens_per_s": round(mimo["tokens_per_s"] / other["tokens_per_s"], 3)}


def glue(samples: Any) -> float:
    """The share of the time in which no engine ran: Python, numpy, image and mask resampling."""
    found = list(samples)
    return round(1 - sum(s.engine_ms for s in found) / sum(s.total_ms for s in found), 4)


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
            told = f"--against {name} needs the checkpoint that bundle {bundle.path} was built from"
            raise RequestError(told, "Add --checkpoint CKPT")
    return names, folder


def _check_length(name: str, kind: str, sample: Sample, tokens: int) -> None:
    wanted = tokens if KINDS[kind].text else 0
    if len(sample.tokens) != wanted:
        told = f"contender {name} decoded {len(sample.tokens)} tokens instead of {wanted} in {kind}"
        raise EngineError(told, "It does not repeat its own answer, so its times mean nothing: leave it out of --against")


def _masks_dice(reference: Sample, other: Sample) -> float | None:
    mine, theirs = ({f.query: f.mask for f in sample.findings} for sample in (reference, other))
    queries = mine.keys() | theirs.keys()
    if not queries:
        return None
    return round(float(np.mean([dice(mine[q], theirs[q]) if q in mine and q in theirs else 0.0 for q in queries])), 6)


def _rotated(items: Sequence[Any], by: int) -> list[Any]:
    by %= len(items)
    return [*items[by:], *items[:by]]
