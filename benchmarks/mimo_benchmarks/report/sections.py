"""Tables of results beside their figures: where the time of a profile goes, and the contenders of a latency measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from ..request import KINDS
from .result import BenchmarkResult

#: Kinds of operators of a graph that are named.
_KINDS = 3
_Table = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class Section:
    """A table with a title; every row is as long as ``head``."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> list[str]:
        """Its lines, without the title."""
        return markdown_table(self.head, self.rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |".replace("\n", " ") for row in rows)
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines]


def sections(result: BenchmarkResult) -> list[Section]:
    """The tables of a result; none for most commands."""
    make = _SECTIONS.get(result.command)
    return [] if make is None else [section for section in make(result.details) if section.rows]


def profile_sections(details: Mapping[str, object]) -> list[Section]:
    """Stages, causes outside engines, graphs against the limits of the machine, and their slowest kinds of operators."""
    asks, graphs = cast(_Table, details["asks"]), cast(_Table, details["graphs"])
    return [_stages(asks), _causes(asks), _graphs(graphs), _limits(details), _slowest(graphs)]


def _stages(asks: _Table) -> Section:
    stages = list(dict.fromkeys(stage for ask in asks.values() for stage in _numbers(ask, "stages_ms")))
    rows = []
    for kind, ask in asks.items():
        ms = cast("Mapping[str, float]", ask)
        outside = f"{ms['outside_ms']:.2f} ({100 * ms['outside_fraction']:.1f} %)"
        whole = (f"{_numbers(ask, 'total')['p50_ms']:.2f}", f"{ms['mean_ms']:.2f}", f"{ms['engine_ms']:.2f}", outside)
        spent = (f"{_numbers(ask, 'stages_ms').get(stage, 0):.2f}" for stage in stages)
        rows.append((kind.replace("_", " "), *whole, *spent))
    return Section("Time by stage, ms", ("request", "p50", "mean", "in engines", "outside", *stages), rows)


def _causes(asks: _Table) -> Section:
    causes = list(dict.fromkeys(cause for ask in asks.values() for cause in _numbers(ask, "causes_ms")))
    rows = [
        (cause.replace("_", " "), *(f"{_numbers(ask, 'causes_ms').get(cause, 0):.3f}" for ask in asks.values()))
        for cause in causes
    ]
    return Section("Time outside engines by cause, ms", ("cause", *(kind.replace("_", " ") for kind in asks)), rows)


def _graphs(graphs: _Table) -> Section:
    head = (
        "graph", "engine, threads", "runs", "ms a run", "least ms", "limit", "MMAC", "weights MB", "GOP/s", "of peak",
        "of bandwidth",
    )  # fmt: skip
    rows = []
    for name, graph in graphs.items():
        of = cast("Mapping[str, float]", graph)
        rows.append((
            name, f"{graph['engine']}, {graph['threads']}", str(graph["runs"]), f"{of['run_ms']:.3f}", f"{of['ideal_ms']:.3f}",
            str(graph["limit"]), f"{sum(_numbers(graph, 'macs').values()) / 1e6:.1f}", f"{of['weight_mb']:.2f}",
            f"{of['gops_per_s']:.1f}", f"{100 * (of['peak_share'] or 0):.0f} %", f"{100 * of['bandwidth_share']:.0f} %",
        ))  # fmt: skip
    return Section("Graphs against the limits of the machine", head, rows)


def _slowest(graphs: _Table) -> Section:
    rows = []
    for name, graph in graphs.items():
        kinds = cast("Sequence[Mapping[str, float]]", graph["kinds"])[:_KINDS]
        rows.append((name, ", ".join(f"{kind['kind']} {100 * kind['share']:.0f} %" for kind in kinds)))
    return Section("Slowest kinds of operators", ("graph", "kinds and their share of the time"), rows)


def _limits(details: Mapping[str, object]) -> Section:
    peaks = cast("Mapping[str, Mapping[str, float]]", details["peaks"])
    rows = [(f"products in {name.upper()}, GOP/s", f"{max(of.values()):.0f}") for name, of in peaks.items() if of]
    memory = ("memory, GB/s", f"{cast(float, details['memory_gb_s']):.1f}")
    return Section("Limits of the machine", ("what", "measured"), [*rows, memory])


def latency_sections(details: Mapping[str, object]) -> list[Section]:
    """Medians of every contender, and why others did not take part."""
    contenders = cast(_Table, details["contenders"])
    kinds = [kind for kind in KINDS if any(kind in of for of in contenders.values())]
    rows = []
    for name, of in contenders.items():
        speed, memory = _number(of.get("tokens_per_s"), ".0f"), _number(of.get("peak_mb"), ".0f")
        rows.append((name, *(_median(of, kind) for kind in kinds), speed, memory))
    head = ("contender", *(kind.replace("_", " ") for kind in kinds), "tokens/s", "peak MB")
    skipped = list(cast("Mapping[str, str]", details.get("skipped", {})).items())
    return [Section("Median ms (p90) of each contender", head, rows), Section("Skipped", ("contender", "reason"), skipped)]


def _median(contender: Mapping[str, object], kind: str) -> str:
    times = _numbers(contender, kind)
    return f"{times['p50_ms']:.1f} ({times['p90_ms']:.1f})" if times else "–"


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, (int, float)) else "–"


def _numbers(of: Mapping[str, object], key: str) -> Mapping[str, float]:
    return cast("Mapping[str, float]", of.get(key, {}))


_SECTIONS: dict[str, Callable[[Mapping[str, object]], list[Section]]] = {
    "profile": profile_sections, "latency": latency_sections,
}  # fmt: skip
