"""Answers per second of one bundle in one process by the number of callers, and whether each answer is the serial one."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.errors import RequestError
from mimo_runtime.utils.progress import Progress, silent

from ..report import machine
from ..report.percentiles import Percentiles, percentiles
from ..report.result import BenchmarkResult, Figure
from ..request import KINDS, Request, RequestKind
from .measured_bundle import describe_bundle, distributions
from .pool import ask

if TYPE_CHECKING:
    from mimo_runtime.pipeline import Mimo, Scan
    from mimo_runtime.results.answer import Answer

#: Total of the most callers against one caller (the goal of the project).
GOAL = 1.3


class CallersResult(TypedDict):
    """One number of callers: answers per second in all, the ratio to one caller, and times per answer as a caller sees them."""

    asks_per_s: float
    ratio: float
    per_ask: Percentiles
    cores_used: float


class ThroughputDetails(TypedDict):
    """The details of the result of ``mimo-bench throughput``; ``callers`` by their number."""

    kind: str
    asks_per_block: int
    blocks: int
    max_callers: int | None
    callers: dict[str, CallersResult]
    answers_compared: int
    answers_different: int


@dataclass
class _Block:
    """A block of asks by one number of callers."""

    seconds: float
    cpu_seconds: float
    times_ms: list[float]
    different: int


@dataclass
class _Work:
    """What every block does: ``asks`` requests, taken by the callers one by one."""

    mimo: Mimo
    pool: Sequence[Request]
    kind: RequestKind
    scans: Sequence[Scan | None]
    asks: int
    serial: list[str] = field(default_factory=list)

    def answer(self, number: int) -> Answer:
        index = number % len(self.pool)
        return ask(self.mimo, self.pool[index], self.kind, self.scans[index])

    def run(self, callers: int) -> _Block:
        """One block; an exception of a caller is raised here after all have ended."""
        numbers, lock = itertools.count(), threading.Lock()
        times: list[float] = []
        wrong: list[int] = []
        errors: list[BaseException] = []

        def caller() -> None:
            try:
                while not errors:
                    with lock:
                        number = next(numbers)
                    if number >= self.asks:
                        return
                    start = time.perf_counter()
                    answer = self.answer(number)
                    times.append(1000 * (time.perf_counter() - start))
                    if fingerprint(answer) != self.serial[number % len(self.pool)]:
                        wrong.append(number)
            except BaseException as error:  # raised below, in the thread that waits
                errors.append(error)

        threads = [threading.Thread(target=caller, name=f"caller {k}") for k in range(callers)]
        start, cpu = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return _Block(time.perf_counter() - start, time.process_time() - cpu, times, len(wrong))


def fingerprint(answer: Answer) -> str:
    """The same for answers that are equal to the bit: text, phrases, scores and masks."""
    digest = hashlib.sha256(answer.text.encode())
    for finding in answer.findings:
        digest.update(f"{finding.phrase} {finding.query} {finding.score!r} {finding.present}".encode())
        digest.update(np.packbits(finding.mask).tobytes())
    return digest.hexdigest()


def measure_throughput(
    mimo: Mimo,
    bundle: Bundle,
    pool: Sequence[Request],
    *,
    kind: str = "first_ask",
    callers: Sequence[int] = (1, 2, 4, 8),
    asks: int = 24,
    blocks: int = 5,
    threads: int | None = None,
    max_callers: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> BenchmarkResult:
    """Measure blocks of ``asks`` answers by each number of callers, in an order that is shuffled for every round of blocks.

    Args:
        mimo: the loaded bundle; with a kind whose image is not known, it must keep no images.
        pool: requests that take turns.
        kind: of request, a key of ``request.KINDS``.
        callers: numbers of threads that ask at once; one caller is always measured.
        max_callers: of the loaded bundle, for the result.

    Raises:
        RequestError: a number of callers is not positive.
    """
    if any(number < 1 for number in callers):
        raise RequestError(f"--callers {','.join(map(str, callers))} holds a number below 1", "Use numbers such as 1,2,4,8")
    numbers = sorted({1, *callers})
    described = machine.describe(distributions(bundle), threads)
    request_kind = KINDS[kind]
    scans = [mimo.open(request.pixels) if request_kind.known else None for request in pool]
    work = _Work(mimo, pool, request_kind, scans, asks)
    progress("warming up", 0, blocks)
    work.serial = [fingerprint(work.answer(number)) for number in range(len(pool))]
    measured: dict[int, list[_Block]] = {number: [] for number in numbers}
    order = random.Random(seed)
    for block in range(blocks):
        progress("measuring", block, blocks)
        for number in order.sample(numbers, len(numbers)):
            measured[number].append(work.run(number))
    progress("measuring", blocks, blocks)
    every = [block for of in measured.values() for block in of]
    machine.finish(described, round(sum(b.cpu_seconds for b in every) / sum(b.seconds for b in every), 2))
    results = {str(number): _summary(measured[number], measured[1], asks) for number in numbers}
    details: ThroughputDetails = {
        "kind": kind, "asks_per_block": asks, "blocks": blocks, "max_callers": max_callers, "callers": results,
        "answers_compared": asks * len(every), "answers_different": sum(b.different for b in every),
    }  # fmt: skip
    return BenchmarkResult("throughput", describe_bundle(bundle), described, _figures(results, details), details)


def _summary(blocks: Sequence[_Block], of_one: Sequence[_Block], asks: int) -> CallersResult:
    """The ratio is the median over rounds: both blocks of a round ran within seconds of each other."""
    return {
        "asks_per_s": round(median(asks / block.seconds for block in blocks), 2),
        "ratio": round(median(one.seconds / block.seconds for one, block in zip(of_one, blocks)), 3),
        "per_ask": percentiles([ms for block in blocks for ms in block.times_ms]),
        "cores_used": round(sum(b.cpu_seconds for b in blocks) / sum(b.seconds for b in blocks), 2),
    }


def _figures(results: dict[str, CallersResult], details: ThroughputDetails) -> list[Figure]:
    most = str(max(map(int, results)))
    goal = GOAL if int(most) >= 8 else None
    return [
        Figure("one caller", results["1"]["asks_per_s"], "asks/s", "higher"),
        Figure(f"{most} callers", results[most]["asks_per_s"], "asks/s", "higher"),
        Figure(f"{most} callers against one", results[most]["ratio"], "x", "higher", goal),
        Figure("answers that differ from the serial ones", float(details["answers_different"]), "", "lower", 0.0),
    ]
