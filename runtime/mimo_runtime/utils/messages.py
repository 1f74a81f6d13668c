"""Values, names and paths of any length in messages of one short line."""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable

#: Most characters of a value of a file in a message.
VALUE_LIMIT = 60
#: Most characters of a path in a message.
PATH_LIMIT = 120


def few(names: Iterable[object], most: int = 3) -> str:
    """``a, b, c and 4 more``."""
    listed = [str(name) for name in names]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def short(value: object) -> str:
    """A value of a file as Python writes it, in ASCII (a lone surrogate cannot be printed), cut off where it is long."""
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**20 else "a huge number"
    return text if len(text) <= VALUE_LIMIT else text[: VALUE_LIMIT - 3] + "..."


def shown(value: object) -> str:
    """A value in one short line. Numbers are shown without their type."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    text = str(value) if isinstance(value, numbers.Number) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def shown_path(path: str | bytes | os.PathLike[str]) -> str:
    """A path in at most :data:`PATH_LIMIT` printable characters; the middle of a longer one is left out."""
    text = "".join(c if c.isprintable() else "?" for c in os.fsdecode(path))
    half = (PATH_LIMIT - 3) // 2
    return text if len(text) <= PATH_LIMIT else f"{text[:half]}...{text[-half:]}"
