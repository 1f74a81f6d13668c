"""Facts about the machine, from the standard library and /proc alone: what bundles are checked against and doctor prints."""

from __future__ import annotations

import math
import os
import platform
from functools import lru_cache
from pathlib import Path

#: CPU features that decide how fast (never whether) integer and half-precision kernels run, as /proc/cpuinfo calls them.
TELLING_FEATURES = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "fphp",
    "bf16",
    "sve",
)


def architecture() -> str:
    """``x86_64`` or ``aarch64``, whatever the system calls them."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def operating_system() -> str:
    """``linux``, ``windows`` or ``darwin``: compiled plans run on the system that they were compiled for."""
    return platform.system().lower()


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
    """Logical cores that this process may use: in a container fewer than the machine has."""
    cores = len(_allowed_cpus())
    quota = " ".join(_lines("/sys/fs/cgroup/cpu.max")).split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, math.ceil(int(quota[0]) / int(quota[1])))
    return max(1, cores)


def worker_threads() -> int:
    """Threads that matrix multiplications can use: one per physical core, since hyper-threads share its arithmetic units."""
    siblings = {
        line for cpu in _allowed_cpus() for line in _lines(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    }
    return min(len(siblings) or usable_cores(), usable_cores())


def _allowed_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def memory_mb() -> tuple[int, int] | None:
    """``(total, available)`` memory in MB, or None where the system does not tell."""
    match = {}
    for line in _lines("/proc/meminfo"):
        name, _, value = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            match[name] = int(value.split()[0]) // 1024
    return (match["MemTotal"], match["MemAvailable"]) if len(match) == 2 else None


def process_memory_mb(pid: int | None = None) -> tuple[float, float] | None:
    """``(resident, peak)`` memory of a process in MB, of this one without ``pid``; None where there is no ``/proc``.

    The peak starts anew when a process starts a program, unlike ``ru_maxrss``.
    """
    match = {}
    for line in _lines(f"/proc/{'self' if pid is None else pid}/status"):
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            match[name] = int(value.split()[0]) / 1024
    return (match["VmRSS"], match["VmHWM"]) if len(match) == 2 else None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
