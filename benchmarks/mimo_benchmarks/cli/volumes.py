"""The command ``mimo-bench volumes``."""

from __future__ import annotations

from pathlib import Path

import click

from mimo_runtime.cli.app import Command
from mimo_runtime.cli.progress import stage_progress

from .output import check_writable, deliver, json_option


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data", "data_", multiple=True, required=True, type=click.Path(path_type=Path),
    help="Data set, or folder of data sets: files of one case that end in a number are slices. Repeatable.",
)  # fmt: skip
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1), help="Cases per set.")
@click.option("--reach", default=5, show_default=True, type=click.IntRange(1), help="Slices on each side of the middle one.")
@click.option("--stride", "strides", multiple=True, metavar="SET=N", help="Use every N-th slice of SET. Repeatable.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per operator.")
@json_option
def volumes(
    model: Path, data_: tuple[Path, ...], split: str, limit: int, reach: int, strides: tuple[str, ...], threads: int | None,
    json_path: str | None,
) -> None:  # fmt: skip
    """Dice of MODEL in the slices of volumes, from one box on the middle slice and by name.

    Beside segment_volume, every slice is asked with the box of the mask before, that of the middle slice, the true box, a name.

    MODEL is a bundle, or a checkpoint folder (needs torch).
    """
    from mimo_runtime.data.dataset import for_model, read_datasets
    from mimo_runtime.errors import RequestError

    from ..models import open_model
    from ..tracking.slices import stacks_of
    from ..tracking.table import volume_table
    from ..tracking.volumes import measure_volumes

    check_writable(json_path)
    steps = dict(_stride(text) for text in strides)
    datasets = read_datasets(data_)
    unknown = sorted(set(steps) - {data.name for data in datasets})
    if unknown:
        raise RequestError(f"--stride names {unknown[0]}, which is no set of --data", "Name one of the sets")
    with open_model(model, threads) as mimo, stage_progress("volumes") as progress:
        stacks = stacks_of(for_model(datasets, mimo), split, limit, reach, steps, mimo.config.entities)
        if not stacks:
            raise RequestError(f"split '{split}' has no case with three slices of a known structure", "Choose another split")
        result = measure_volumes(mimo, stacks, progress=progress)
    deliver(volume_table(result), result, json_path)


def _stride(text: str) -> tuple[str, int]:
    from mimo_runtime.errors import RequestError

    name, _, number = text.rpartition("=")
    if not name or not number.isdecimal() or not 1 <= int(number) <= 1000:
        raise RequestError(f"--stride {text!r} is not SET=N", "Write it like sunnybrook_mr=2")
    return name, int(number)
