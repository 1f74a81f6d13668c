"""How library code reports the progress of long work; :mod:`mimo_runtime.cli.progress` shows it."""

from __future__ import annotations

from collections.abc import Callable

#: Called as ``progress(stage, done, total)``.
Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody shows."""
