"""Processor time of this process and of everything else on its cores (Linux).

Source: proc_stat(5) and proc_pid_stat(5) of the Linux manual pages.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import TypedDict

_PROC = Path("/proc")


class ProcessorTime(TypedDict):
    """Seconds. ``cores``: in which the cores that this process may use did something, or were taken by the hypervisor.

    ``own``: of this process and its descendants, those that ended and were waited for included.
    """

    wall: float
    cores: float
    own: float


def read_processor_time() -> ProcessorTime | None:
    """The counters at this moment; None where there is no ``/proc``."""
    try:
        tick = os.sysconf("SC_CLK_TCK")
        names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        lines = [line.split() for line in (_PROC / "stat").read_text("ascii").splitlines()]
        # user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user
        cores = sum(int(n) for line in lines if line[0] in names for n in (*line[1:4], *line[6:9]))
        return {"wall": time.monotonic(), "cores": cores / tick, "own": _own_seconds(tick)}
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def other_load(before: ProcessorTime, after: ProcessorTime) -> float:
    """How many of the cores other programs used between two readings, on average."""
    seconds = max(after["wall"] - before["wall"], 1e-3)
    others = (after["cores"] - before["cores"]) - (after["own"] - before["own"])
    return round(max(others / seconds, 0.0), 2)


def _own_seconds(tick: int) -> float:
    """Of this process and of its descendants. A process is read once, and its ended children are counted by itself."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(folder.name)] = int(fields[1])
        seconds[int(folder.name)] = sum(int(n) for n in fields[11:15]) / tick
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage) + sum(seconds.get(pid, 0.0) for pid in family - {os.getpid()})
