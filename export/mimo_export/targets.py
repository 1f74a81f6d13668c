"""What can be built: targets, the engines that run each, and the precisions and options that each takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mimo_runtime.compiler.build import find_compiler
from mimo_runtime.compiler.options import check_capabilities
from mimo_runtime.engines import why_not
from mimo_runtime.engines.tensorrt_library import load_library
from mimo_runtime.errors import MimoError, RequestError
from mimo_runtime.hardware.nvidia import find_gpus
from mimo_runtime.model.graph_spec import GRAPHS


@dataclass(frozen=True)
class Target:
    """One value of ``--target``."""

    name: str
    #: The engines that may run its graphs, names of ``mimo_runtime.engines.KINDS``; the first is the reference in float32.
    engines: tuple[str, ...]
    precisions: tuple[str, ...]
    #: Its engine is on a GPU, which the machine that builds need not have.
    gpu: bool = False
    #: Its engine reads compiled graphs: they have to be compiled, here or on the device.
    is_compiled: bool = False

    @property
    def engine(self) -> str:
        return self.engines[0]


#: Of ONNX, in which graphs are exported: native LayerNormalization and Gelu, and every engine reads it.
OPSET = 20

#: The engine that computes the files of a GPU target where they are decided on and compared.
PROXY_ENGINE = "onnxruntime"

#: The oldest release of each engine that reads the graphs: opset 20, 8-bit ``MatMulNBits``, Q/DQ fused to INT8. What else a
#: compiled graph needs is the release in ``built_with``.
ENGINE_MIN = {
    "onnxruntime": "1.20", "openvino": "2025.0", "onnxruntime-cuda": "1.20", "tensorrt": "10.3", "tensorrt-rtx": "1.7",
}  # fmt: skip

TARGETS: dict[str, Target] = {
    t.name: t for t in (
        Target("cpu", ("onnxruntime", "openvino"), ("fp32", "fp16", "int8", "auto")),
        Target("cuda", ("onnxruntime-cuda",), ("fp32", "fp16", "auto"), gpu=True),
        Target("tensorrt", ("tensorrt",), ("fp32", "fp16", "int8", "auto"), gpu=True, is_compiled=True),
        Target("tensorrt-rtx", ("tensorrt-rtx",), ("fp32", "fp16", "int8", "auto"), gpu=True, is_compiled=True),
    )
}  # fmt: skip


def choose_target(
    target: str, precision: str, portable: bool = False, compute_capabilities: Sequence[str] = (), single_graphs: bool = False
) -> Target:
    """The target of a request.

    Args:
        portable: leave the graphs to be compiled on the device.
        compute_capabilities: GPUs to compile for.
        single_graphs: only some of the graphs are wanted, as ONNX files.

    Raises:
        RequestError: this version does not build that target, or not in that precision, or not with these options. Nothing is
            accepted and ignored.
    """
    if target not in TARGETS:
        raise RequestError(f"--target {target} cannot be built by this version", f"Use --target {' or '.join(TARGETS)}")
    chosen = TARGETS[target]
    if precision not in chosen.precisions:
        raise RequestError(
            f"--precision {precision} cannot be built for --target {target} by this version",
            f"Use --precision {' or '.join(chosen.precisions)}",
        )
    if portable and not chosen.is_compiled:
        message = f"--portable has no effect with --target {target}: there is nothing to compile on the device"
        raise RequestError(message, "Leave it out, or use --target tensorrt or tensorrt-rtx")
    if single_graphs and chosen.is_compiled:
        message = f"--graphs gives ONNX files and compiles nothing, and --target {target} is about compiled graphs"
        raise RequestError(message, "Use --target cpu, or leave --graphs out")
    if compute_capabilities and target != "tensorrt-rtx":
        message = f"--compute-capability has no effect with --target {target}"
        way = "it compiles for the GPU of the machine it runs on" if chosen.is_compiled else "its files run on every GPU"
        raise RequestError(f"{message}: {way}", "Leave it out, or use --target tensorrt-rtx")
    check_capabilities(compute_capabilities)
    if precision in ("fp32", "auto") and "7.5" in compute_capabilities:
        may = "" if precision == "fp32" else ", and auto keeps what misses the tolerance in FP32"
        message = (
            f"--precision {precision} cannot be built for --compute-capability 7.5: TensorRT-RTX has no FP32 products there"
        )
        raise RequestError(message + may, "Use --precision fp16 or int8")
    return chosen


def check_graphs(graphs: Sequence[str]) -> tuple[str, ...]:
    """The chosen graphs in the order in which an answer runs them.

    Raises:
        RequestError: an unknown name, or none.
    """
    unknown = [name for name in graphs if name not in GRAPHS]
    if unknown or not graphs:
        message = f"--graphs: {unknown[0]!r} is not a graph" if unknown else "--graphs is empty"
        raise RequestError(message, f"Choose from {', '.join(GRAPHS)}")
    return tuple(name for name in GRAPHS if name in graphs)


def check_compiler(target: Target) -> None:
    """See that a target's compiler can work on this machine.

    Raises:
        RequestError: it is not installed, or there is no GPU that it needs; names what to do instead.
    """
    try:
        find_compiler(target.engine)
        if target.name == "tensorrt":
            load_library()
    except MimoError as error:
        message = f"--target {target.name} cannot be compiled on this machine: {error.what}"
        raise RequestError(message, f"{error.remedy}. Or add --portable, and run mimo-run prepare on the device") from None


def measuring_engine(target: Target) -> str | None:
    """The engine that computes a GPU target's files on this machine: its own if it reads them and is usable, else the proxy.

    None for a CPU target: every file is computed by the engine that will run it.
    """
    if not target.gpu:
        return None
    usable = not target.is_compiled and bool(find_gpus().usable) and why_not(target.engine) is None
    return target.engine if usable else PROXY_ENGINE
