"""The time of each operator inside a graph, by the profile of the engine itself."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from mimo_runtime.engines import create_engine
from mimo_runtime.engines.openvino import DEVICE
from mimo_runtime.engines.openvino import load_library as load_openvino
from mimo_runtime.engines.ort import PROVIDER, parts_of, restack, session_options, tensors
from mimo_runtime.engines.ort import load_library as load_ort
from mimo_runtime.model.graph_spec import GraphSpec

Arrays = Mapping[str, np.ndarray]
#: Runs before the first that counts.
WARMUP = 2


@dataclass(frozen=True)
class Operator:
    """One operator of a graph as the engine runs it, after fusion.

    Args:
        name: of the node.
        kind: e.g. "MatMul".
        ms: mean of a run.
        detail: shapes, or the engine's kernel.
    """

    name: str
    kind: str
    ms: float
    detail: str = ""


@dataclass(frozen=True)
class GraphTimes:
    """One graph.

    Args:
        run_ms: median of runs without a profile.
        operators: the slowest first; empty if the engine has no profile.
        profiled_ms: mean of a run with the profile; its clock costs time.
    """

    run_ms: float
    operators: tuple[Operator, ...] = ()
    profiled_ms: float = 0.0


def graph_times(
    engine: str,
    data: bytes,
    spec: GraphSpec,
    feed: Arrays,
    threads: int | None,
    runs: int,
    options: Mapping[str, str] | None = None,
) -> GraphTimes:
    """Time a graph on real inputs.

    Args:
        engine: that the bundle names.
        feed: inputs of one run.
        runs: that count.
        options: settings of the engine that the bundle names.

    Raises:
        EngineError: the engine is missing, or refuses the graph.
    """
    loaded = create_engine(engine, data, spec, threads=threads, options=options)
    try:
        plain = [_timed(lambda: loaded.run(feed)) for _ in range(WARMUP + runs)][WARMUP:]
        if engine == "onnxruntime":
            operators, profiled = _ort_operators(data, feed, threads, runs)
        elif engine == "openvino":
            operators, profiled = _openvino_operators(loaded, feed, runs)
        else:
            operators, profiled = [], 0.0
    finally:
        loaded.close()
    operators.sort(key=lambda operator: -operator.ms)
    return GraphTimes(median(plain), tuple(operators), profiled)


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def _ort_operators(data: bytes, feed: Arrays, threads: int | None, runs: int) -> tuple[list[Operator], float]:
    ort = load_ort()
    with tempfile.TemporaryDirectory(prefix="mimo-bench-") as folder:
        options = session_options(ort, threads, False)
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = ort.InferenceSession(data, options, providers=[PROVIDER])
        unstacked = restack(tensors(session.get_inputs()))[1]
        inputs = {
            part: value
            for name, whole in feed.items()
            for part, value in zip(parts_of(name, unstacked), whole if name in unstacked else (whole,))
        }
        for _ in range(WARMUP + runs):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    return parse_ort_profile(events, WARMUP)


def parse_ort_profile(events: list[dict], warmup: int) -> tuple[list[Operator], float]:
    """Operators of ONNX Runtime's profile, in milliseconds of a run, and the mean of a whole run.

    Args:
        events: of the file (Chrome's trace format; microseconds).
        warmup: first runs, which do not count.
    """
    whole = sorted((e["ts"], e["dur"]) for e in events if e.get("name") == "model_run")[warmup:]
    if not whole:
        return [], 0.0
    spent: dict[tuple[str, str, str], float] = {}
    for event in events:
        kind = event.get("args", {}).get("op_name")
        if event.get("cat") == "Node" and kind and event["name"].endswith("_kernel_time") and event["ts"] >= whole[0][0]:
            shapes = " x ".join(str(shape) for shaped in event["args"].get("input_type_shape", []) for shape in shaped.values())
            key = (event["name"].removesuffix("_kernel_time"), kind, shapes)
            spent[key] = spent.get(key, 0.0) + event["dur"]
    runs = 1000 * len(whole)
    operators = [Operator(name, kind, us / runs, shapes) for (name, kind, shapes), us in spent.items()]
    return operators, sum(us for _, us in whole) / runs


def _openvino_operators(engine: object, feed: Arrays, runs: int) -> tuple[list[Operator], float]:
    library = load_openvino()
    read = engine._read  # type: ignore[attr-defined]  # the inputs that the graph reads, in its order
    model = engine._model.clone()  # type: ignore[attr-defined]
    model.reshape({k: list(feed[name].shape) for k, name in enumerate(read)})
    options = {**engine._options, "PERF_COUNT": True}  # type: ignore[attr-defined]
    request = library.Core().compile_model(model, DEVICE, options).create_infer_request()
    inputs = {k: np.ascontiguousarray(feed[name]) for k, name in enumerate(read)}

    def run_times(count: int) -> float:
        return sum(_timed(lambda: request.infer(inputs, share_outputs=True)) for _ in range(count))

    run_times(WARMUP)
    before = _openvino_means(request)
    total = run_times(runs)
    # The counters are means since the request was created, and its first run packs weights.
    operators = []
    for (name, kind, kernel), mean in _openvino_means(request).items():
        ms = (mean * (WARMUP + runs) - before.get((name, kind, kernel), 0.0) * WARMUP) / runs
        if mean > 0:  # it ran; whole microseconds may leave nothing of the counted runs
            operators.append(Operator(name, kind, max(0.0, ms), kernel))
    return operators, total / runs


def _openvino_means(request: object) -> dict[tuple[str, str, str], float]:
    """Milliseconds by name, kind and kernel."""
    counters = request.profiling_info  # type: ignore[attr-defined]
    return {(node.node_name, node.node_type, node.exec_type): 1000 * node.real_time.total_seconds() for node in counters}
