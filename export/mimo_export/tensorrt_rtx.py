"""TensorRT for RTX: NVIDIA's compiler, which needs no GPU. The one module that loads it.

The libraries travel in the wheel of ONNX Runtime's plug-in, the bindings in their own; neither finds the other by itself.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from mimo_runtime.contracts import GraphContract
from mimo_runtime.errors import EngineError, RequestError

from .tensorrt_native.network import Log, Range, add_profiles, parse, serialize

_LABEL = "TensorRT-RTX"
_LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"
_BINDINGS = "tensorrt_rtx_bindings"
#: GPUs that an engine can be compiled for alone. Without any it runs on 8.0 and later; 7.5 (Turing) has to be named.
COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
INSTALL = "pip install 'mimo-edge[tensorrt-rtx]' (Linux on x86-64)"


def missing() -> str | None:
    """The package that is not installed, or None. Imports nothing."""
    return next((name for name in (_LIBRARIES, _BINDINGS) if importlib.util.find_spec(name) is None), None)


@lru_cache(maxsize=1)
def load() -> ModuleType:
    """Load the compiler.

    Raises:
        RequestError: it is not installed.
        EngineError: it does not load.
    """
    if missing():
        raise RequestError(f"the package {missing()} is not installed", f"Run {INSTALL}")
    folder = Path(importlib.util.find_spec(_LIBRARIES).origin).parent
    try:
        for stem in ("libtensorrt_rtx.so.", "libtensorrt_onnxparser_rtx.so."):
            # The bindings look their symbols up in the process, hence RTLD_GLOBAL.
            ctypes.CDLL(str(next(folder.glob(f"{stem}*"))), ctypes.RTLD_GLOBAL)
        return importlib.import_module(_BINDINGS)
    except (OSError, StopIteration, ImportError) as error:
        raise EngineError(f"TensorRT-RTX does not load: {' '.join(str(error).split())[:200]}", f"Run {INSTALL} again") from None


def build_engine(
    data: bytes, contract: GraphContract, axes: Mapping[str, Range], compute_capabilities: Sequence[str] = ()
) -> bytes:
    """Parse and compile one graph, in this process. ``rtx_compile.compile_graph`` does it in one of its own.

    Args:
        data: an ONNX file; precision is taken from the graph (strongly typed).
        axes: for each dynamic axis of the contract's inputs. A size of 0 is allowed where the graph allows it.
        compute_capabilities: of :data:`COMPUTE_CAPABILITIES`; none: portable over NVIDIA Ampere and later.

    Returns:
        The engine plan. Kernels are finished on the GPU that loads it. Two builds differ in a few bytes.

    Raises:
        EngineError: the parser or the compiler refused; the message is theirs and names the node.
    """
    trt = load()
    log = Log(trt)
    builder = trt.Builder(log.logger)
    network, _parser = parse(trt, builder, data, contract, log, _LABEL)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # or products that are left in FP32 round their inputs to 10 bits
    _aim(trt, config, contract, compute_capabilities)
    # One profile: kernels are chosen for the sizes at hand when the plan runs, and a second profile doubles the file.
    add_profiles(builder, config, contract, [axes], _LABEL)
    return serialize(builder, network, config, contract, log, _LABEL)


def _aim(trt: ModuleType, config: Any, contract: GraphContract, compute_capabilities: Sequence[str]) -> None:
    config.num_compute_capabilities = len(compute_capabilities)
    for index, name in enumerate(compute_capabilities):
        known = getattr(trt.ComputeCapability, f"SM{name.replace('.', '')}", None)
        if known is None or not config.set_compute_capability(known, index):
            raise EngineError(f"{_LABEL} does not compile graph {contract.name} for compute capability {name}")
