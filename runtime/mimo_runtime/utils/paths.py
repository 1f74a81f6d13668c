"""How a path is shown in a message."""

from __future__ import annotations

import os

#: Most characters of a path in a message.
PATH_LIMIT = 120


def shown_path(path: str | bytes | os.PathLike[str]) -> str:
    """A path in at most :data:`PATH_LIMIT` printable characters; the middle of a longer one is left out."""
    text = "".join(c if c.isprintable() else "?" for c in os.fsdecode(path))
    half = (PATH_LIMIT - 3) // 2
    return text if len(text) <= PATH_LIMIT else f"{text[:half]}...{text[-half:]}"
