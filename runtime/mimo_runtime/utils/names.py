"""Lists of names in messages."""

from __future__ import annotations

from collections.abc import Iterable


def few(names: Iterable[object], most: int = 3) -> str:
    """``a, b, c and 4 more``."""
    listed = [str(name) for name in names]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")
