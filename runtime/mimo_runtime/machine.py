"""Facts about the machine, from the standard library and /proc alone: what bundles are checked against and doctor prints."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path

#: CPU features that decide how fast (never whether) integer and half-precision kernels run, as /proc/cpuinfo calls them.
TELLING_FEATURES = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8",
    "asimd", "asimddp", "i8mm", "fphp", "bf16", "sve",
)


def architecture() -> str:
    """``x86_64`` or ``aarch64``, whatever the system calls them."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


@lru_cache(maxsize=1)
def cpu_features() -> frozenset[str] | None:
    """All feature flags of the CPU, or None where the system does not tell."""
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return None


def cpu_name() -> str:
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip().lower() in ("model name", "hardware"):
            return value.strip()
    return platform.processor() or architecture()


def usable_cores() -> int:
    """Cores that this process may use, which in a container is fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_mb() -> tuple[int, int] | None:
    """``(total, available)`` memory in MB, or None where the system does not tell."""
    found = {}
    for line in _lines("/proc/meminfo"):
        name, _, value = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            found[name] = int(value.split()[0]) // 1024
    return (found["MemTotal"], found["MemAvailable"]) if len(found) == 2 else None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
