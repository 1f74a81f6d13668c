"""The commands ``mimo-bench referring``, ``relations``, ``precision`` and ``robustness``; ``main.py`` attaches them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from mimo_runtime.cli.app import Command, Option
from mimo_runtime.cli.progress import progress_bar, stage_progress
from mimo_runtime.errors import RequestError

from .options import data_options
from .output import check_writable, deliver, json_option


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@data_options
@click.option("--limit", type=click.IntRange(1), help="Most images with several instances per set, drawn with the seed.")
@click.option(
    "--no-refine",
    cls=Option,
    earlier=("--no-closer",),
    is_flag=True,
    help="Skip the crop pass and the disambiguation of points.",
)
@json_option
def referring(
    model: Path, data_: tuple[Path, ...], split: str, limit: int | None, seed: int, threads: int | None, no_refine: bool,
    json_path: str | None,
) -> None:  # fmt: skip
    """How often a box or a point segments exactly the instance it is on, where an image has several of one class.

    Each instance is asked for without a text, and with the name of the class.

    MODEL is a bundle, or a checkpoint folder (needs torch).
    """
    from mimo_runtime.data.dataset import read_datasets
    from mimo_runtime.evaluation.referring import measure_referring

    from ..models import open_model
    from ..suites.tables import referring_table

    check_writable(json_path)
    datasets = read_datasets(data_)
    with open_model(model, threads) as loaded, stage_progress("referring") as progress:
        mimo = loaded.with_config(replace(loaded.config, crop_scale=0.0)) if no_refine else loaded
        result = measure_referring(mimo, datasets, split, limit=limit, seed=seed, progress=progress)
    deliver(referring_table(result), result, json_path)


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@data_options
@click.option("--limit", type=click.IntRange(1), help="Most images per set, drawn with the seed.")
@json_option
def relations(
    model: Path, data_: tuple[Path, ...], split: str, limit: int | None, seed: int, threads: int | None, json_path: str | None
) -> None:
    """Accuracy of answers about several structures: which are there, how many, and how one lies relative to another.

    MODEL is a bundle, or a checkpoint folder (needs torch).
    """
    from mimo_runtime.data.dataset import read_datasets

    from ..models import open_model
    from ..suites.relations import measure_relations
    from ..suites.tables import relations_table

    check_writable(json_path)
    datasets = read_datasets(data_)
    with open_model(model, threads) as mimo, stage_progress("relations") as progress:
        result = measure_relations(mimo, datasets, split, limit=limit, seed=seed, progress=progress)
    deliver(relations_table(result), result, json_path)


@click.command(cls=Command)
@click.argument("full", type=click.Path(path_type=Path))
@click.argument("reduced", type=click.Path(path_type=Path))
@data_options
@click.option("--limit", type=click.IntRange(1), help="Most images per set, drawn with the seed.")
@json_option
def precision(
    full: Path, reduced: Path, data_: tuple[Path, ...], split: str, limit: int | None, seed: int, threads: int | None,
    json_path: str | None,
) -> None:  # fmt: skip
    """Accuracy loss and speed of the bundle REDUCED against FULL, a bundle of the same weights in single precision.

    A split that holds an image of REDUCED's calibration is refused.
    """
    from mimo_runtime.bundle.archive import Bundle
    from mimo_runtime.data.dataset import read_datasets

    from ..precision import calibrated_on, compare_precision, precision_table

    check_writable(json_path)
    datasets = read_datasets(data_)
    bundles = Bundle.open(full), Bundle.open(reduced)
    if calibrated_on(bundles[1]) is None:
        click.echo(f"warning: {reduced} does not say which images it was calibrated on, so none is refused", err=True)
    with progress_bar() as progress:
        result = compare_precision(*bundles, datasets, split, limit=limit, seed=seed, threads=threads, progress=progress)
    deliver(precision_table(result), result, json_path)


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@data_options
@click.option(
    "--limit", default=12, show_default=True, type=click.IntRange(1), help="Most images per set, drawn with the seed."
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    type=click.Choice(["box jitter", "point offset", "image shift", "geometry", "query"]),
    help="Conditions to measure; geometry is images turned and mirrored. Repeatable. Without: all.",
)
@click.option("--report", type=click.Path(path_type=Path), help="Folder for robustness.md and robustness.png, of all groups.")
@json_option
def robustness(
    model: Path, data_: tuple[Path, ...], split: str, limit: int, groups: tuple[str, ...], seed: int, threads: int | None,
    report: Path | None, json_path: str | None,
) -> None:  # fmt: skip
    """Dice under imprecise prompts, image corruptions, rotations and other wordings.

    MODEL is a bundle, or a checkpoint folder (needs torch).
    """
    from mimo_runtime.data.dataset import read_datasets

    from ..models import open_model
    from ..suites.conditions import CONDITIONS
    from ..suites.report import check_report, markdown, write_report
    from ..suites.robustness import measure_robustness

    check_writable(json_path)
    if report is not None and groups:
        raise RequestError("a report shows all groups of conditions", "Leave out --group or --report")
    if report is not None:
        check_report(report)
    datasets = read_datasets(data_)
    with open_model(model, threads) as mimo, stage_progress("robustness") as progress:
        result = measure_robustness(
            mimo, datasets, split, groups=groups or tuple(CONDITIONS), limit=limit, seed=seed, progress=progress
        )
    # The numbers first: a picture that cannot be drawn must not lose them.
    deliver(markdown(result), result, json_path)
    if report is not None:
        write_report(result, report)
