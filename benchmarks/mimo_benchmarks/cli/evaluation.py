"""The commands ``mimo-bench referring``, ``scene``, ``precision`` and ``robustness``; ``main.py`` attaches them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mimo_runtime.cli.app import Command, Option
from mimo_runtime.errors import VerificationError

from ..report.output import Progress, check_writable, deliver, json_option


def data_options(command: Any) -> Any:
    """The options that say what is measured on, without the limit."""
    for option in reversed(
        (
            click.option(
                "--data", "data_", multiple=True, required=True, type=click.Path(path_type=Path),
                help="Data set, or folder of some. Repeatable.",
            ),
            click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"])),
            click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the prompts."),
            click.option("--threads", type=click.IntRange(1), help="Threads per operator."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


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
    """Whether a box or a point brings out exactly the thing it is on, where an image has several alike.

    Each is asked for without a word and with the name that all of them share.

    MODEL is a bundle, or a checkpoint folder (needs torch).
    """
    from mimo_runtime.data.dataset import read_datasets
    from mimo_runtime.evaluation.referring import measure_referring

    from ..models import open_model
    from ..suites.report import referring_table

    check_writable(json_path)
    datasets = read_datasets(data_)
    with open_model(model, threads) as mimo, Progress() as progress:
        if no_refine:
            mimo.config = replace(mimo.config, crop_scale=0.0)
        result = measure_referring(
            mimo, datasets, split, limit=limit, seed=seed,
            progress=lambda done, total: progress("referring", done, total),
        )  # fmt: skip
    deliver(referring_table(result), result, json_path)


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@data_options
@click.option("--limit", type=click.IntRange(1), help="Most images per set, drawn with the seed.")
@json_option
def scene(
    model: Path, data_: tuple[Path, ...], split: str, limit: int | None, seed: int, threads: int | None, json_path: str | None
) -> None:
    """Answers about several structures: what is there, how many there are, and how one lies relative to another.

    MODEL is a bundle, or a checkpoint folder (needs torch).
    """
    from mimo_runtime.data.dataset import read_datasets

    from ..models import open_model
    from ..suites.relations import measure_relations, relations_table

    check_writable(json_path)
    datasets = read_datasets(data_)
    with open_model(model, threads) as mimo, Progress() as progress:
        result = measure_relations(
            mimo, datasets, split, limit=limit, seed=seed,
            progress=lambda done, total: progress("looking", done, total),
        )  # fmt: skip
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
    """What the bundle REDUCED loses and gains against FULL, a bundle of the same weights in single precision.

    Images that REDUCED was calibrated on are refused.
    """
    from mimo_runtime.bundle.archive import Bundle
    from mimo_runtime.data.dataset import read_datasets

    from ..precision import calibrated_on, compare_precision, precision_table

    check_writable(json_path)
    datasets = read_datasets(data_)
    bundles = Bundle.open(full), Bundle.open(reduced)
    if calibrated_on(bundles[1]) is None:
        told = "does not say which images it was calibrated on, so they are not told from those given"
        click.echo(f"warning: {reduced} {told}", err=True)
    with Progress() as progress:
        result = compare_precision(*bundles, datasets, split, limit=limit, seed=seed, threads=threads, progress=progress)
    deliver(precision_table(result), result, json_path)


@click.command("compare-revisions", cls=Command)
@click.argument("revision")
@click.argument("bundle", type=click.Path(path_type=Path))
@data_options
@click.option("--limit", default=3, show_default=True, type=click.IntRange(1), help="Most images per set.")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Rounds over all questions.")
@json_option
def compare_revisions(
    revision: str, bundle: Path, data_: tuple[Path, ...], split: str, limit: int, seed: int, threads: int | None, repeats: int,
    json_path: str | None,
) -> None:  # fmt: skip
    """Ask BUNDLE the same questions with the runtime of REVISION and of this checkout, in turns.

    Needs a git checkout. Masks are compared to the bit and texts to the letter. Exit code 1 if an answer differs.
    """
    from mimo_runtime.bundle.archive import Bundle
    from mimo_runtime.data.dataset import read_datasets

    from ..revisions import compare

    check_writable(json_path)
    Bundle.open(bundle)
    datasets = read_datasets(data_)
    with Progress() as progress:
        result = compare.compare_revisions(
            revision, bundle, datasets, split=split, limit=limit, seed=seed, repeats=repeats, threads=threads,
            progress=progress,
        )  # fmt: skip
    deliver(compare.comparison_table(result), result, json_path)
    if result["different"]:
        what = f"{result['different']} of {result['questions']} answers differ from those of revision {revision}"
        raise VerificationError(what, "See the differences above")


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@data_options
@click.option(
    "--limit", default=12, show_default=True, type=click.IntRange(1), help="Most images per set, drawn with the seed."
)
@click.option("--report", type=click.Path(path_type=Path), help="Folder for robustness.md and robustness.png.")
@json_option
def robustness(
    model: Path, data_: tuple[Path, ...], split: str, limit: int, seed: int, threads: int | None, report: Path | None,
    json_path: str | None,
) -> None:  # fmt: skip
    """What imprecise prompts, changed images and other words cost, in Dice.

    MODEL is a bundle, or a checkpoint folder (needs torch).
    """
    from mimo_runtime.data.dataset import read_datasets

    from ..models import open_model
    from ..suites.report import check_report, markdown, write_report
    from ..suites.robustness import measure_robustness as measure

    check_writable(json_path)
    if report is not None:
        check_report(report)
    datasets = read_datasets(data_)
    with open_model(model, threads) as mimo, Progress() as progress:
        result = measure(
            mimo, datasets, split, limit=limit, seed=seed,
            progress=lambda done, total: progress("perturbing", done, total),
        )  # fmt: skip
    # The numbers first: a picture that cannot be drawn must not lose them.
    deliver(markdown(result), result, json_path)
    if report is not None:
        write_report(result, report)
