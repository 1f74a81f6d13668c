"""NVIDIA TensorRT and TensorRT for RTX: the one module that imports either."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import platform
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from ..errors import EngineError
from ..utils.versions import release_numbers

#: The oldest release of TensorRT that is known (JetPack 6), and the first that is not.
OLDEST, NEWEST_BELOW = (10, 3), (12, 0)
#: What to do where it is missing. On a Jetson it comes with JetPack, for the system's Python, and never from an index.
INSTALL = (
    "Install JetPack 6 (sudo apt install nvidia-jetpack) and make the virtual environment with --system-site-packages"
    if platform.machine().lower() in ("aarch64", "arm64")
    else "Run pip install 'mimo-edge[tensorrt]'"
)
#: TensorRT for RTX: NVIDIA's own package, or the bindings, and the package whose libraries they need. Neither of these two
#: finds the other by itself.
RTX_PACKAGE, RTX_BINDINGS, RTX_LIBRARIES = "tensorrt_rtx", "tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx"
RTX_INSTALL = "Run pip install 'mimo-edge[tensorrt-rtx]' (Linux on x86-64)"


def load_library() -> ModuleType:
    """Import TensorRT's Python bindings.

    Raises:
        EngineError: they are missing, broken, or of a release that this program does not know.
    """
    try:
        import tensorrt
    except ModuleNotFoundError as error:
        if error.name == "tensorrt":
            raise EngineError("TensorRT is not installed for this Python", INSTALL) from None
        raise EngineError(f"TensorRT does not load: {error}", f"{INSTALL} again") from None
    except Exception as error:  # a native library that is missing or of another release raises anything
        raise EngineError(f"TensorRT does not load: {' '.join(str(error).split())[:200]}", f"{INSTALL} again") from None
    version = str(getattr(tensorrt, "__version__", ""))
    numbers = release_numbers(version)
    if not numbers:
        raise EngineError("TensorRT is installed without its bindings", f"{INSTALL} again")
    if not OLDEST <= numbers[:2] < NEWEST_BELOW:
        message = f"TensorRT {version} is installed; this program knows {OLDEST[0]}.{OLDEST[1]} to {NEWEST_BELOW[0] - 1}.x"
        raise EngineError(message, "Install one of those, or update mimo-edge")
    library: ModuleType = tensorrt
    return library


def missing_rtx_package() -> str | None:
    """The package of TensorRT for RTX that is not installed, or None. Imports nothing."""
    if importlib.util.find_spec(RTX_PACKAGE) is not None:
        return None
    return next((name for name in (RTX_LIBRARIES, RTX_BINDINGS) if importlib.util.find_spec(name) is None), None)


@lru_cache(maxsize=1)
def load_rtx_library() -> ModuleType:
    """Import TensorRT for RTX, runtime and compiler.

    Raises:
        EngineError: it is missing or broken.
    """
    if missing := missing_rtx_package():
        raise EngineError(f"the package {missing} is not installed", RTX_INSTALL)
    try:
        if importlib.util.find_spec(RTX_PACKAGE) is not None:
            return importlib.import_module(RTX_PACKAGE)
        libraries = importlib.util.find_spec(RTX_LIBRARIES)
        assert libraries is not None  # missing_rtx_package has found it
        folder = Path(str(libraries.origin)).parent
        for stem in ("libtensorrt_rtx.so.", "libtensorrt_onnxparser_rtx.so."):
            # The bindings look their symbols up in the process, hence RTLD_GLOBAL.
            ctypes.CDLL(str(next(folder.glob(f"{stem}*"))), ctypes.RTLD_GLOBAL)
        return importlib.import_module(RTX_BINDINGS)
    except (OSError, StopIteration, ImportError) as error:
        message = f"TensorRT-RTX does not load: {' '.join(str(error).split())[:200]}"
        raise EngineError(message, f"{RTX_INSTALL} again") from None
