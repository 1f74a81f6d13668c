"""Tables of names and of sentences, one entry a line."""

from __future__ import annotations

from importlib import resources


def read_lines(name: str) -> list[str]:
    """The lines of a table without comments and empty ones."""
    lines = resources.files(__name__).joinpath(name).read_text("utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]
