"""ONNX Runtime on an NVIDIA GPU.

Its GPU wheel lists the CUDA provider on any machine. If the provider does not load, it runs everything on the CPU without an
error, even where fallbacks are switched off. So what a session really uses is looked at, per session and per operator.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from ..errors import EngineError
from ..model.graph_spec import BATCH, GraphSpec
from ..utils.untyped import Untyped
from . import cuda
from .base import REBUILD, check_spec, in_one_line, only_batch_varies
from .gpu import DeviceEngine, Place
from .ort import restack, session_options, tensors

PROVIDER = "CUDAExecutionProvider"
REINSTALL = "Run pip uninstall onnxruntime onnxruntime-gpu, then pip install 'mimo-edge[gpu]'"
LIBRARIES = "Run pip install 'onnxruntime-gpu[cuda,cudnn]', or install the CUDA and cuDNN releases that this wheel was made for"

#: In the names of operators that make up the time of a graph. On the CPU, each would also move its tensors there and back.
_COMPUTE = ("Attention", "Conv", "Einsum", "Gemm", "MatMul")
#: ``gpu_graph_id`` of a run: which captured graph to replay, or none.
_REPLAY, _NO_GRAPH = "1", "-1"


def load_library() -> ModuleType:
    """Import ONNX Runtime with its CUDA provider.

    Raises:
        EngineError: the wheel for CPUs is installed, or has overwritten the one for GPUs.
    """
    import onnxruntime

    if PROVIDER not in onnxruntime.get_available_providers():
        message = (
            f"onnxruntime {onnxruntime.__version__} has no CUDA provider: it is the wheel for CPUs, or was written over by it"
        )
        raise EngineError(message, REINSTALL)
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21: finds the CUDA libraries of pip's nvidia packages
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            onnxruntime.preload_dlls()
    library: ModuleType = onnxruntime
    return library


def check_library() -> None:
    """What :func:`load_library` checks, and that the provider loads. In a process of its own: loaded before ONNX Runtime asks
    for it, the provider would crash later.

    Raises:
        EngineError: it does not.
    """
    load_library()
    # _exit: the libraries' own clean-up is of no interest, and may crash.
    program = (
        "import os; from mimo_runtime.engines import ort_cuda; reason = ort_cuda.why_no_provider(ort_cuda.load_library()); "
        "print(reason, end='', flush=True); os._exit(0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode or done.stdout:
        message = done.stdout or (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EngineError(f"the CUDA provider does not load: {in_one_line(message)}", LIBRARIES)


def why_no_provider(ort: ModuleType) -> str:
    """What the system says when it loads the provider's libraries, "" if it loads them. Only after a session failed, or in a
    process that makes none."""
    folder, windows = Path(str(ort.__file__)).parent / "capi", sys.platform == "win32"
    for name in ("onnxruntime_providers_shared", "onnxruntime_providers_cuda"):
        try:
            ctypes.CDLL(str(folder / (f"{name}.dll" if windows else f"lib{name}.so")), ctypes.RTLD_GLOBAL)
        except OSError as error:
            return in_one_line(error)
    return ""


class OrtCudaEngine(DeviceEngine):
    """A session on the GPU, and the memory there of its inputs and outputs. Arguments: see ``create_engine``.

    Where all shapes are known, the GPU replays its work from a CUDA graph: no kernel is launched by the CPU again. A graph
    replays with the addresses that it was captured with, so the batch that it was made for has memory of its own that never
    moves. ``not_replayed`` says why a graph that could be captured was not; "" if all is well.
    """

    name = "onnxruntime-cuda"

    def __init__(self, data: bytes, spec: GraphSpec, *, threads: int | None = None, spinning: bool = False) -> None:
        try:
            self._ort = load_library()
        except EngineError:
            raise
        except Exception as error:  # a broken native library raises anything
            raise EngineError(f"onnxruntime does not load: {in_one_line(error)}", REINSTALL) from None
        super().__init__(spec)
        self.not_replayed = ""
        self._session: Untyped = None
        #: Memory of the captured graph.
        self._fixed: cuda.Memory | None = None
        replay = only_batch_varies(spec)
        try:
            self._session = self._open(data, threads, spinning, replay)
        except _NoGraph as error:
            replay, self.not_replayed = False, str(error)
            self._session = self._open(data, threads, spinning, replay)
        results, self._unstacked = restack(tensors(self._session.get_inputs()))
        check_spec(spec, results, tensors(self._session.get_outputs()))
        try:
            with self._cuda.current():
                memory = self._memory = cuda.Memory(self._cuda)
                if replay:
                    fixed = self._fixed = cuda.Memory(self._cuda)
                    self.not_replayed = self._verify_replay(memory, fixed)
                    if self.not_replayed:
                        fixed.close()
                        self._fixed, self._session = None, self._open(data, threads, spinning, False)
        except BaseException:
            self.close()
            raise

    def _memory_of(self, axes: Mapping[str, int]) -> cuda.Memory:
        memory = super()._memory_of(axes)
        return self._fixed if self._fixed is not None and axes.get(BATCH) == 1 else memory

    def _unload(self) -> None:
        self._session = None  # before its memory, which a captured graph holds the addresses of
        fixed, self._fixed = self._fixed, None
        if fixed is not None:
            fixed.close()

    def _open(self, data: bytes, threads: int | None, spinning: bool, replay: bool) -> Untyped:
        """A session that runs on the GPU.

        Raises:
            _NoGraph: it cannot be captured.
            EngineError: ONNX Runtime refuses the graph, or would run it elsewhere.
        """
        ort, graph = self._ort, self._spec.name
        # FP32 is FP32: without use_tf32 = 0, products round their inputs to 10 bits. HEURISTIC: neither minutes of trying nor
        # another choice every time.
        options = {
            "device_id": "0",
            "use_tf32": "0",
            "cudnn_conv_algo_search": "HEURISTIC",
            "enable_cuda_graph": "1" if replay else "0",
        }
        try:
            settings = session_options(ort, threads, spinning)
            settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            with _silent(ort):
                session = ort.InferenceSession(data, settings, providers=[(PROVIDER, options)], enable_fallback=0)
            session.disable_fallback()
        except Exception as error:
            if replay:
                raise _NoGraph(in_one_line(error)) from None
            message = f"{self.name} cannot load graph {graph}: {in_one_line(error)}"
            raise EngineError(message, f"Run mimo-run doctor; if it finds nothing: {REBUILD}") from None
        providers = session.get_providers()
        if not providers or providers[0] != PROVIDER:
            message = f"onnxruntime would run graph {graph} on {', '.join(providers) or 'nothing'} instead of {PROVIDER}"
            reason = why_no_provider(ort)
            raise EngineError(f"{message}: {reason}" if reason else message, LIBRARIES if reason else "Run mimo-run doctor")
        left = on_the_cpu(session)
        if left:
            message = f"onnxruntime would run {len(left)} operators of graph {graph} on the CPU, first {left[0]}"
            raise EngineError(message, "Update onnxruntime-gpu, or build the bundle in another precision")
        return session

    def _execute(self, memory: cuda.Memory, inputs: Mapping[str, Place], outputs: Mapping[str, Place]) -> None:
        memory.wait()  # ONNX Runtime has a stream of its own
        # A new binding for every run. While binding, ONNX Runtime copies an input that an operator reads on the CPU; a
        # binding that is kept would go on using that copy.
        binding = self._session.io_binding()
        for name, (address, shape) in inputs.items():
            dtype = self.inputs[name].dtype
            kind = np.dtype(dtype).type
            if name in self._unstacked:
                size = cuda.nbytes(shape[1:], dtype)
                for k in range(shape[0]):
                    binding.bind_input(f"{name}.{k}", "cuda", 0, kind, shape[1:], address + k * size)
            else:
                binding.bind_input(name, "cuda", 0, kind, shape, address)
        for name, (address, shape) in outputs.items():
            binding.bind_output(name, "cuda", 0, np.dtype(self.outputs[name].dtype).type, shape, address)
        options = self._ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", _REPLAY if memory is self._fixed else _NO_GRAPH)
        self._session.run_with_iobinding(binding, options)  # returns when the GPU is done

    def _verify_replay(self, memory: cuda.Memory, fixed: cuda.Memory) -> str:
        """Capture the graph and run it again with new inputs: "", or why it is not used.

        A graph whose inputs moved, or that has a part on the CPU, gives the first image's answer for ever, without an error.
        """
        first, second = ({t.name: _example(t.dtype, t.concrete(batch=1), k) for t in self._spec.inputs} for k in (0, 1))
        try:
            wanted = self._run(memory, second, {BATCH: 1})
            self._run(fixed, first, {BATCH: 1})
            results = self._run(fixed, second, {BATCH: 1})
        except Exception as error:
            return in_one_line(error)
        same = (np.allclose(results[name], wanted[name], 1e-3, 1e-3, equal_nan=True) for name in wanted)
        return "" if all(same) else "the replay gives another result than the graph itself"


class _NoGraph(Exception):
    """ONNX Runtime does not capture a graph."""


def on_the_cpu(session: Untyped) -> list[str]:
    """The operators of a session that take its time and run on the CPU; [] before release 1.24, which does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    parts = (part for part in session.get_provider_graph_assignment_info() if part.ep_name != PROVIDER)
    nodes = (node for part in parts for node in part.get_nodes())
    return [f"{node.op_type} {node.name}" for node in nodes if any(word in node.op_type for word in _COMPUTE)]


def _example(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Token, label and position 0 and 1 exist in every model."""
    if dtype != "float32":
        return np.full(shape, seed, dtype)
    return np.random.default_rng(seed).random(shape, np.float32)


@contextlib.contextmanager
def _silent(ort: ModuleType) -> Iterator[None]:
    """Without the pages that ONNX Runtime's own logger prints about a provider that does not load: it becomes an error."""
    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)  # its default
