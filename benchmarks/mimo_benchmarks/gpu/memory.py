"""Used memory of the first GPU, from NVIDIA's management library."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from ctypes import POINTER, byref, c_uint, c_ulonglong, c_void_p

_LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"


class _Memory(ctypes.Structure):
    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


def gpu_memory_mb(load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> float | None:
    """MB in use by all programs, or None where NVML does not say."""
    try:
        library = load(_LIBRARY)
        library.nvmlDeviceGetHandleByIndex_v2.argtypes = (c_uint, POINTER(c_void_p))
        library.nvmlDeviceGetMemoryInfo.argtypes = (c_void_p, POINTER(_Memory))
        if library.nvmlInit_v2():
            return None
    except (OSError, AttributeError):
        return None
    try:
        handle, memory = c_void_p(), _Memory()
        if library.nvmlDeviceGetHandleByIndex_v2(0, byref(handle)) or library.nvmlDeviceGetMemoryInfo(handle, byref(memory)):
            return None
        return round(memory.used / 2**20, 1)
    finally:
        library.nvmlShutdown()
