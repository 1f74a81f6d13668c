"""The command ``mimo-bench competence``."""

from __future__ import annotations

from pathlib import Path

import click

from mimo_runtime.cli.app import Command
from mimo_runtime.cli.progress import stage_progress

from .options import data_options
from .output import check_writable, deliver, json_option


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@data_options
@click.option(
    "--unseen",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Data set, or folder of data sets, unlike those of the training. Repeatable.",
)
@click.option("--limit", type=click.IntRange(1), help="Most images per set, drawn with the seed.")
@click.option(
    "--per-kind",
    default=2,
    show_default=True,
    type=click.IntRange(1),
    help="Questions outside the competence per image and kind. All questions take turns over the images.",
)
@click.option(
    "--domain-only", is_flag=True, help="Ask no questions: only flags, contradicted modalities and the time of the check."
)
@json_option
def competence(
    model: Path, data_: tuple[Path, ...], split: str, unseen: tuple[Path, ...], limit: int | None, per_kind: int,
    domain_only: bool, seed: int, threads: int | None, json_path: str | None,
) -> None:  # fmt: skip
    """What MODEL refuses: questions that it cannot answer, and images unlike those of its training.

    Asks about unknown findings and structures, diagnoses, patients and measurements. Other questions are in other languages,
    have negations, several parts or instructions, or no meaning. Answerable questions are asked as well and must not be
    refused.

    MODEL is a bundle, or a checkpoint folder (needs torch).
    """
    from mimo_runtime.data.dataset import read_datasets

    from ..competence.measure import measure_competence
    from ..competence.table import competence_table
    from ..models import open_model

    check_writable(json_path)
    sets = read_datasets((*data_, *unseen))
    trained = read_datasets(data_)
    others = [data for data in sets if data.name not in {known.name for known in trained}]
    with open_model(model, threads) as mimo, stage_progress("competence") as progress:
        result = measure_competence(
            mimo, trained, others, split, limit=limit, per_kind=0 if domain_only else per_kind, seed=seed, progress=progress
        )  # fmt: skip
    deliver(competence_table(result), result, json_path)
