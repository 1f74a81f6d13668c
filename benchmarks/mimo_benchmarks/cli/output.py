"""Where numbers go: ``--json FILE`` writes a file, ``--json -`` (or ``--json`` at the end) one line on standard output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from mimo_runtime.cli.json_output import STDOUT, json_file, print_json, write_json

if TYPE_CHECKING:
    from ..report.result import BenchmarkResult

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
    for path in paths:
        json_file(path)


def deliver(text: str, result: Mapping[str, object], json_path: str | None) -> None:
    """Show ``text`` to a person and write ``result`` for machines."""
    click.echo(text, err=json_path == STDOUT)
    if json_path == STDOUT:
        print_json(result)
    elif json_path is not None:
        write_json(Path(json_path), result)


def deliver_result(text: str, result: BenchmarkResult, json_path: str | None) -> None:
    """As :func:`deliver`, for a result in the common format."""
    deliver(text, result.to_dict(), json_path)
