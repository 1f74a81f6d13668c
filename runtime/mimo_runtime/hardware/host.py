"""Facts about the machine, read from the standard library and /proc: what bundles are checked against and doctor prints."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

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

#: CPU features by which engines choose kernels when they compile a graph: what was compiled with one of them and what was
#: compiled without it differ.
KERNEL_FEATURES = (
    *TELLING_FEATURES,
    *("avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_fp16", "avx512_vbmi", "avx_vnni_int8", "avx_ne_convert"),
    *("amx_tile", "amx_bf16", "amx_fp16", "asimdhp", "sve2"),
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
    """Logical cores that this process may use: in a container or a systemd slice fewer than the machine has."""
    quotas = [math.ceil(quota) for quota in _cpu_quotas(Path("/"))]
    return max(1, min([len(_allowed_cpus()), *quotas]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Cores that the control groups of this process allow, version 1 and 2, of the group itself and of all that hold it.

    Inside a container the path of ``/proc/self/cgroup`` may be one of the host, which does not exist there: then the mount's
    own files count (docs.kernel.org/admin-guide/cgroup-v2.html, scheduler/sched-bwc.html).
    """
    mounts = root / "sys/fs/cgroup"
    for line in _lines(str(root / "proc/self/cgroup")) or ["0::/"]:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        bases = (mounts / "cpu", mounts / "cpu,cpuacct") if controllers else (mounts, mounts / "unified")
        group = PurePosixPath("" if ".." in path else path.lstrip("/"))  # "..": a group outside of this namespace
        for folder in (base / parent for base in bases for parent in (group, *group.parents)):
            yield from _quota_of(folder)


def _quota_of(folder: Path) -> Iterator[float]:
    """Cores that one control group allows; nothing where it does not limit them."""
    limit = " ".join(_lines(str(folder / "cpu.max"))).split()  # version 2: "max 100000" or "150000 100000"
    if not limit:
        limit = [*_lines(str(folder / "cpu.cfs_quota_us")), *_lines(str(folder / "cpu.cfs_period_us"))]  # version 1: -1 is none
    if len(limit) == 2 and all(number.isdigit() for number in limit) and int(limit[1]) > 0:
        yield int(limit[0]) / int(limit[1])


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
