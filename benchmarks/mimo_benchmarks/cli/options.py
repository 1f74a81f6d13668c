"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from mimo_runtime.cli.commands import Coordinates

Function = TypeVar("Function", bound=Callable[..., object])
#: Of ``--quiet-within``.
QUIET_WITHIN = "Wait up to so many seconds for a load of at most 1.5, then measure anyway."


def request_options(command: Function) -> Function:
    """The options of one request, the arguments of ``request.make_request``."""
    options = (
        click.option("--image", type=click.Path(path_type=Path), help="Image of the request. Default: a CT phantom."),
        click.option("--text", help="Text of the request. Default: where the phantom's first organ is."),
        click.option("--box", "boxes", type=Coordinates("X0,Y0,X1,Y1", 4), multiple=True, help="In pixels. Repeatable."),
        click.option("--point", "points", type=Coordinates("X,Y or X,Y,LABEL", 2, 3), multiple=True, help="Repeatable."),
        click.option("--max-tokens", type=click.IntRange(1), help="Longest text. Default: the model's limit."),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the phantom."),
        click.option("--threads", type=click.IntRange(1, 1024), help="Threads per operator, for all contenders."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def data_options(command: Function) -> Function:
    """The options that choose images and seed, without the limit."""
    options = (
        click.option(
            "--data", "data_", multiple=True, required=True, type=click.Path(path_type=Path),
            help="Data set, or folder of data sets. Repeatable.",
        ),
        click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"])),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the prompts."),
        click.option("--threads", type=click.IntRange(1, 1024), help="Threads per operator."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command
