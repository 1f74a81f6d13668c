"""Threads per graph, and whether masks run beside the text, by time on the machine of the build."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mimo_calibration.search.latency import answer_of, graph_times, interleaved
from mimo_runtime.engines.base import Engine
from mimo_runtime.engines.recording import RecordingEngine
from mimo_runtime.hardware.host import usable_cores, worker_threads
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.pipeline import Mimo
from mimo_runtime.utils.progress import Progress

from .parity.samples import Sample
from .schema import Tuning

#: More threads must be faster by this share: fewer leave cores to others, and times vary.
LEAST_GAIN = 0.03
#: Cores that other programs use, from which on times mislead.
BUSY = 0.5
#: Samples whose inputs are timed, and seconds per graph.
SAMPLES, SECONDS = 2, 3.0

Calls = dict[str, list[dict[str, np.ndarray]]]
#: Loads a graph with a number of threads.
CreateEngine = Callable[[str, int], Engine]


@dataclass(frozen=True)
class Tuned:
    """The chosen threads by graph, and what the manifest says about them."""

    threads: dict[str, int]
    tuning: Tuning


def busy_cores(seconds: float = 0.5) -> float | None:
    """Cores that other programs use now; None where the system does not say.

    The load average would count the build itself, which has used all cores in the minute before.
    """
    before, own, start = _busy_seconds(), time.process_time(), time.monotonic()
    time.sleep(seconds)
    after, elapsed = _busy_seconds(), time.monotonic() - start
    if before is None or after is None:
        return None
    return max(0.0, (after - before - (time.process_time() - own)) / elapsed)


def _busy_seconds() -> float | None:
    """Processor time of the machine that was not idle (proc(5))."""
    try:
        fields = Path("/proc/stat").read_text("utf-8").split("\n", 1)[0].split()[1:9]
        user, nice, system, _idle, _waiting, *interrupts = (int(field) for field in fields)
        return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None


def thread_counts(cores: int) -> list[int]:
    """1, 2, 4 ... and the number of cores itself."""
    return sorted({min(cores, 1 << k) for k in range(cores.bit_length() + 1)})


def choose_threads(times_ms: Mapping[int, float]) -> int:
    """The fastest number of threads, or a smaller one that is slower by less than :data:`LEAST_GAIN`."""
    limit = min(times_ms.values()) * (1 + LEAST_GAIN)
    return min(count for count, ms in times_ms.items() if ms <= limit)


def tune(
    create: CreateEngine,
    ask: Callable[[Mapping[str, Engine]], Mimo],
    samples: Iterable[Sample],
    progress: Progress,
    seconds: float = SECONDS,
) -> Tuned:
    """Time every graph with each number of threads, in turn.

    Args:
        create: loads a graph of the build.
        ask: a pipeline over engines.
        samples: whose inputs the graphs are timed on.
        seconds: about how long one graph is timed.
    """
    most = worker_threads()
    calls = _recorded(create, ask, samples, most)
    times: dict[str, dict[int, float]] = {}
    for number, name in enumerate(GRAPHS):
        progress(f"tune {name}", number, len(GRAPHS) + 1)
        engines = {str(count): create(name, count) for count in thread_counts(most)}
        try:
            times[name] = {int(count): ms for count, ms in graph_times(engines, calls[name], seconds=seconds).items()}
        finally:
            for engine in engines.values():
                engine.close()
    threads = {name: choose_threads(of_graph) for name, of_graph in times.items()}
    progress("tune masks beside the text", len(GRAPHS), len(GRAPHS) + 1)
    pair = [create(name, threads[name]) for name in ("mask_decoder", "text_decoder")]
    try:
        beside = _beside_ms(pair[0], pair[1], calls, seconds)
    finally:
        for engine in pair:
            engine.close()
    tuning: Tuning = {
        "cores": usable_cores(),
        "masks_beside_text": beside["beside"] * (1 + LEAST_GAIN) < beside["one_by_one"],
        "answer_ms": {name: round(ms, 4) for name, ms in beside.items()},
        "graphs_ms": {name: {str(n): round(ms, 4) for n, ms in of_graph.items()} for name, of_graph in times.items()},
    }
    return Tuned(threads, tuning)


def _recorded(
    create: CreateEngine, ask: Callable[[Mapping[str, Engine]], Mimo], samples: Iterable[Sample], threads: int
) -> Calls:
    """Inputs of the runs of a few answers, by graph."""
    engines = {name: create(name, threads) for name in GRAPHS}
    recording = {name: RecordingEngine(engine) for name, engine in engines.items()}
    try:
        mimo = ask(recording)
        for _, sample in zip(range(SAMPLES), samples):
            prompt = sample.prompt
            mimo.open(sample.pixels).ask(prompt.text, prompt.boxes, prompt.points, prompt.mask, any_domain=True)
    finally:
        for engine in engines.values():
            engine.close()
    return {name: [inputs for inputs, _ in engine.calls] for name, engine in recording.items()}


def _beside_ms(masks: Engine, text: Engine, calls: Calls, seconds: float) -> dict[str, float]:
    """Median milliseconds of both decoders, one after the other and at the same time."""
    inputs = [{**calls["text_decoder"][0], **of_masks} for of_masks in calls["mask_decoder"][:1]]
    write = answer_of(text)

    def segment(values: Mapping[str, np.ndarray]) -> None:
        masks.run({name: values[name] for name in masks.inputs})

    def one_by_one(values: Mapping[str, np.ndarray]) -> None:
        segment(values)
        write(values)

    with ThreadPoolExecutor(1) as pool:

        def beside(values: Mapping[str, np.ndarray]) -> None:
            future = pool.submit(segment, values)
            write(values)
            future.result()

        return interleaved({"one_by_one": one_by_one, "beside": beside}, inputs, seconds=seconds)
