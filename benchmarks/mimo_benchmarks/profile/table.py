"""The result of ``mimo-bench profile`` for a person, in Markdown."""

from __future__ import annotations

from pathlib import Path

from mimo_runtime.errors import RequestError
from mimo_runtime.utils.atomic import atomic_write_bytes, check_output_file

from ..report.machine import loads
from ..report.sections import profile_sections
from .results import Profile

FILE = "profile.md"
#: Operators of a graph in the report.
_OPERATORS = 5


def profile_table(result: Profile, *, operators: bool = False) -> str:
    """Markdown: requests, causes outside engines, graphs, and with ``operators`` the slowest ones of each graph."""
    machine = result["machine"]
    lines = [f"{machine['cpu']}, {machine['cores']} cores, {loads(machine)}"]
    for section in profile_sections(dict(result)):
        lines += ["", f"**{section.title}**", "", *section.markdown()]
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


def _operators(result: Profile) -> list[str]:
    lines = ["| graph | operator | kind | ms | shapes or kernel |", "|---|---|---|---|---|"]
    for name, graph in result["graphs"].items():
        for operator in graph["operators"][:_OPERATORS]:
            lines.append(
                f"| {name} | {operator['name']} | {operator['kind']} | {operator['ms']:.3f} | {operator['detail'][:80]} |"
            )
    return lines
