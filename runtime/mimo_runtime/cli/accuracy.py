"""The one command behind ``mimo-train evaluate`` and ``mimo-bench accuracy``. It imports heavy modules when it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ..pipeline import Mimo

#: A command before or after the options are added to it.
Callback = TypeVar("Callback", bound=Callable[..., object])


def accuracy_options(command: Callback) -> Callback:
    """The options of both commands, as a decorator; they are the arguments of :func:`run_accuracy`."""
    import click

    from .app import Option
    from .json_output import STDOUT

    path = click.Path(path_type=Path)
    for option in reversed(
        (
            click.option("--data", multiple=True, required=True, type=path, help="Data set, or folder of some. Repeatable."),
            click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"])),
            click.option("--prompts", help="Of box,point,mask,text,text+box,absent. Without: all."),
            click.option("--limit", type=click.IntRange(1), help="Most images per set, drawn with the seed."),
            click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the prompts."),
            click.option("--no-text", is_flag=True, help="Write no texts, and measure none: faster."),
            click.option(
                "--no-refine",
                cls=Option,
                earlier=("--no-closer",),
                is_flag=True,
                help="Skip the crop pass and the disambiguation of points.",
            ),
            click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads."),
            click.option("--report", type=path, help="Folder for all tables, charts, and the best and worst answers."),
            click.option(
                "--json",
                "json_path",
                is_flag=False,
                flag_value=STDOUT,
                metavar="OUT.json",
                help="File for the numbers; - prints them as one line, and everything else on standard error.",
            ),
        )
    ):
        command = option(command)
    return command


def run_accuracy(
    load: Callable[[], AbstractContextManager[Mimo]],
    *,
    data: tuple[Path, ...],
    split: str,
    prompts: str | None,
    limit: int | None,
    seed: int,
    no_text: bool,
    no_refine: bool,
    report: Path | None,
    json_path: str | None,
    progress_bar: AbstractContextManager[Callable[[int, int], None]],
) -> None:
    """Measure a model, show the overview, and write the numbers and the report.

    Args:
        load: opens the model, after all that can be refused has been refused.
        data: data sets, or folders of some.
        prompts: names with commas between, None for all.
        no_refine: skip the crop pass and the disambiguation of points.
        report: folder for the report; see ``report_folder``.
        json_path: file for the numbers, or ``-``.
        progress_bar: entered, a function that is called with (images done, images in all): a progress bar.

    Raises:
        RequestError: an output that cannot be written, unknown prompts, or what ``evaluate`` refuses.
    """
    import click

    from ..data.dataset import other_windows, read_datasets
    from ..evaluation.accuracy import measure, summarise
    from ..evaluation.report import overview
    from ..evaluation.report_folder import check_report, write_report
    from .app import print_error
    from .json_output import STDOUT, json_file, print_json, write_json

    chosen, file = _prompts_of(prompts), json_file(json_path)
    if report is not None:
        check_report(report)
    datasets = read_datasets(data)
    with load() as loaded, progress_bar as progress:
        for sentence in other_windows(datasets, loaded.windows):
            print_error(f"warning: {sentence}")
        mimo = loaded.with_config(replace(loaded.config, crop_scale=0.0)) if no_refine else loaded
        measured = measure(mimo, datasets, split, prompts=chosen, limit=limit, seed=seed, progress=progress, text=not no_text)
        result = summarise(measured)
        if file is not None:  # before the report, which asks again and could fail: the numbers are worth more
            write_json(file, result)
        if report is not None:
            write_report(report, result, measured, mimo, datasets)
    click.echo(overview(result), err=json_path == STDOUT, nl=False)
    if json_path == STDOUT:
        print_json(result)


def _prompts_of(names: str | None) -> tuple[str, ...]:
    """The prompt types of ``--prompts``.

    Raises:
        RequestError: an unknown one, or none.
    """
    from ..errors import RequestError
    from ..evaluation.summary import PROMPTS

    chosen = PROMPTS if names is None else tuple(name.strip() for name in names.split(",") if name.strip())
    unknown = [name for name in chosen if name not in PROMPTS]
    if unknown or not chosen:
        problem = f"unknown prompt type '{unknown[0]}'" if unknown else "--prompts names no prompt type"
        raise RequestError(problem, f"Choose from {', '.join(PROMPTS)}")
    return chosen
