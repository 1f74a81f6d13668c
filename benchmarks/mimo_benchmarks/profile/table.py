"""The result of ``mimo-bench profile`` for a person, in Markdown."""

from __future__ import annotations

from pathlib import Path

from mimo_runtime.errors import RequestError
from mimo_runtime.utils.atomic import atomic_write_bytes, check_output_file

from ..report.machine import loads
from .causes import CAUSES
from .results import Profile

FILE = "profile.md"
#: Kinds of operators in a row of the table, and operators of a graph in the report.
_KINDS, _OPERATORS = 3, 5


def profile_table(result: Profile, *, operators: bool = False) -> str:
    """Markdown: requests, causes outside engines, graphs, and with ``operators`` the slowest ones of each graph."""
    lines = [*_machine(result), "", *_requests(result), "", *_causes(result), "", *_graphs(result)]
    if operators:
        lines += ["", *_operators(result)]
    return "\n".join([*lines, *(f"warning: {line}" for line in result["warnings"])])


def check_report(folder: Path) -> None:
    """Refuse a folder for the report before the work.

    Raises:
        RequestError: it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"report {folder} is a file", "Name a folder")
    check_output_file(folder / FILE if folder.is_dir() else folder)


def write_report(result: Profile, folder: Path) -> None:
    """Write ``profile.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = f"# Profile of {result['bundle']}\n\n{profile_table(result, operators=True)}\n"
    atomic_write_bytes(folder / FILE, text.encode("utf-8"))


def _machine(result: Profile) -> list[str]:
    machine = result["machine"]
    peaks = ", ".join(
        f"{precision} {max(of.values()):.0f}" for precision, of in result["peaks"].items() if of
    )  # fmt: skip
    return [
        f"{machine['cpu']}, {machine['cores']} cores, {loads(machine)}",
        f"Peaks: {peaks} GOP/s; memory {result['memory_gb_s']:.1f} GB/s",
    ]


def _requests(result: Profile) -> list[str]:
    stages = list(dict.fromkeys(stage for ask in result["asks"].values() for stage in ask["stages_ms"]))
    lines = [
        f"| ms | p50 | mean | in engines | outside | {' | '.join(stages)} |",
        f"|---|{'---|' * (4 + len(stages))}",
    ]
    for kind, ask in result["asks"].items():
        spent = " | ".join(f"{ask['stages_ms'].get(stage, 0):.2f}" for stage in stages)
        lines.append(
            f"| {kind} | {ask['total']['p50_ms']:.2f} | {ask['mean_ms']:.2f} | {ask['engine_ms']:.2f} | "
            f"{ask['outside_ms']:.2f} ({100 * ask['outside_fraction']:.1f} %) | {spent} |"
        )
    return lines


def _causes(result: Profile) -> list[str]:
    kinds = list(result["asks"])
    lines = [f"| outside engines, ms | {' | '.join(kinds)} |", f"|---|{'---|' * len(kinds)}"]
    for cause in CAUSES:
        spent = " | ".join(f"{result['asks'][kind]['causes_ms'][cause]:.3f}" for kind in kinds)
        lines.append(f"| {cause.replace('_', ' ')} | {spent} |")
    return lines


def _graphs(result: Profile) -> list[str]:
    lines = [
        "| graph | engine, threads | runs | ms a run | MMAC | weights MB | GOP/s | of peak | of bandwidth | slowest |",
        f"|{'---|' * 10}",
    ]
    for name, graph in result["graphs"].items():
        kinds = ", ".join(f"{k['kind']} {100 * k['share']:.0f} %" for k in graph["kinds"][:_KINDS])
        lines.append(
            f"| {name} | {graph['engine']}, {graph['threads']} | {graph['runs']} | {graph['run_ms']:.3f} | "
            f"{sum(graph['macs'].values()) / 1e6:.1f} | {graph['weight_mb']:.2f} | {graph['gops_per_s']:.1f} | "
            f"{100 * (graph['peak_share'] or 0):.0f} % | {100 * graph['bandwidth_share']:.0f} % | {kinds} |"
        )
    return lines


def _operators(result: Profile) -> list[str]:
    lines = ["| graph | operator | kind | ms | shapes or kernel |", "|---|---|---|---|---|"]
    for name, graph in result["graphs"].items():
        for operator in graph["operators"][:_OPERATORS]:
            lines.append(
                f"| {name} | {operator['name']} | {operator['kind']} | {operator['ms']:.3f} | {operator['detail'][:80]} |"
            )
    return lines
