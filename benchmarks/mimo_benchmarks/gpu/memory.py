"""Memory, clock, temperature, power and throttling of the first GPU, from NVIDIA's management library."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from ctypes import POINTER, byref, c_int, c_uint, c_ulonglong, c_void_p
from typing import TypedDict

_LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
#: ``NVML_CLOCK_SM`` and ``NVML_TEMPERATURE_GPU`` of nvml.h.
_SM_CLOCK, _TEMPERATURE = 1, 0
#: Bits of ``nvmlClocksThrottleReason*``: that nothing runs, that an application chose the clock, and that the display did.
_HARMLESS = 0x1 | 0x2 | 0x100


class GpuState(TypedDict):
    """None where NVML does not say.

    ``gpu_used_mb`` is the memory in use by all programs. ``gpu_throttled``: whether power, temperature or a fault holds
    the clock down at this moment.
    """

    gpu_used_mb: float | None
    gpu_clock_mhz: int | None
    gpu_temperature_c: int | None
    gpu_power_w: float | None
    gpu_throttled: bool | None


class _Memory(ctypes.Structure):
    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


def gpu_state(load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> GpuState:
    """The state at this moment."""
    state: GpuState = {
        "gpu_used_mb": None, "gpu_clock_mhz": None, "gpu_temperature_c": None, "gpu_power_w": None, "gpu_throttled": None,
    }  # fmt: skip
    try:
        library = load(_LIBRARY)
        library.nvmlDeviceGetHandleByIndex_v2.argtypes = (c_uint, POINTER(c_void_p))
        if library.nvmlInit_v2():
            return state
    except (OSError, AttributeError):
        return state
    try:
        handle = c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(0, byref(handle)) == 0:
            _read(library, handle, state)
    finally:
        library.nvmlShutdown()
    return state


def _read(library: ctypes.CDLL, handle: c_void_p, state: GpuState) -> None:
    memory, clock, temperature, power, reasons = _Memory(), c_uint(), c_uint(), c_uint(), c_ulonglong()
    if _call(library, "nvmlDeviceGetMemoryInfo", handle, memory):
        state["gpu_used_mb"] = round(memory.used / 2**20, 1)
    if _call(library, "nvmlDeviceGetClockInfo", handle, clock, _SM_CLOCK):
        state["gpu_clock_mhz"] = clock.value
    if _call(library, "nvmlDeviceGetTemperature", handle, temperature, _TEMPERATURE):
        state["gpu_temperature_c"] = temperature.value
    if _call(library, "nvmlDeviceGetPowerUsage", handle, power):
        state["gpu_power_w"] = power.value / 1e3
    if _call(library, "nvmlDeviceGetCurrentClocksThrottleReasons", handle, reasons):
        state["gpu_throttled"] = bool(reasons.value & ~_HARMLESS)


def _call(
    library: ctypes.CDLL, name: str, handle: c_void_p, value: ctypes.Structure | c_uint | c_ulonglong, *kind: int
) -> bool:
    """Fill ``value``; False where this release of NVML or this GPU cannot."""
    try:
        function = getattr(library, name)
    except AttributeError:
        return False
    function.argtypes = (c_void_p, *(c_int for _ in kind), POINTER(type(value)))
    return bool(function(handle, *kind, byref(value)) == 0)
