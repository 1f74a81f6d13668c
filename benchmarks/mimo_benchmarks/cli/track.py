"""The command ``mimo-bench track``."""

from __future__ import annotations

from pathlib import Path

import click

from mimo_runtime.cli.app import Command
from mimo_runtime.cli.progress import stage_progress

from .output import check_writable, deliver_result, json_option


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    "data_",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Data set, or folder of data sets, whose images are moved. Repeatable. Default: phantoms (needs mimo_train).",
)
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--limit", default=2, show_default=True, type=click.IntRange(1), help="Images per set or modality.")
@click.option("--frames", default=40, show_default=True, type=click.IntRange(2, 1000), help="Frames per sequence.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of images and motion.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per operator.")
@json_option
def track(
    model: Path, data_: tuple[Path, ...], split: str, limit: int, frames: int, seed: int, threads: int | None,
    json_path: str | None,
) -> None:  # fmt: skip
    """Dice and speed of MODEL on video: images that move, deform, or whose target leaves and comes back.

    Beside tracking from the first frame: the name or the true box asked about every frame, and the box of the previous mask.

    MODEL is a bundle, or a checkpoint folder (needs torch).
    """
    from mimo_runtime.data.dataset import for_model, read_datasets
    from mimo_runtime.errors import RequestError

    from ..models import open_model
    from ..report.figures import track_result
    from ..tracking.measure import measure_tracking
    from ..tracking.stills import phantom_stills, stills_of
    from ..tracking.table import track_table

    check_writable(json_path)
    datasets = read_datasets(data_) if data_ else []
    with open_model(model, threads) as mimo, stage_progress("tracking") as progress:
        entities = mimo.config.entities
        if datasets:
            stills = stills_of(for_model(datasets, mimo), split, limit, seed, entities)
        else:
            stills = phantom_stills(limit, seed, entities)
        if not stills:
            raise RequestError(
                f"no image in split '{split}' has a target of a fitting size", "Choose another split or data set"
            )
        result = measure_tracking(mimo, stills, frames=frames, seed=seed, progress=progress)
        subject = mimo.info["id"]
    deliver_result(track_table(result), track_result(result, subject), json_path)
