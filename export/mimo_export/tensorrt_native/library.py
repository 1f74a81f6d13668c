"""The one module that imports ``tensorrt``."""

from __future__ import annotations

import platform
from types import ModuleType

from mimo_runtime.errors import EngineError

from .versions import NEWEST_BELOW, OLDEST, parse_version

#: What to do where it is missing. On a Jetson it comes with JetPack, for the system's Python, and never from an index.
INSTALL = (
    "Install JetPack 6 (sudo apt install nvidia-jetpack) and make the virtual environment with --system-site-packages"
    if platform.machine().lower() in ("aarch64", "arm64")
    else "Run pip install 'mimo-edge[tensorrt]'"
)


def load() -> ModuleType:
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
    version = getattr(tensorrt, "__version__", "")
    known = parse_version(version)
    if known is None:
        raise EngineError("TensorRT is installed without its bindings", f"{INSTALL} again")
    if not OLDEST <= known < NEWEST_BELOW:
        told = f"TensorRT {version} is installed; this program knows {OLDEST[0]}.{OLDEST[1]} to {NEWEST_BELOW[0] - 1}.x"
        raise EngineError(told, "Install one of those, or update mimo-edge")
    return tensorrt
