"""Build one engine: see that there is memory, let a child process compile the graph, compare what came out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..engines.tensorrt_library import RTX_INSTALL, missing_rtx_package
from ..errors import EngineError, RequestError
from ..hardware.nvidia import CudaDevice, find_cuda_device
from ..model.graph_spec import GraphSpec
from ..utils.untyped import Untyped
from . import memory, precision_audit, timing_cache
from .job import CACHE, GRAPH, LAYERS, LOG, PLAN, Job, WorkerResult
from .network import Range, profiles
from .options import Options

APIS = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class Facts:
    """What was read in the ONNX file where the onnx package is: a device compiles without it."""

    #: Matrix operators by precision.
    delivered: Mapping[str, int]
    #: Those of its operators that not every release has: see ``versions.NEEDS``.
    operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompilerStep:
    """What the compiler is doing."""

    phase: str
    #: The phase that this one is part of; None for the outermost.
    parent: str | None
    done: int
    steps: int


@dataclass(frozen=True)
class Built:
    """An engine, and what must be known to load it."""

    plan: bytes
    #: Matrix layers of the engine by precision; None where no GPU can load it (TensorRT for RTX compiles without one).
    delivered: dict[str, int] | None
    #: Matrix operators of the ONNX file by precision.
    in_graph: dict[str, int]
    #: The complete release, such as 10.3.0. A plan runs in no other, unless it was built version compatible.
    engine_version: str
    device: CudaDevice | None
    #: In the engine's order: a runtime chooses the first that its sizes fit into.
    profiles: tuple[dict[str, Range], ...]
    #: ``none``, ``new``, ``used``, or ``refused``: TensorRT did not take the one that was there and began a new one.
    timing_cache: str
    seconds: float


def build_engine(
    data: bytes,
    spec: GraphSpec,
    options: Options,
    facts: Facts,
    *,
    api: str = "tensorrt",
    on_progress: Callable[[CompilerStep], None] | None = None,
) -> Built:
    """Compile one graph in a process of its own: with TensorRT for the GPU of this machine, with TensorRT for RTX for others.

    Args:
        data: an ONNX file without external data; precision is taken from the graph (strongly typed).
        facts: what ``data`` holds.
        api: ``tensorrt-rtx`` takes the compiler that needs no GPU, in the same way.
        on_progress: called between steps. What it raises ends the build.

    Raises:
        RequestError: an option does not exist, or does not apply to this release or GPU; TensorRT for RTX is not installed.
        EngineError: no TensorRT, no GPU, too little memory; the parser or compiler refused; the process crashed, was killed or
            took too long; or the asked precision is not in the engine. Nothing is left behind.
    """
    started = time.monotonic()
    if api not in APIS:
        raise RequestError(f"compiler {api} does not exist", f"Use {' or '.join(APIS)}")
    wanted = profiles(spec, options.axes, options.split_past)
    device = find_compiler(api)
    memory.check(spec.name, len(data), workspace_mb(api, options))
    job = Job(api, spec, tuple(wanted), options, device, facts.operators)
    with tempfile.TemporaryDirectory(prefix="mimo-tensorrt-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            job.write(folder)
            (folder / GRAPH).write_bytes(data)
        except OSError as error:
            what = f"graph {spec.name} cannot be written to {folder.parent}: {error.strerror}"
            raise EngineError(what, "Free space there, or name another folder in TMPDIR") from None
        result = _run(folder, spec.name, options.timeout_s, on_progress)
        plan = (folder / PLAN).read_bytes()
        delivered = None
        if device is not None:
            delivered = precision_audit.count((folder / LAYERS).read_text("utf-8"), len(wanted) - 1)
            precision_audit.check(spec.name, options.precision, facts.delivered, delivered)
        if result["cache_file"] and options.timing_cache is not None:
            timing_cache.write(options.timing_cache, result["cache_file"], (folder / CACHE).read_bytes())
    seconds = time.monotonic() - started
    state = str(result["cache_state"])
    return Built(plan, delivered, dict(facts.delivered), str(result["version"]), device, tuple(wanted), state, seconds)


def find_compiler(api: str) -> CudaDevice | None:
    """Check that a compiler can run here, before it gets a graph.

    Returns:
        The GPU that TensorRT compiles on; None for TensorRT for RTX, which needs none.

    Raises:
        RequestError: TensorRT for RTX is not installed.
        EngineError: there is no GPU.
    """
    if api == "tensorrt-rtx":
        if missing := missing_rtx_package():
            raise RequestError(f"the package {missing} is not installed", RTX_INSTALL)
        return None
    device = find_cuda_device()
    if device is None:
        what = "no NVIDIA GPU is visible, and TensorRT compiles by measuring on one"
        raise EngineError(what, "Build on the machine that will run the engine, and see that nvidia-smi works there")
    return device


def workspace_mb(api: str, options: Options) -> int:
    """Scratch memory that a compiler takes: TensorRT for RTX, which tries no kernel, needs none."""
    return 0 if api == "tensorrt-rtx" else options.workspace_mb


def _run(folder: Path, graph: str, timeout_s: float, on_progress: Callable[[CompilerStep], None] | None) -> WorkerResult:
    """Run the child process of a job to its end.

    Raises:
        RequestError, EngineError: as the child says, or what became of it.
    """
    log = folder / LOG
    command = [sys.executable, "-X", "faulthandler", "-m", f"{__package__}.worker", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    late = threading.Event()
    last: dict[str, Untyped] = {}
    with open(log, "wb") as errors:
        # In its folder, so that what a crash leaves there goes with it.
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        )

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.daemon = True
        timer.start()
        try:
            for line in process.stdout or ():
                try:
                    last = json.loads(line)
                except ValueError:  # cut off by the end of the process
                    continue
                if "phase" in last and on_progress is not None:
                    on_progress(CompilerStep(last["phase"], last["parent"], last["done"], last["steps"]))
            process.wait()
        finally:
            timer.cancel()
            process.kill()  # does nothing if it has ended; it has not if on_progress raised
            process.wait()
            if process.stdout:
                process.stdout.close()
    if "result" in last and process.returncode == 0:
        result: WorkerResult = last["result"]
        return result
    if "error" in last:
        kind = RequestError if last["exit_code"] == 2 else EngineError
        raise kind(last["error"], last["remedy"])
    raise _ended(graph, process.returncode, late.is_set(), timeout_s, log)


def _ended(graph: str, code: int, late: bool, timeout_s: float, log: Path) -> EngineError:
    """What became of a child that gave no answer."""
    if late:
        what = f"building graph {graph} took longer than {timeout_s:g} s and was stopped"
        return EngineError(what, "Give it more time, or a lower optimization level")
    if code == -signal.SIGTERM or (hasattr(signal, "SIGKILL") and code == -signal.SIGKILL):
        what = f"building graph {graph} was killed from outside ({signal.Signals(-code).name}), most likely for lack of memory"
        return EngineError(what, "Close other programs, or give it a smaller workspace")
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    how = f"crashed ({_signal(-code)})" if code < 0 else f"ended with code {code}"
    said = next((line for line in lines if line.startswith("Fatal Python error")), lines[-1] if lines else "no message")
    what = f"the process that builds graph {graph} {how}: {said[:300]}"
    return EngineError(what, "See that TensorRT, CUDA and the driver fit each other")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
