"""TensorRT for RTX: NVIDIA's compiler, which needs no GPU. The one module that loads it.

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

from .tensorrt_native.network import Log, Range, add_profiles, parse, serialize

_LABEL = "TensorRT-RTX"
_LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"
_BINDINGS = "tensorrt_rtx_bindings"
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


def build_engine(data: bytes, contract: GraphContract, axes: Mapping[str, Range]) -> bytes:
    """Parse and compile one graph, in this process. ``tensorrt_native.build_engine`` does it in one of its own.

    Args:
        data: an ONNX file; precision is taken from the graph (strongly typed).
        axes: for each dynamic axis of the contract's inputs. A size of 0 is allowed where the graph allows it.

    Returns:
        The engine plan, portable over NVIDIA Ampere and later RTX GPUs.

    Raises:
        EngineError: the parser or the compiler refused; the message is theirs and names the node.
    """
    trt = load()
    log = Log(trt)
    builder = trt.Builder(log.logger)
    network, _parser = parse(trt, builder, data, contract, log, _LABEL)
    config = builder.create_builder_config()
    add_profiles(builder, config, contract, [axes], _LABEL)
    return serialize(builder, network, config, contract, log, _LABEL)
