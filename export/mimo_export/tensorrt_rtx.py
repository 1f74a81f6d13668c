"""TensorRT for RTX: NVIDIA's compiler, which needs no GPU. The one module that touches its API.

The libraries travel in the wheel of ONNX Runtime's plug-in, the bindings in their own; neither finds the other by itself.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from mimo_runtime.contracts import GraphContract
from mimo_runtime.errors import EngineError, RequestError

_LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"
_BINDINGS = "tensorrt_rtx_bindings"
INSTALL = "pip install 'mimo-edge[tensorrt-rtx]' (Linux on x86-64)"

#: Smallest, typical and largest size of each dynamic axis.
Range = tuple[int, int, int]


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


def build_engine(data: bytes, contract: GraphContract, axes: Mapping[str, Range]) -> bytes:
    """Parse and compile one graph.

    Args:
        data: an ONNX file; precision is taken from the graph (strongly typed).
        axes: for each dynamic axis of the contract's inputs. A size of 0 is allowed where the graph allows it.

    Returns:
        The engine plan, portable over NVIDIA Ampere and later RTX GPUs.

    Raises:
        EngineError: the parser or the compiler refused; the message is theirs and names the node.
    """
    trt = load()
    log = _Log(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(data):
        told = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f"TensorRT-RTX does not parse graph {contract.name}: {' '.join(told.split())[:600]}")
    profile = builder.create_optimization_profile()
    for tensor in contract.inputs:
        # Every input that shares an axis gets the same range: anything else is refused as inconsistent.
        profile.set_shape(tensor.name, *(tensor.concrete(**{a: sizes[i] for a, sizes in axes.items()}) for i in range(3)))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT-RTX does not compile graph {contract.name}: {log.last_error or 'no reason given'}")
    return bytes(plan)


class _Log:
    """Keeps the compiler's last error instead of printing it."""

    def __init__(self, trt: ModuleType) -> None:
        outer = self
        self.last_error = ""

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: object, message: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    outer.last_error = " ".join(message.split())[:600]

        self.logger = Logger()
