"""Names and values of any length in messages of one short line."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 60


def few(names: Iterable[object], most: int = 3) -> str:
    """``a, b, c and 4 more``."""
    listed = [str(name) for name in names]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def short(value: object) -> str:
    """A value of a file as Python writes it, in ASCII (a lone surrogate cannot be printed), cut off where it is long."""
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**20 else "a huge number"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
