"""The report over all results: Markdown and one HTML file that needs no other."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from mimo_runtime.errors import RequestError
from mimo_runtime.utils.atomic import atomic_write_bytes

from .charts import chart
from .collect import Collected
from .machine import Machine
from .result import NOT_QUOTABLE, Figure
from .sections import markdown_table, sections

MARKDOWN, HTML = "report.md", "report.html"
_HEAD = ("figure", "value", "goal", "reached")
#: Cells that are marked, by their text and the title of their column.
_MARKED = {("no", "reached"), ("no", "to be quoted")}
_OVERVIEW = ("file", "command", "model", "to be quoted", "goals reached")
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1.5rem;color:#222}"
    "h2{margin:3rem 0 .3rem;padding-top:.8rem;border-top:2px solid #ddd}h3{margin:1.5rem 0 .3rem;font-size:1rem}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;margin:.5rem 0;font-variant-numeric:tabular-nums}"
    "td,th{border-bottom:1px solid #ddd;padding:.25rem .7rem;text-align:left}td{white-space:nowrap}th{vertical-align:bottom}"
    "figure{margin:1rem 0}svg{max-width:100%;height:auto}.not{background:#fff3cd;padding:.3rem .6rem}"
    ".no{color:#b00020;font-weight:600}.source{color:#666;margin:0 0 .5rem}"
)


class ReportSummary(TypedDict):
    """The last line of ``mimo-bench report``."""

    markdown: str
    html: str
    results: int
    not_quotable: list[str]
    goals_reached: int
    goals_missed: list[str]
    unreadable: dict[str, str]


def write_report(collected: Collected, folder: Path) -> ReportSummary:
    """Write ``report.md`` and ``report.html`` into ``folder``.

    Raises:
        RequestError: a file cannot be written, or matplotlib is missing.
    """
    try:
        charts = {name: chart(result) for name, result in collected.results.items()}
    except ModuleNotFoundError as error:
        raise RequestError(f"the charts need {error.name}", "pip install 'mimo-edge[bench]'") from None
    atomic_write_bytes(folder / MARKDOWN, markdown(collected).encode("utf-8"))
    atomic_write_bytes(folder / HTML, page(collected, charts).encode("utf-8"))
    results = collected.results
    goals = [(name, figure) for name, result in results.items() for figure in result.figures if figure.reached is not None]
    return {
        "markdown": str(folder / MARKDOWN),
        "html": str(folder / HTML),
        "results": len(results),
        "not_quotable": [name for name, result in results.items() if not result.quotable],
        "goals_reached": sum(figure.reached is True for _, figure in goals),
        "goals_missed": [f"{name}: {figure.name}" for name, figure in goals if figure.reached is False],
        "unreadable": collected.unreadable,
    }


def markdown(collected: Collected) -> str:
    """All results, without charts."""
    lines = ["# Benchmarks", "", *markdown_table(_OVERVIEW, _overview(collected)), ""]
    for name, result in collected.results.items():
        lines += [f"## {result.command}: {result.subject}", "", f"`{name}`, {result.created}", ""]
        lines += [] if result.quotable else [f"**{NOT_QUOTABLE}**", ""]
        lines += markdown_table(_HEAD, _rows(result.figures))
        for section in sections(result):
            lines += ["", f"**{section.title}**", "", *section.markdown()]
        lines += ["", *(f"- {warning}" for warning in result.warnings), *([""] if result.warnings else [])]
        lines += [*markdown_table(("machine", ""), machine_rows(result.machine)), ""]
    lines += [f"`{name}` is no result: {reason}" for name, reason in collected.unreadable.items()]
    return "\n".join(lines).rstrip() + "\n"


def page(collected: Collected, charts: dict[str, str | None]) -> str:
    """HTML with the charts in it."""
    text = html.escape
    parts = ["<!doctype html><html lang='en'><meta charset='utf-8'><title>Benchmarks</title>", f"<style>{_STYLE}</style>"]
    parts.append("<h1>Benchmarks</h1>")
    parts.append(_html_table(_OVERVIEW, _overview(collected)))
    for name, result in collected.results.items():
        parts.append(f"<h2>{text(result.command)}: {text(result.subject)}</h2>")
        parts.append(f"<p class='source'><code>{text(name)}</code>, {text(result.created)}</p>")
        remarks = [*([] if result.quotable else [NOT_QUOTABLE]), *result.warnings]
        parts.append(f"<p class='not'>{'<br>'.join(map(text, remarks))}</p>" if remarks else "")
        parts.append(_html_table(_HEAD, _rows(result.figures)))
        parts.append(f"<figure>{charts[name]}</figure>" if charts[name] else "")
        for section in sections(result):
            parts += [f"<h3>{text(section.title)}</h3>", _html_table(section.head, section.rows)]
        parts.append(f"<details><summary>machine</summary>{_html_table(('', ''), machine_rows(result.machine))}</details>")
    parts += [f"<p><code>{text(n)}</code> is no result: {text(reason)}</p>" for n, reason in collected.unreadable.items()]
    return "\n".join(parts) + "\n</html>\n"


def _overview(collected: Collected) -> list[tuple[str, ...]]:
    """One row per result."""
    rows = []
    for name, result in collected.results.items():
        goals = [figure.reached for figure in result.figures if figure.reached is not None]
        reached = f"{sum(goals)} of {len(goals)}" if goals else "none set"
        rows.append((name, result.command, result.subject, "yes" if result.quotable else "no", reached))
    return rows


def machine_rows(machine: Machine) -> list[tuple[str, ...]]:
    """What a reader needs to judge a time."""
    before, after = machine.get("conditions"), machine.get("conditions_after")
    rows: list[tuple[str, object]] = [
        ("processor", machine.get("cpu")),
        ("cores, threads per operator", f"{machine.get('cores')}, {machine.get('threads')}"),
        ("memory, MB", machine.get("memory_mb")),
        ("system, Python", f"{machine.get('os')}, {machine.get('python')}"),
        ("engines", ", ".join(f"{name} {version}" for name, version in (machine.get("engines") or {}).items())),
        ("load before and after", f"{machine.get('load_before')}, {machine.get('load_after')}"),
        ("cores used by the measurement, by others", f"{machine.get('own_load')}, {machine.get('other_load')}"),
    ]
    names = {"governor": "governor", "clock_mhz": "clock, MHz", "temperature_c": "temperature, °C", "power_mode": "power mode"}
    for key, title in names.items():
        values = [conditions.get(key) if conditions else None for conditions in (before, after)]
        rows.append((title, _pair(values)))
    rows.append(("throttled", {True: "yes", False: "no"}.get(machine.get("throttled"), "unknown")))  # type: ignore[arg-type]
    return [(title, str(value)) for title, value in rows if value not in (None, "", "None, None")]


def _pair(values: Sequence[object]) -> str:
    if values[0] is None:
        return "unknown"
    return str(values[0]) if values[1] in (None, values[0]) else f"{values[0]} before, {values[1]} after"


def _rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    sign = {"lower": "at most ", "higher": "at least "}
    return [
        (
            figure.name,
            "not measured" if figure.value is None else f"{figure.value:g} {figure.unit}".strip(),
            "" if figure.goal is None else f"{sign.get(figure.better, '')}{figure.goal:g} {figure.unit}".strip(),
            {True: "yes", False: "no"}.get(figure.reached, ""),  # type: ignore[arg-type]
        )
        for figure in figures
    ]


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=no' if (cell, title) in _MARKED else ''}>{html.escape(cell)}</td>" for cell, title in zip(row, head)
        )
        + "</tr>"
        for row in rows
    )
    titled = f"<tr>{titles}</tr>" if any(head) else ""
    return f"<div class='wide'><table>{titled}{lines}</table></div>"
