"""Where numbers go: ``--json FILE`` writes a file, ``--json -`` (or ``--json`` at the end) one line on standard output."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import click

from mimo_runtime.errors import RequestError
from mimo_runtime.utils.atomic import atomic_write_bytes

STDOUT = "-"

Function = TypeVar("Function", bound=Callable[..., object])


def json_option(command: Function) -> Function:
    """The option ``--json``."""
    text = "File for the numbers. - prints them as one line, and everything else on standard error."
    return click.option("--json", "json_path", is_flag=False, flag_value=STDOUT, metavar="OUT.json", help=text)(command)


def check_writable(*paths: str | Path | None) -> None:
    """Refuse output files before the work rather than after it.

    Raises:
        RequestError: the folder does not exist or is not writable, or the file is a folder.
    """
    for path in (Path(p) for p in paths if p is not None and str(p) != STDOUT):
        folder = path.absolute().parent
        if not folder.is_dir():
            what = f"output {path} cannot be written: folder {folder.name} does not exist"
            raise RequestError(what, "Create the folder first")
        if path.is_dir() or not os.access(folder, os.W_OK):
            raise RequestError(f"output {path} cannot be written", "Choose another folder")


def deliver(text: str, result: Mapping[str, object], json_path: str | None) -> None:
    """Show ``text`` to a person and write ``result`` for machines."""
    click.echo(text, err=json_path == STDOUT)
    if json_path == STDOUT:
        click.echo(json.dumps(result, ensure_ascii=False, allow_nan=False))
    elif json_path is not None:
        data = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        atomic_write_bytes(json_path, data.encode("utf-8"))
