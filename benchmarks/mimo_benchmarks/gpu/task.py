"""The task and the results of one part of the acceptance run: JSON lines between two processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

#: Numbers of a part, by name; called as soon as they are known, so that an early end loses little.
Emit = Callable[[Mapping[str, object]], None]
#: Of a part that ended by itself. "absent": what it measures is not on this machine.
PASSED, FAILED, ABSENT, TIMED_OUT, SKIPPED = "passed", "failed", "absent", "timed out", "skipped"


@dataclass(frozen=True)
class PartTask:
    """One part.

    Args:
        name: a key of ``parts.PARTS``.
        checkpoint: of the model; "" if none was given.
        bundle: for the part's engine; "" builds one from the checkpoint.
        folder: for files of the part, empty.
        device: of PyTorch; tests use "cpu".
        repeats: timed requests per kind.
        frames: of the tracked sequence.
        seed: of the image.
    """

    name: str
    checkpoint: str
    bundle: str
    folder: str
    device: str = "cuda"
    repeats: int = 30
    frames: int = 60
    seed: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(line: str) -> PartTask:
        return PartTask(**json.loads(line))


class PartResult(TypedDict):
    """One part of ``results.json``. ``numbers`` has what was measured before the part ended."""

    status: str
    reason: str
    seconds: float
    numbers: dict[str, object]


class UnavailableError(Exception):
    """What the part measures is not on this machine; the message says what is missing."""


def emit_line(numbers: Mapping[str, object]) -> None:
    """Write numbers as one line of standard output."""
    print(json.dumps(numbers), flush=True)


def read_lines(file: Path) -> dict[str, object]:
    """All numbers of a part's output; lines of libraries that print are passed over."""
    numbers: dict[str, object] = {}
    for line in file.read_text("utf-8", "replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            numbers.update(value)
    return numbers


def last_words(file: Path) -> str:
    """The last line of a part's standard error."""
    lines = [line for line in file.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no message"


def python() -> list[str]:
    """The command of a part's process."""
    return [sys.executable, "-m", "mimo_benchmarks.gpu.work"]
