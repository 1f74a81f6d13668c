"""Profile the answers of a bundle, and the graphs on the inputs of such an answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, median

import numpy as np

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.bundle.onnx_wire import read_model
from mimo_runtime.bundle.schema import GraphEntry
from mimo_runtime.engines import KINDS as ENGINES
from mimo_runtime.engines.ort import parts_of
from mimo_runtime.engines.recording import RecordingEngine
from mimo_runtime.errors import RequestError
from mimo_runtime.hardware.host import worker_threads
from mimo_runtime.pipeline import Mimo, Scan

from ..report import machine
from ..report.percentiles import percentiles
from ..request import Request, check_request
from .causes import CAUSES, ENGINE, AnswerRecorder, recorded
from .operators import GraphTimes, graph_times
from .peaks import MEMORY_BYTES, bandwidth, gemm_peaks
from .results import AskProfile, GraphProfile, OperatorKind, Profile
from .work import FP32, Work, work_of

Progress = Callable[[str, int, int], None]
KINDS = ("first_ask", "known_image", "known_prompt")
#: Operators that are listed one by one.
LISTED = 10


def measure(
    bundle_path: Path,
    request: Request,
    *,
    threads: int | None = None,
    repeats: int = 20,
    progress: Progress | None = None,
) -> Profile:
    """Profile a bundle for the CPU.

    Args:
        repeats: samples of each kind of request, and runs of each graph.

    Raises:
        BundleError: the bundle is not what it should be.
        EngineError: an engine is missing or refuses its graph.
        RequestError: a graph is compiled for a GPU: its operators have no shapes. Or onnx is not installed.
    """
    bundle = Bundle.open(bundle_path)
    check_request(request, bundle)
    entries = bundle.manifest.graphs
    if plans := sorted({e.engine for e in entries.values() if ENGINES[e.engine].device != "cpu"}):
        raise RequestError(f"the bundle runs on {', '.join(plans)}", "Profile a bundle for the CPU; use trtexec for plans")
    if bundle.manifest.prepared:
        raise RequestError("the bundle is compiled for one processor", "Profile the bundle that it was prepared from")
    report = progress or (lambda *_: None)
    kinds = {ENGINES[entry.engine] for entry in entries.values()}
    described = machine.describe(tuple(d for kind in kinds for d in kind.distributions), threads)
    threads = threads or worker_threads()
    with Mimo.load(bundle, threads=threads) as mimo:
        mimo.warmup()
        calls = _recorded_calls(mimo, request)
        asks = _profile_asks(mimo, request, repeats, report)
    peaks = gemm_peaks(threads)
    graphs: dict[str, GraphProfile] = {}
    for position, (name, entry) in enumerate(entries.items()):
        report(f"profiling {name}", position, len(entries))
        feeds, data = calls[name], bundle.bytes(entry.file)
        used = min(threads, entry.threads or threads)
        # Half of the tokens are in the cache of the text decoder then.
        feed = feeds[len(feeds) // 2]
        times = graph_times(entry.engine, data, entry.spec, feed, used, repeats, entry.options)
        graphs[name] = _graph_profile(entry, used, len(feeds), times, work_of(data, _shapes(data, feed)), peaks)
    machine.finish(described)
    return {
        "machine": described,
        "bundle": bundle.manifest.model_id,
        "request": request.to_dict(),
        "repeats": repeats,
        "peaks": peaks,
        "memory_gb_s": round(bandwidth(MEMORY_BYTES, threads), 2),
        "asks": asks,
        "graphs": graphs,
        "warnings": machine.warnings(described),
    }


def _recorded_calls(mimo: Mimo, request: Request) -> dict[str, list[dict[str, np.ndarray]]]:
    """The inputs of every run of one answer, by graph."""
    recording = {name: RecordingEngine(engine) for name, engine in mimo.engines.items()}
    before = dict(mimo.engines)
    mimo.engines.update(recording)
    try:
        _ask(mimo.open(request.pixels), request)
    finally:
        mimo.engines.update(before)
        mimo.graphs.clear_caches()
    return {name: [inputs for inputs, _ in engine.calls] for name, engine in recording.items()}


def _ask(scan: Scan, request: Request) -> dict[str, float]:
    answer = scan.ask(request.text, request.boxes, request.points, max_tokens=request.max_tokens)
    return {stage: ms for stage, ms in answer.timings.items() if stage != "total"}


def _profile_asks(mimo: Mimo, request: Request, repeats: int, report: Progress) -> dict[str, AskProfile]:
    samples: dict[str, list[_Sample]] = {kind: [] for kind in KINDS}
    with recorded(mimo) as answers:
        for repeat in range(repeats + 1):
            report("asking", repeat, repeats + 1)
            taken = _round(mimo, request, answers)
            if repeat:  # the first round warms up
                for kind, sample in taken.items():
                    samples[kind].append(sample)
    return {kind: _ask_profile(of_kind) for kind, of_kind in samples.items()}


def _round(mimo: Mimo, request: Request, answers: AnswerRecorder) -> dict[str, _Sample]:
    def ask() -> dict[str, float]:
        return _ask(mimo.open(request.pixels), request)

    mimo.graphs.clear_caches()
    first = _Sample(answers, ask)
    scan = mimo.open(request.pixels)
    _ask(scan, request)  # its timings have the opening
    known_prompt = _Sample(answers, lambda: _ask(scan, request))
    mimo.graphs.clear_caches(images=False)
    return {"first_ask": first, "known_image": _Sample(answers, lambda: _ask(scan, request)), "known_prompt": known_prompt}


class _Sample:
    """One answer: milliseconds by cause, by stage and by graph."""

    def __init__(self, answers: AnswerRecorder, ask: Callable[[], dict[str, float]]) -> None:
        answers.reset()
        start = time.perf_counter()
        self.stages = ask()
        end = time.perf_counter()
        self.total = 1000 * (end - start)
        self.causes = {cause: 1000 * seconds for cause, seconds in answers.seconds(start, end).items()}
        self.graphs = {graph: sum(ms) for graph, ms in answers.trace.graphs_ms.items()}
        self.tokens = len(answers.trace.tokens)


def _ask_profile(samples: list[_Sample]) -> AskProfile:
    causes = _means([sample.causes for sample in samples])
    mean, engine = fmean(sample.total for sample in samples), causes[ENGINE]
    return {
        "total": percentiles([sample.total for sample in samples]),
        "mean_ms": round(mean, 3),
        "engine_ms": engine,
        "outside_ms": round(mean - engine, 3),
        "outside_fraction": round(1 - engine / mean, 4),
        "causes_ms": {cause: causes[cause] for cause in CAUSES},
        "stages_ms": _means([sample.stages for sample in samples]),
        "graphs_ms": _means([sample.graphs for sample in samples]),
        "tokens": round(median(sample.tokens for sample in samples)),
    }


def _means(samples: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for sample in samples for name in sample)
    return {name: round(fmean(sample.get(name, 0.0) for sample in samples), 4) for name in names}


def _shapes(data: bytes, feed: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs as the file calls them: it may take slices of one (``engines.ort.restack``)."""
    names = set(read_model(data).inputs)
    shapes = {}
    for name, value in feed.items():
        slices = parts_of(name, {name: len(value)} if f"{name}.0" in names else {})
        shapes |= {part: value.shape if part == name else value.shape[1:] for part in slices}
    return {name: shape for name, shape in shapes.items() if name in names}


