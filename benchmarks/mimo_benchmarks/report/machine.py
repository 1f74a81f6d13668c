"""The machine of a measurement, in words, and the memory of a process."""

from __future__ import annotations

import os
import platform
import time
from typing import TypedDict

from mimo_runtime.errors import RequestError
from mimo_runtime.hardware.host import architecture, cpu_name, memory_mb, process_memory_mb, usable_cores
from mimo_runtime.utils.versions import version_of

from .conditions import Conditions, read_conditions, was_throttled
from .processor_time import ProcessorTime, other_load, read_processor_time

#: With a load average above this, a measurement waits; where processor time is unknown, it is marked as busy.
BUSY = 1.5
#: With more than this share of the cores used by other programs, a measurement is marked as busy.
BUSY_SHARE = 0.1


class _MachineBefore(TypedDict):
    cpu: str
    arch: str
    cores: int
    threads: int | str
    memory_mb: float | None
    os: str
    python: str
    engines: dict[str, str]
    conditions: Conditions
    load_before: float | None
    processor_time: ProcessorTime | None


class Machine(_MachineBefore, total=False):
    """What a reader needs to judge a time. ``load_before`` and ``load_after`` the measurement are averages over a minute.

    ``processor_time`` is read before the measurement. ``other_load`` is how many cores other programs used during it, on
    average, None where there is no ``/proc``. ``own_load`` is what the measured processes add to ``load_after``, None if it is
    unknown. ``busy``: whether other programs ran, so that no time is to be quoted. ``conditions`` and ``conditions_after`` are
    clocks, governor and power mode; ``throttled`` is None where the system does not say.
    """

    conditions_after: Conditions
    throttled: bool | None
    load_after: float | None
    own_load: float | None
    other_load: float | None
    busy: bool


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
        "engines": {name: version for name in distributions if (version := version_of(name))},
        "conditions": read_conditions(),
        "load_before": load(),
        "processor_time": read_processor_time(),
    }


def loads(machine: Machine) -> str:
    """The load before and after a measurement, in words."""
    before, after, others = (machine.get(key) for key in ("load_before", "load_after", "other_load"))
    return f"load {before} before, {after} after, other programs {others}"


def load() -> float | None:
    """Average number of running processes over the last minute, or None where the system does not say."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def finish(machine: Machine, own_load: float | None = None) -> None:
    """Add the load after the measurement, and whether the machine was busy.

    Args:
        own_load: of the measured processes, on average; unknown, it is taken to be the number of cores. It decides only where
            processor time is unknown.
    """
    before, after = machine["load_before"], load()
    own = machine["cores"] if own_load is None else own_load
    machine["load_after"], machine["own_load"] = after, own_load
    started, ended = machine["processor_time"], read_processor_time()
    machine["other_load"] = other_load(started, ended) if started and ended else None
    if machine["other_load"] is not None:
        machine["busy"] = machine["other_load"] > BUSY_SHARE * machine["cores"]
    else:
        machine["busy"] = (before or 0) > BUSY or (after or 0) - own > BUSY
    machine["conditions_after"] = read_conditions()
    machine["throttled"] = was_throttled(machine["conditions"], machine["conditions_after"])


def wait_until_quiet(seconds: float) -> None:
    """Wait until the load is at most :data:`BUSY`, ``seconds`` at most: an earlier measurement still counts in the load."""
    end = time.monotonic() + seconds
    while (load() or 0) > BUSY and (left := end - time.monotonic()) > 0:
        time.sleep(min(1.0, left))


def cpu_seconds(pid: int) -> float | None:
    """Processor time of a process with all its threads; None where there is no ``/proc``."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def warnings(machine: Machine) -> list[str]:
    """What makes the times of this machine unreliable."""
    lines = []
    if machine.get("busy"):
        reason = f"load {machine['load_before']} before and {machine['load_after']} after the measurement, on"
        if machine.get("other_load") is not None:
            reason = f"other programs used {machine['other_load']} of"
        lines.append(f"the machine was busy: {reason} {machine['cores']} cores; do not quote these times")
    if machine.get("throttled"):
        lines.append("the processor was throttled during the measurement: let it cool, or choose another power mode")
    return lines


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
