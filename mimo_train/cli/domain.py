"""``mimo-train fit-domain``."""

from __future__ import annotations

from pathlib import Path

import click

from mimo_runtime.cli.json_output import print_json
from mimo_runtime.cli.progress import stage_progress


@click.command("fit-domain")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--data", "data_", multiple=True, required=True, type=click.Path(path_type=Path),
    help="All data that the model was trained on: data set, or folder of data sets; repeatable.",
)  # fmt: skip
@click.option("--limit", default=200, show_default=True, type=click.IntRange(1, 10_000), help="Most images per set and split.")
@click.option(
    "--turned-copies/--no-turned-copies", default=True, show_default=True,
    help="Store a turned or mirrored copy of every training image, too: turned images stay in the domain.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of sentences.")
def fit_domain_command(
    checkpoint: Path, data_: tuple[Path, ...], limit: int, turned_copies: bool, seed: int, threads: int | None, as_json: bool
) -> None:
    """Store what the training images look like in the checkpoint, so that a device can refuse other kinds of images.

    Fitted on the split train, limits chosen on val. Also stores the modalities in which the data marks each entity.
    """
    from mimo_runtime.data.dataset import read_datasets

    from ..torch_engine import load_mimo
    from ..tuning.domain import store_domain

    if threads:
        import torch

        torch.set_num_threads(threads)
    datasets = read_datasets(data_)
    mimo = load_mimo(checkpoint)
    with stage_progress("domain", quiet=as_json) as advance:
        report = store_domain(checkpoint, mimo, datasets, limit, seed, advance, turned_copies)
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(f"{report.sentences()}\nStored in {checkpoint}.")
