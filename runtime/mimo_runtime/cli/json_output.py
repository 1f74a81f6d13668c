"""Where JSON goes: standard output, in ASCII where the stream cannot take more, or a file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..utils.atomic import atomic_write_bytes, check_output_file
from .streams import can_encode

#: As the value of ``--json``: standard output.
STDOUT = "-"


def print_json(data: object, indent: int | None = None) -> None:
    """Print a value as JSON. NaN and infinity, which JSON does not have, are a ValueError."""
    text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)
    click.echo(text if can_encode(text) else json.dumps(data, indent=indent, allow_nan=False))


def json_file(path: str | Path | None) -> Path | None:
    """The file of ``--json``; None without one, and for standard output.

    Raises:
        RequestError: it cannot be written.
    """
    return None if path is None or str(path) == STDOUT else check_output_file(path)


def write_json(path: Path, data: object) -> None:
    """Write a value as a JSON file in UTF-8.

    Raises:
        RequestError: as ``atomic_file``.
    """
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError:  # half a character, e.g. of a file name that is not UTF-8
        content = json.dumps(data, indent=1, allow_nan=False).encode("ascii")
    atomic_write_bytes(path, content + b"\n")