def _graph_profile(
    entry: GraphEntry, threads: int, runs: int, times: GraphTimes, work: Work, peaks: dict[str, dict[str, float]]
) -> GraphProfile:
    products_ms = 0.0
    for precision, macs in work.macs.items():
        kind = "bf16" if precision == FP32 and entry.options.get("precision") == "bf16" else precision
        products_ms += 2 * macs / max(peaks[kind].values()) / 1e6
    speed = bandwidth(work.least_bytes, threads)
    bytes_ms = work.least_bytes / speed / 1e6
    ran = times.run_ms
    return {
        "engine": entry.engine,
        "threads": threads,
        "runs": runs,
        "run_ms": round(ran, 4),
        "profiled_ms": round(times.profiled_ms, 4),
        "macs": work.macs,
        "weight_mb": round(work.weight_bytes / 1e6, 3),
        "least_mb": round(work.least_bytes / 1e6, 3),
        "activation_mb": round(work.activation_bytes / 1e6, 3),
        "gops_per_s": round(2 * sum(work.macs.values()) / ran / 1e6, 2),
        "peak_share": round(products_ms / ran, 4),
        "bandwidth_gb_s": round(speed, 2),
        "bandwidth_share": round(bytes_ms / ran, 4),
        "ideal_ms": round(max(products_ms, bytes_ms), 4),
        "limit": "products" if products_ms >= bytes_ms else "bytes",
        "kinds": _kinds(times),
        "operators": [
            {"name": o.name, "kind": o.kind, "ms": round(o.ms, 4), "detail": o.detail} for o in times.operators[:LISTED]
        ],
    }


def _kinds(times: GraphTimes) -> list[OperatorKind]:
    spent: Counter[str] = Counter()
    count = Counter(operator.kind for operator in times.operators)
    for operator in times.operators:
        spent[operator.kind] += operator.ms  # type: ignore[assignment]  # a Counter adds floats as well
    total = sum(spent.values()) or 1.0
    return [
        {"kind": kind, "count": count[kind], "ms": round(ms, 4), "share": round(ms / total, 4)}
        for kind, ms in spent.most_common()
    ]
