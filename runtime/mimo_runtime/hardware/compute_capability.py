"""The GPU, asked of the CUDA driver itself: no CUDA toolkit, no context, no memory on the device."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAJOR, _MINOR = 75, 76  # CUdevice_attribute of cuda.h
#: Every JetPack has it, and nothing else does.
_JETPACK = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class Device:
    """One GPU."""

    name: str
    #: Compute capability.
    capability: tuple[int, int]
    #: Of a Jetson board with NVIDIA's JetPack.
    jetpack: bool

    @property
    def compute_capability(self) -> str:
        return f"{self.capability[0]}.{self.capability[1]}"

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "capability": list(self.capability), "jetpack": self.jetpack}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Device:
        return Device(data["name"], (data["capability"][0], data["capability"][1]), data["jetpack"])


def find() -> Device | None:
    """The first GPU that this process may use (``CUDA_VISIBLE_DEVICES`` counts), or None if there is none."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        handle, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(handle), 0) or cuda.cuDeviceGetName(name, len(name), handle):
            return None
        values = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            if cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle):
                return None
            values.append(value.value)
    except (OSError, AttributeError):  # no driver, or one without these functions
        return None
    return Device(name.value.decode("utf-8", "replace"), (values[0], values[1]), _JETPACK.exists())
