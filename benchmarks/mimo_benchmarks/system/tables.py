"""The results of this folder for a person."""

from __future__ import annotations

from typing import cast

from mimo_runtime.utils.tables import table

from ..report.machine import Machine, loads
from ..report.result import BenchmarkResult, closing_lines
from .cold_start import ColdStartDetails
from .energy import EnergyDetails
from .memory import MemoryDetails
from .throughput import ThroughputDetails


def throughput_table(result: BenchmarkResult) -> str:
    details = cast(ThroughputDetails, result.details)
    rows = [("callers", "asks/s", "against one", "p50 ms (p99)", "cores used")]
    for number, of in details["callers"].items():
        times = of["per_ask"]
        rows.append((
            number, f"{of['asks_per_s']:.1f}", f"{of['ratio']:.2f}x", f"{times['p50_ms']:.1f} ({times['p99_ms']:.1f})",
            f"{of['cores_used']:.2f}",
        ))  # fmt: skip
    same = f"{details['answers_different']} of {details['answers_compared']} answers differ from the serial ones"
    work = f"{details['kind']}, {details['blocks']} blocks of {details['asks_per_block']} asks, shuffled"
    return _page(result, work, table(rows), f"  {same}")


def memory_table(result: BenchmarkResult) -> str:
    d = cast(MemoryDetails, result.details)
    ended = f" of {d['count']}, the time limit came first" if d["ended_early"] else ""
    rows = [
        ("peak resident memory", f"{d['peak_mb']:.1f} MB"),
        (
            f"growth over {d['count']} asks",
            f"{d['growth_percent']:.2f} % of {d['median_mb']:.1f} MB ({d['growth_kb_per_ask']:.3f} kB per ask)",
        ),
        ("time per ask", f"p50 {d['times']['p50_ms']:.1f} ms, p99 {d['times']['p99_ms']:.1f} ms, {d['tail']:.2f}x"),
    ]
    return _page(result, f"{d['asks']} asks{ended}, {d['kind']}", table(rows))


def cold_start_table(result: BenchmarkResult) -> str:
    details = cast(ColdStartDetails, result.details)
    rows = [(name, f"{seconds:.3f} s") for name, seconds in details["stages_s"].items()]
    rows.append(("first mask", f"{details['total_s']:.3f} s"))
    peak = "unknown" if details["peak_mb"] is None else f"{details['peak_mb']:.0f} MB"
    return _page(
        result, f"{details['repeats']} starts, page cache {details['page_cache']}", table(rows), f"  peak memory {peak}"
    )


def energy_table(result: BenchmarkResult) -> str:
    details = cast(EnergyDetails, result.details)
    kinds = list(details["asks"])
    rows = [("sensor", "idle W", *(f"{kind}, J (net)" for kind in kinds))]
    for name, of in details["sensors"].items():
        joules, net = of["joules_per_ask"], of["net_joules_per_ask"]
        part = "" if of["counts"] else ", part of another"
        each = (f"{joules[kind]:.4f} ({net[kind]:.4f})" for kind in kinds)
        rows.append((f"{name} ({of['source']}{part})", f"{of['idle_w']:.2f}", *each))
    lines = [f"  {source}: {reason}" for source, reason in details["missing"].items()]
    return _page(result, f"{details['seconds']:g} s per kind", table(rows) if details["sensors"] else "  no sensor", *lines)


def _page(result: BenchmarkResult, work: str, *lines: str) -> str:
    return "\n".join([f"{result.subject}: {work}", f"  {machine_line(result.machine)}", *lines, *closing_lines(result)])


def machine_line(machine: Machine) -> str:
    """Processor, threads, versions, load and clock in one line."""
    engines = ", ".join(f"{name} {version}" for name, version in machine["engines"].items())
    conditions = machine["conditions"]
    clock = f"{conditions['clock_mhz']:.0f} MHz" if conditions["clock_mhz"] else "clock unknown"
    governor = f"governor {conditions['governor'] or 'unknown'}"
    mode = f", power mode {conditions['power_mode']}" if conditions["power_mode"] else ""
    cores = f"{machine['cpu']}, {machine['cores']} cores, threads {machine['threads']}"
    return f"{cores}, {engines}, {loads(machine)}, {clock}, {governor}{mode}"
