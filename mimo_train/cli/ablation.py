"""``mimo-train ablate``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mimo_runtime.cli.app import Command, Option
from mimo_runtime.cli.json_output import json_file, write_json
from mimo_runtime.cli.progress import progress_bar

#: More steps than any run takes; a larger number is a slip of the keyboard.
MAX_STEPS = 1_000_000_000


@click.command("ablate", cls=Command)
@click.option("--data", "data_", multiple=True, required=True, type=click.Path(path_type=Path), help="Data set; repeatable.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for checkpoints and table.")
@click.option("--preset", default="tiny", show_default=True)
@click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help="Change the preset for all variants.")
@click.option("--variant", "variants", multiple=True, help="Only this variant; repeatable. All if left out.")
@click.option("--steps", type=click.IntRange(1, MAX_STEPS), required=True, help="Budget of every variant.")
@click.option("--batch", default=8, show_default=True)
@click.option("--prompts", default=4, show_default=True)
@click.option("--sizes", default="", help="As in `mimo-train fit`.")
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option("--warmup-steps", default=50, show_default=True)
@click.option("--ema", default=0.99, show_default=True)
@click.option("--precision", default="no", show_default=True, type=click.Choice(["no", "bf16", "fp16"]))
@click.option(
    "--partial-load",
    cls=Option,
    earlier=("--warm-start",),
    type=click.Path(path_type=Path),
    help="Checkpoint whose encoders all variants start with.",
)
@click.option("--split", default="val", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--limit", type=click.IntRange(1), help="Most images per set to measure on.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="File for the table.")
def ablate_command(
    data_: tuple[Path, ...],
    output: Path,
    variants: tuple[str, ...],
    partial_load: Path | None,
    split: str,
    limit: int | None,
    threads: int | None,
    json_path: Path | None,
    **options: object,
) -> None:
    """Train variants of the model at one budget, each with one mechanism off, and compare their accuracy.

    The same command resumes a killed run and skips finished variants.
    """
    import torch

    from ..ablation import ablate, markdown
    from ..training.config import TrainConfig

    file = json_file(json_path)
    if threads:
        torch.set_num_threads(threads)
    quiet = not sys.stderr.isatty()
    with progress_bar(quiet) as show:
        table = ablate(
            TrainConfig(data=tuple(map(str, data_)), **options),  # type: ignore[arg-type]
            output,
            variants=variants,
            partial_load=partial_load,
            split=split,
            limit=limit,
            report=click.echo,
            progress=None if quiet else show,
        )
    if file:
        write_json(file, table)
    click.echo(markdown(table))
