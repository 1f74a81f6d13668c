"""The one format of all results: what was measured on which machine, the figures that are compared, and the details.

::

    {"result": {"version": 1, "command": "throughput", "subject": "mimo-tiny (cpu)", "created": "2026-11-30T12:00:00Z",
                "quotable": true, "figures": [{"name": …, "value": …, "unit": …, "better": "higher", "goal": …}, …]},
     "machine": {…}, …, "warnings": […]}

The keys beside ``result``, ``machine`` and ``warnings`` are the details of the command (docs/reference/json.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import TypedDict, cast

from .machine import Machine, warnings

VERSION = 1
#: What a result says when its figures must not be quoted.
NOT_QUOTABLE = "not to be quoted: the machine was busy"


@dataclass(frozen=True)
class Figure:
    """One number of a result.

    Args:
        value: None where it could not be measured.
        better: "lower" or "higher"; "" where neither is.
        goal: the limit that ``value`` is compared with; None without one.
    """

    name: str
    value: float | None
    unit: str = ""
    better: str = ""
    goal: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without goal or value."""
        if self.goal is None or self.value is None:
            return None
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal


class _Header(TypedDict):
    version: int
    command: str
    subject: str
    created: str
    quotable: bool
    figures: list[dict[str, object]]


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class BenchmarkResult:
    """One result of ``mimo-bench``.

    Args:
        command: of ``mimo-bench``.
        subject: the model, and what it was built for.
        machine: of the measurement, finished (``machine.finish``).
        figures: what a report compares.
        details: what the command measured; keys differ from those of the header.
        notes: warnings besides those about the machine.
        created: UTC.
    """

    command: str
    subject: str
    machine: Machine
    figures: Sequence[Figure]
    details: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()
    created: str = field(default_factory=_now)

    @property
    def quotable(self) -> bool:
        """Whether the machine was quiet."""
        return not self.machine.get("busy", False)

    @property
    def warnings(self) -> list[str]:
        return list(dict.fromkeys([*warnings(self.machine), *self.notes]))

    def to_dict(self) -> dict[str, object]:
        """JSON."""
        header: _Header = {
            "version": VERSION,
            "command": self.command,
            "subject": self.subject,
            "created": self.created,
            "quotable": self.quotable,
            "figures": [asdict(figure) for figure in self.figures],
        }
        return {"result": header, "machine": self.machine, **self.details, "warnings": self.warnings}

    @staticmethod
    def from_dict(data: Mapping[str, object]) -> BenchmarkResult:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: it is no such result, or one of another version.
        """
        try:
            header = cast(_Header, data["result"])
            if header["version"] != VERSION:
                raise ValueError(f"version {header['version']}, this program reads {VERSION}")
            figures = [Figure(**cast("dict[str, str]", figure)) for figure in header["figures"]]  # type: ignore[arg-type]
            details = {key: value for key, value in data.items() if key not in ("result", "machine", "warnings")}
            return BenchmarkResult(
                header["command"], header["subject"], cast(Machine, data["machine"]), figures, details,
                cast("list[str]", data.get("warnings", [])), header["created"],
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ValueError(f"no result of mimo-bench ({error})") from None


def closing_lines(result: BenchmarkResult) -> list[str]:
    """The last lines of a table: goals that are missed, warnings, and whether the figures may be quoted."""
    missed = [figure for figure in result.figures if figure.reached is False]
    return [
        *(f"  goal missed: {f.name} is {f.value:g} {f.unit}, goal {f.goal:g}" for f in missed),
        *(f"  warning: {line}" for line in result.warnings),
        *([] if result.quotable else [f"  {NOT_QUOTABLE}"]),
    ]
