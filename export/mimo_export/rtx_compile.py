"""All graphs of a model as plans of TensorRT for RTX, each compiled in a process of its own: no GPU needed.

A crash or an endless loop of a native compiler ends that process, never the build's own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from mimo_runtime.config import MimoConfig
from mimo_runtime.contracts import BATCH, PAST, GraphContract
from mimo_runtime.errors import EngineError, RequestError

from . import tensorrt_rtx
from .precision import delivered
from .rtx_forms import int8_weights
from .rtx_worker import GRAPH, JOB, LOG, PLAN, RESULT
from .tensorrt_native import forecast
from .tensorrt_native.network import Range, profiles

#: ``auto`` refuses nothing: what each graph holds is told.
PRECISIONS = ("fp32", "fp16", "int8", "auto")
#: Called as ``progress(stage, done, total)``.
Progress = Callable[[str, int, int], None]


def default_axes(config: MimoConfig, batch: int = 4) -> dict[str, Range]:
    """Sizes of the dynamic axes: up to ``batch`` requests at once, answers from the first token (empty cache) to the last."""
    longest = config.text_decoder.max_length - 1
    return {BATCH: (1, 1, batch), PAST: (0, longest // 2, longest)}


@dataclass(frozen=True)
class RtxOptions:
    """How to compile.

    Raises:
        RequestError: a value that does not exist.
    """

    #: Smallest, typical and largest size of each dynamic axis.
    axes: Mapping[str, Range]
    #: What the graphs were made for. Nothing is converted: precision lives in the graph. It is compared with what is there.
    precision: str = "fp16"
    #: Of ``tensorrt_rtx.COMPUTE_CAPABILITIES``; none: portable over NVIDIA Ampere (8.0) and later.
    compute_capabilities: tuple[str, ...] = ()
    #: The build of one graph is stopped after this time.
    timeout_s: float = 1800.0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise RequestError(f"precision {self.precision} does not exist", f"Use {', '.join(PRECISIONS)}")
        for name in self.compute_capabilities:
            if name not in tensorrt_rtx.COMPUTE_CAPABILITIES:
                known = ", ".join(tensorrt_rtx.COMPUTE_CAPABILITIES)
                raise RequestError(f"TensorRT-RTX compiles for no compute capability {name}", f"Use {known}, or none of them")
        if len(set(self.compute_capabilities)) < len(self.compute_capabilities):
            raise RequestError("a compute capability is given twice", "Give each once")
        if self.timeout_s <= 0:
            raise RequestError(f"a timeout of {self.timeout_s} s leaves no time", "Use more than 0 s")


@dataclass(frozen=True)
class Plan:
    """One compiled graph, and what must be known to load it."""

    data: bytes
    #: Matrix operators of the ONNX file by precision. Without a GPU nothing can look into the plan itself.
    delivered: dict[str, int]
    #: Matrix operators whose weights are INT8; those of ``delivered`` and those that multiply in floating point.
    int8_weights: int
    #: The complete release, such as 1.7.1.116: a plan runs in no other.
    engine_version: str
    compute_capabilities: tuple[str, ...]
    axes: dict[str, Range]
    seconds: float

    @property
    def megabytes(self) -> float:
        return len(self.data) / 1e6


def compile_bundle(
    models: Mapping[str, onnx.ModelProto],
    contracts: Mapping[str, GraphContract],
    options: RtxOptions,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Plan]:
    """Compile every graph. See :func:`compile_graph`, which is called for one after the other."""
    plans: dict[str, Plan] = {}
    for number, (name, model) in enumerate(models.items()):
        progress(f"compile {name}", number, len(models))
        plans[name] = compile_graph(model, contracts[name], options)
    progress("compile", len(models), len(models))
    return plans


def compile_graph(model: onnx.ModelProto, contract: GraphContract, options: RtxOptions) -> Plan:
    """Compile one graph in a process of its own.

    Raises:
        RequestError: the compiler is not installed, or an axis has no range.
        EngineError: the graph does not hold the asked precision, or the compiler refused it, crashed, was killed or took too
            long, or there is too little memory. Nothing is left behind.
    """
    started = time.monotonic()
    if missing := tensorrt_rtx.missing():
        raise RequestError(f"the package {missing} is not installed", f"Run {tensorrt_rtx.INSTALL}")
    (axes,) = profiles(contract, options.axes, split_past=False)
    counts, weights = delivered(model), int8_weights(model)
    check_precision(contract.name, options.precision, counts, weights)
    try:
        data = model.SerializeToString(deterministic=True)
    except ValueError:
        told = f"graph {contract.name} is larger than 2 GB, the limit of an ONNX file"
        raise EngineError(told, "Use a smaller preset, or a lower precision") from None
    forecast.check(contract.name, len(data), 0)
    job = {
        "graph": contract.name, "contract": contract.to_dict(), "axes": axes,
        "compute_capabilities": options.compute_capabilities,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="mimo-rtx-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            (folder / JOB).write_text(json.dumps(job), "utf-8")
            (folder / GRAPH).write_bytes(data)
        except OSError as error:
            told = f"graph {contract.name} cannot be written to {folder.parent}: {error.strerror}"
            raise EngineError(told, "Free space there, or name another folder in TMPDIR") from None
        del data
        result = _run(folder, contract.name, options.timeout_s)
        plan = (folder / PLAN).read_bytes()
    seconds = time.monotonic() - started
    return Plan(plan, counts, weights, result["version"], options.compute_capabilities, axes, seconds)


def check_precision(graph: str, asked: str, counts: Mapping[str, int], weights: int) -> None:
    """Hold what a graph holds against what was asked for.

    Args:
        counts: matrix operators by precision. Products of two activations stay FP16 in an INT8 graph, and FP32 islands may be
            in both, so one in the asked precision is enough; in FP32 all have to be.
        weights: matrix operators with INT8 weights. The text decoder has no other INT8.

    Raises:
        EngineError: it does not hold it.
    """
    total = sum(counts.values())
    held = {
        "fp32": counts["fp32"] == total and not weights,
        "fp16": counts["fp16"] > 0 and not counts["int8"] and not weights,
        "int8": weights > 0,
        "auto": True,
    }[asked]
    if total and not held:
        has = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
        has += f", {weights} of them with INT8 weights" if weights else ""
        told = f"graph {graph} was asked for in {asked}; its matrix operators are {has}"
        raise EngineError(told, "Convert it first: nothing is converted when it is compiled")


def _run(folder: Path, graph: str, timeout_s: float) -> dict[str, Any]:
    """Run the child process of a job to its end; what it says is in ``RESULT``, what its libraries print in ``LOG``."""
    command = [sys.executable, "-X", "faulthandler", "-m", "mimo_export.rtx_worker", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    with open(folder / LOG, "wb") as log:
        try:
            # In its folder, so that what a crash leaves there goes with it.
            code = subprocess.run(
                command, cwd=folder, env=environment, timeout=timeout_s, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            ).returncode
        except subprocess.TimeoutExpired:
            told = f"compiling graph {graph} took longer than {timeout_s:g} s and was stopped"
            raise EngineError(told, "Give it more time") from None
    if code == 0 and (folder / RESULT).exists():
        result = json.loads((folder / RESULT).read_text("utf-8"))
        if "error" not in result:
            return result
        raise (RequestError if result["exit_code"] == 2 else EngineError)(result["error"], result["remedy"])
    if -code in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        told = f"compiling graph {graph} was killed from outside, most likely for lack of memory"
        raise EngineError(told, "Close other programs")
    lines = [line.strip() for line in (folder / LOG).read_text("utf-8", "replace").splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("Fatal Python error")), lines[-1] if lines else "no message")
    told = f"the process that compiles graph {graph} ended with code {code}: {said[:300]}"
    raise EngineError(told, f"Run {tensorrt_rtx.INSTALL} again")
