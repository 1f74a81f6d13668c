"""The machine of a measurement, in words, and the memory of a process."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import TypedDict

from mimo_runtime.errors import RequestError
from mimo_runtime.hardware.host import architecture, cpu_name, memory_mb, process_memory_mb, usable_cores

#: A load per core above this before a measurement means that other programs were running.
BUSY = 0.5


class _MachineBefore(TypedDict):
    cpu: str
    arch: str
    cores: int
    threads: int | str
    memory_mb: float | None
    os: str
    python: str
    engines: dict[str, str]
    load_before: float | None


class Machine(_MachineBefore, total=False):
    """What a reader needs to judge a time. ``load_before`` and ``load_after`` the measurement are averages over a minute."""

    load_after: float | None


class ProcessMemory(TypedDict):
    """Megabytes of a process: now, and at most since it started (None where the system does not say)."""

    resident_mb: float
    peak_mb: float | None


def describe(distributions: tuple[str, ...] = (), threads: int | None = None) -> Machine:
    """This machine, with the load before the measurement.

    Args:
        distributions: whose versions to name; those that are not installed are left out.
        threads: per operator, as requested; None leaves it to each engine.
    """
    memory = memory_mb()
    return {
        "cpu": cpu_name(),
        "arch": architecture(),
        "cores": usable_cores(),
        "threads": threads or "default",
        "memory_mb": memory[0] if memory else None,
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "engines": {name: version for name in distributions if (version := _version(name))},
        "load_before": load(),
    }


def load() -> float | None:
    """Average number of running processes over the last minute, or None where the system does not say."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def warnings(machine: Machine) -> list[str]:
    """What makes the times of this machine unreliable."""
    before = machine["load_before"]
    if before is not None and before > BUSY * machine["cores"]:
        return [f"the machine was busy: load {before} on {machine['cores']} cores before the measurement"]
    return []


def process_memory(pid: int) -> ProcessMemory:
    """The memory of a process.

    Raises:
        RequestError: psutil is not installed and there is no /proc.
    """
    if memory := process_memory_mb(pid):
        return {"resident_mb": round(memory[0], 1), "peak_mb": round(memory[1], 1)}
    try:
        import psutil
    except ImportError:
        raise RequestError("measuring memory on this system needs psutil", "pip install 'mimo-edge[bench]'") from None
    info = psutil.Process(pid).memory_info()
    peak = getattr(info, "peak_wset", None)
    return {"resident_mb": round(info.rss / 2**20, 1), "peak_mb": round(peak / 2**20, 1) if peak else None}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
