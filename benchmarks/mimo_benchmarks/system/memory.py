"""Memory of a process that answers thousands of requests: its peak, whether it grows, and the tail of the times."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TextIO, TypedDict

import numpy as np

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.hardware.host import process_memory_mb
from mimo_runtime.utils.progress import Progress, silent

from ..report import machine
from ..report.percentiles import Percentiles, percentiles
from ..report.result import BenchmarkResult, Figure
from ..request import KINDS, Request
from .measured_bundle import describe_bundle, distributions, is_fp32
from .memory_process import MemorySample, Task

#: Goals of the project: growth of resident memory over all asks, p99 against p50, and peak memory of an FP32 bundle.
GROWTH_PERCENT, TAIL, PEAK_MB = 2.0, 2.0, 300.0
#: Samples of memory in all, and the share of them at the start that does not count: caches fill, allocators settle.
SAMPLES, SETTLING = 200, 0.1


class MemoryDetails(TypedDict):
    """The details of the result of ``mimo-bench memory``.

    ``growth_percent`` is the slope of resident memory (least squares, after the first tenth of the samples) times ``count``,
    as a share of the median, also where fewer were asked. ``ended_early``: the time limit came before ``count``. ``after`` so
    many asks, memory was ``resident_mb``.
    """

    kind: str
    asks: int
    count: int
    ended_early: bool
    peak_mb: float
    median_mb: float
    growth_percent: float
    growth_kb_per_ask: float
    times: Percentiles
    tail: float
    after: list[int]
    resident_mb: list[float]


def measure_memory(
    bundle: Bundle,
    pool: Sequence[Request],
    *,
    kind: str = "first_ask",
    count: int = 10_000,
    seconds: float = 3600.0,
    threads: int | None = None,
    progress: Progress = silent,
) -> BenchmarkResult:
    """Ask ``count`` times in a fresh process that holds the runtime only.

    Args:
        pool: requests that take turns.
        seconds: ends the measurement earlier.

    Raises:
        RequestError: the system does not say how much memory a process has.
        EngineError: the process failed.
    """
    if process_memory_mb() is None:
        raise RequestError("this system has no /proc, from which memory is read", "Run mimo-bench memory on Linux")
    described, started = machine.describe(distributions(bundle), threads), time.monotonic()
    samples = _samples(bundle, pool, kind, count, seconds, threads, progress)
    if len(samples) < 4:
        raise EngineError(f"only {samples[-1]['done']} asks were answered", "Raise --seconds or --count: a slope needs more")
    machine.finish(described, round(samples[-1]["cpu_seconds"] / (time.monotonic() - started), 2))
    details = memory_details(samples, kind, count)
    return BenchmarkResult("memory", describe_bundle(bundle), described, _figures(details, is_fp32(bundle)), details)


def memory_details(samples: Sequence[MemorySample], kind: str, count: int) -> MemoryDetails:
    """The numbers of the samples."""
    settled = samples[int(SETTLING * len(samples)) :]
    slope = float(np.polyfit([s["done"] for s in settled], [s["resident_mb"] for s in settled], 1)[0])
    times = percentiles([ms for sample in settled for ms in sample["times_ms"]])
    middle, asks = median(s["resident_mb"] for s in settled), samples[-1]["done"]
    return {
        "kind": kind,
        "asks": asks,
        "count": count,
        "ended_early": asks < count,
        "peak_mb": samples[-1]["peak_mb"],
        "median_mb": round(middle, 2),
        "growth_percent": round(100 * slope * count / middle, 3),
        "growth_kb_per_ask": round(1024 * slope, 4),
        "times": times,
        "tail": round(times["p99_ms"] / times["p50_ms"], 3),
        "after": [s["done"] for s in samples],
        "resident_mb": [s["resident_mb"] for s in samples],
    }


def _figures(details: MemoryDetails, fp32: bool) -> list[Figure]:
    asks = f"over {details['asks']} asks"
    return [
        Figure("peak resident memory", details["peak_mb"], "MB", "lower", PEAK_MB if fp32 else None),
        Figure(
            f"growth of resident memory over {details['count']} asks", details["growth_percent"], "%", "lower", GROWTH_PERCENT
        ),
        Figure(f"p99 against p50 {asks}", details["tail"], "x", "lower", TAIL),
    ]


def _samples(
    bundle: Bundle, pool: Sequence[Request], kind: str, count: int, seconds: float, threads: int | None, progress: Progress
) -> list[MemorySample]:
    of_kind = KINDS[kind]
    with tempfile.TemporaryDirectory(prefix="mimo-bench-") as folder:
        images = Path(folder) / "images.npz"
        np.savez(images, **{str(k): request.pixels for k, request in enumerate(pool)})
        task: Task = {
            "bundle": str(bundle.path), "images": str(images), "threads": threads, "count": count, "seconds": seconds,
            "known": of_kind.known, "masks": of_kind.masks, "text": of_kind.text, "every": max(1, count // SAMPLES),
            "questions": [
                {"text": r.text, "boxes": [list(b) for b in r.boxes], "points": [list(p) for p in r.points],
                 "max_tokens": r.max_tokens}
                for r in pool
            ],
        }  # fmt: skip
        with (Path(folder) / "messages").open("w+", encoding="utf-8", errors="replace") as messages:
            return _run(task, messages, progress)


def _run(task: Task, messages: TextIO, progress: Progress) -> list[MemorySample]:
    """The samples of the process; ``messages`` is a file for its standard error."""
    samples: list[MemorySample] = []
    command = [sys.executable, "-m", "mimo_benchmarks.system.memory_process"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages, text=True) as process:
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                samples.append(json.loads(line))
                progress("asking", samples[-1]["done"], task["count"])
        except BaseException:
            process.kill()
            raise
    if process.returncode or not samples:
        messages.seek(0)
        lines = messages.read().strip().splitlines() or ["no message"]
        raise EngineError(f"the measured process failed: {lines[-1][:300]}", "Run mimo-run doctor")
    return samples
