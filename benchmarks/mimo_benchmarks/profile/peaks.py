"""What this machine can do at most: bytes per second (STREAM add), and products per second of each precision in an engine.

STREAM: McCalpin 1995, "Memory Bandwidth and Machine Balance in Current High Performance Computers". Its "add" reads two arrays
and writes a third.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mimo_runtime.engines import installed_version
from mimo_runtime.engines.openvino import DEVICE
from mimo_runtime.engines.openvino import load_library as load_openvino
from mimo_runtime.engines.ort import PROVIDER, session_options
from mimo_runtime.engines.ort import load_library as load_ort
from mimo_runtime.errors import RequestError

#: Bytes of the arrays that are in no cache.
MEMORY_BYTES = 256 << 20
#: Rows and columns of the multiplied matrices, and how many are multiplied one after the other.
GEMM_SIZE, GEMM_DEPTH = 1024, 4
#: Seconds of one measurement.
SECONDS = 0.4
PRECISIONS = ("fp32", "bf16", "int8")

_cache: dict[tuple[int, int], float] = {}


def bandwidth(size: int, threads: int, seconds: float = SECONDS) -> float:
    """GB/s of STREAM add over arrays of ``size`` bytes together: of the cache that holds them, or of memory.

    The best of the runs within ``seconds``, one at least. Measured once per power of two.
    """
    size = 1 << max(16, size - 1).bit_length()
    if (size, threads) not in _cache:
        _cache[size, threads] = _stream_add(size, threads, seconds)
    return _cache[size, threads]


def _stream_add(size: int, threads: int, seconds: float) -> float:
    count = size // 12 // threads
    arrays = [tuple(np.full(count, value, np.float32) for value in (1, 2, 0)) for _ in range(threads)]
    # Several sums a call: else the hand-over to a thread takes longer than a small array.
    repeats = max(1, (8 << 20) // size)

    def add(k: int) -> None:
        a, b, c = arrays[k]
        for _ in range(repeats):
            np.add(a, b, out=c)

    with ThreadPoolExecutor(threads) as pool:
        best = _best(lambda: list(pool.map(add, range(threads))), seconds)
    return 12 * count * threads * repeats / best / 1e9


def gemm_peaks(
    threads: int, size: int = GEMM_SIZE, depth: int = GEMM_DEPTH, seconds: float = SECONDS
) -> dict[str, dict[str, float]]:
    """GOP/s of matrix products by precision and engine, two operations per product; engines that are not installed and
    precisions that an engine has not are left out.

    Raises:
        RequestError: onnx is not installed.
    """
    try:
        graphs = {"fp32": _chain(size, depth), "int8": _quantized_chain(size, depth)}
    except ImportError:
        raise RequestError("measuring the peaks of this machine needs onnx", "pip install 'mimo-edge[export]'") from None
    peaks: dict[str, dict[str, float]] = {precision: {} for precision in PRECISIONS}
    x = np.random.default_rng(0).random((size, size), np.float32)
    for precision in PRECISIONS:
        for engine, load in (("onnxruntime", _ort_run), ("openvino", _openvino_run)):
            if installed_version(engine) is None:
                continue
            run = load(graphs["int8" if precision == "int8" else "fp32"], precision, threads, x)
            if run is not None:
                peaks[precision][engine] = round(2 * depth * size**3 / _best(run, seconds) / 1e9, 1)
    return peaks


def _best(run: Callable[[], object], seconds: float) -> float:
    """The fastest run within ``seconds``, after a first one."""
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


def _ort_run(data: bytes, precision: str, threads: int, x: np.ndarray) -> Callable[[], object] | None:
    if precision == "bf16":
        return None  # its CPU provider computes FP32 graphs in FP32 only
    ort = load_ort()
    session = ort.InferenceSession(data, session_options(ort, threads, False), providers=[PROVIDER])
    return lambda: session.run(None, {"x": x})


def _openvino_run(data: bytes, precision: str, threads: int, x: np.ndarray) -> Callable[[], object] | None:
    core = load_openvino().Core()
    if precision == "bf16" and "BF16" not in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
        return None
    options = {
        "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }  # fmt: skip
    request = core.compile_model(core.read_model(data), DEVICE, options).create_infer_request()
    return lambda: request.infer({0: x}, share_inputs=True, share_outputs=True)


def _chain(size: int, depth: int) -> bytes:
    """``x`` times ``depth`` constant matrices."""
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(1)
    names = ["x", *(f"y{k}" for k in range(1, depth)), "y"]
    nodes = [helper.make_node("MatMul", [names[k], f"w{k}"], [names[k + 1]]) for k in range(depth)]
    scale = np.float32(2 / size)
    weights = [numpy_helper.from_array(rng.random((size, size), np.float32) * scale, f"w{k}") for k in range(depth)]
    return _model(nodes, weights, size)


def _quantized_chain(size: int, depth: int) -> bytes:
    """As :func:`_chain` with 8-bit factors: activations unsigned, weights signed."""
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(1)
    constants: list[object] = []
    nodes: list[object] = []

    def constant(name: str, value: object) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def quantize(source: str, target: str, k: int) -> None:
        # Constants of its own for every node: ONNX Runtime rewrites them, and fails where two nodes share one.
        of_node = [constant(f"scale{k}", np.float32(1 / 255)), constant(f"zero{k}", np.uint8(0))]
        nodes.append(helper.make_node("QuantizeLinear", [source, *of_node], [f"q{k}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{k}", *of_node], [target]))

    quantize("x", "d0", 0)
    for k in range(depth):
        weight = constant(f"w{k}", rng.integers(0, 127, (size, size), np.int8, endpoint=True))
        of_weight = [constant(f"ws{k}", np.float32(1 / (64 * size))), constant(f"wz{k}", np.int8(0))]
        nodes.append(helper.make_node("DequantizeLinear", [weight, *of_weight], [f"v{k}"]))
        nodes.append(helper.make_node("MatMul", [f"d{k}", f"v{k}"], [f"p{k}"]))
        quantize(f"p{k}", "y" if k == depth - 1 else f"d{k + 1}", k + 1)
    return _model(nodes, constants, size)


def _model(nodes: list[object], constants: list[object], size: int) -> bytes:
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "peak", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return model.SerializeToString()
