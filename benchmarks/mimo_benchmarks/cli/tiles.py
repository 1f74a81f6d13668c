"""The command ``mimo-bench tiles``."""

from __future__ import annotations

from pathlib import Path

import click

from mimo_runtime.cli.app import Command
from mimo_runtime.cli.progress import stage_progress

from .output import check_writable, deliver, json_option


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", "data_", type=click.Path(path_type=Path), required=True, help="Data set whose images are joined.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--limit", default=8, show_default=True, type=click.IntRange(1), help="Images to ask about.")
@click.option("--per-side", default=2, show_default=True, type=click.IntRange(2, 16), help="Images along each side.")
@click.option(
    "--side", "sides", multiple=True, type=click.IntRange(0), help="Of the tiles in pixels. Repeatable. Default: auto."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Which images are joined.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per operator.")
@json_option
def tiles(
    model: Path, data_: Path, split: str, limit: int, per_side: int, sides: tuple[int, ...], seed: int,
    threads: int | None, json_path: str | None,
) -> None:  # fmt: skip
    """Dice and time of MODEL on large images, asked as a whole and in tiles.

    A large image is a mosaic of images of the data set at full size. The name of their class is asked.

    MODEL is a bundle, or a checkpoint folder (needs torch).
    """
    from mimo_runtime.data.dataset import for_model, read_datasets
    from mimo_runtime.errors import RequestError

    from ..models import open_model
    from ..tiling.measure import measure_tiles
    from ..tiling.mosaics import mosaics_of
    from ..tiling.table import tile_table

    check_writable(json_path)
    (data,) = read_datasets([data_])
    with open_model(model, threads) as mimo, stage_progress("tiles") as progress:
        (data,) = for_model([data], mimo)
        mosaics = mosaics_of(data, split, limit, seed, per_side)
        if not mosaics:
            raise RequestError(f"split '{split}' has fewer than {per_side**2} images of a class", "Choose another split")
        result = measure_tiles(mimo, mosaics, sides or (0,), progress=progress)
    deliver(tile_table(result), result, json_path)
