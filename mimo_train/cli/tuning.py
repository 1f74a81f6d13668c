"""The commands ``mimo-train tune-thresholds``, ``calibrate-contours`` and ``fit-domain``; ``main.py`` attaches them."""

from __future__ import annotations

from pathlib import Path

import click

from mimo_runtime.cli.json_output import print_json
from mimo_runtime.cli.progress import stage_progress
from mimo_runtime.errors import RequestError

from .model_source import ModelSource, model_options

_PATH = click.Path(path_type=Path)
_seed = click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
_data = click.option(
    "--data", "data_", multiple=True, required=True, type=_PATH, help="Data set, or folder of data sets; repeatable."
)


@click.command("tune-thresholds")
@click.argument("checkpoint", type=_PATH)
@_data
@click.option(
    "--split", default="val", show_default=True, type=click.Choice(["train", "val"]), help="Never the split that is reported."
)
@click.option(
    "--risk",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Largest mean of 1 - Dice of the findings that count as confident.",
)
@click.option("--limit", type=click.IntRange(1), help="Most images per set, drawn with the seed.")
@_seed
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of sentences.")
def tune_thresholds(
    checkpoint: Path,
    data_: tuple[Path, ...],
    split: str,
    risk: float,
    limit: int | None,
    seed: int,
    source: ModelSource,
    as_json: bool,
) -> None:
    """Choose crop pass, thresholds and presence temperature on a split, and store them in the checkpoint.

    Then calibrate contours as calibrate-contours does, for 90 % of the masks and a miss rate of 5 %.
    """
    from mimo_runtime.data.dataset import read_datasets
    from mimo_runtime.model.config import MimoConfig

    from ..tuning import conformal, tune

    datasets = read_datasets(data_)
    mimo = source()
    with stage_progress("thresholds", quiet=as_json) as advance:
        chosen = tune.tune_thresholds(
            checkpoint, mimo, datasets, split, risk=risk, limit=limit, seed=seed, progress=advance, jobs=source.jobs
        )
    mimo, calibrated = mimo.with_config(MimoConfig.read(checkpoint / "config.json")), None
    with stage_progress("contours", quiet=as_json) as advance:
        try:
            calibrated = conformal.calibrate(
                checkpoint, mimo, datasets, split, limit=limit, seed=seed, progress=advance, jobs=source.jobs
            )
            contours = calibrated.sentences()
        except RequestError as error:  # too few patients: thresholds need fewer
            contours = f"no contours: {error.what}"
    if as_json:
        conformal_report = None if calibrated is None else calibrated.to_dict()
        print_json({**chosen.to_dict(), "wanted_risk": risk, "split": split, "conformal": conformal_report})
    else:
        click.echo(f"{chosen.sentences(risk)}\n{contours}\nStored in {checkpoint / 'config.json'}.")


@click.command("calibrate-contours")
@click.argument("checkpoint", type=_PATH)
@_data
@click.option(
    "--split", default="val", show_default=True, type=click.Choice(["train", "val"]), help="Never the split that is reported."
)
@click.option(
    "--coverage",
    default=0.9,
    show_default=True,
    type=click.FloatRange(0.5, 0.999),
    help="Share of the masks for which the inner and the outer contour each hold.",
)
@click.option(
    "--miss-rate",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0.001, 0.5),
    help="Largest share of present structures that an answer excludes.",
)
@click.option("--limit", type=click.IntRange(1), help="Most images per set, drawn with the seed.")
@_seed
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of sentences.")
def calibrate_contours(
    checkpoint: Path,
    data_: tuple[Path, ...],
    split: str,
    coverage: float,
    miss_rate: float,
    limit: int | None,
    seed: int,
    source: ModelSource,
    as_json: bool,
) -> None:
    """Calibrate inner and outer contours and the exclusion of structures by patient, and store them in the checkpoint.

    Run it after tune-thresholds: contours belong to the masks of final thresholds.
    """
    from mimo_runtime.data.dataset import read_datasets

    from ..tuning import conformal

    datasets = read_datasets(data_)
    mimo = source()
    with stage_progress("contours", quiet=as_json) as advance:
        chosen = conformal.calibrate(
            checkpoint,
            mimo,
            datasets,
            split,
            coverage=coverage,
            miss_rate=miss_rate,
            limit=limit,
            seed=seed,
            progress=advance,
            jobs=source.jobs,
        )
    if as_json:
        print_json({**chosen.to_dict(), "split": split})
    else:
        click.echo(f"{chosen.sentences()}\nStored in {checkpoint / 'config.json'}.")


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
@click.option("--leave-one-out", is_flag=True, help="Also report how a fit without each of the sets flags its images.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of sentences.")
def fit_domain(
    checkpoint: Path,
    data_: tuple[Path, ...],
    limit: int,
    turned_copies: bool,
    leave_one_out: bool,
    seed: int,
    source: ModelSource,
    as_json: bool,
) -> None:
    """Store what the training images look like in the checkpoint, so that a device can refuse other kinds of images.

    Fitted on the split train, limits chosen on val. Also stores the modalities in which the data marks each entity.
    """
    from mimo_runtime.data.dataset import read_datasets

    from ..tuning.domain import store_domain
    from ..tuning.domain_report import report_on

    datasets = read_datasets(data_)
    mimo = source()
    with stage_progress("domain", quiet=as_json) as advance:
        statistics, described = store_domain(checkpoint, mimo, datasets, limit, seed, advance, turned_copies, source.jobs)
    report = report_on(statistics, described, leave_one_out=leave_one_out)
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(f"{report.sentences()}\nStored in {checkpoint}.")
