"""The command ``mimo-bench compare-revisions``."""

from __future__ import annotations

from pathlib import Path

import click

from mimo_runtime.cli.app import Command
from mimo_runtime.cli.progress import progress_bar
from mimo_runtime.errors import VerificationError

from .options import data_options
from .output import check_writable, deliver, json_option


@click.command("compare-revisions", cls=Command)
@click.argument("revision")
@click.argument("bundle", type=click.Path(path_type=Path))
@data_options
@click.option("--limit", default=3, show_default=True, type=click.IntRange(1), help="Most images per set.")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Rounds over all questions.")
@click.option(
    "--earlier-bundle",
    type=click.Path(path_type=Path),
    help="Bundle that REVISION answers with, where it cannot read BUNDLE: the same weights, built for it.",
)
@json_option
def compare_revisions(
    revision: str, bundle: Path, data_: tuple[Path, ...], split: str, limit: int, seed: int, threads: int | None, repeats: int,
    earlier_bundle: Path | None, json_path: str | None,
) -> None:  # fmt: skip
    """Ask BUNDLE the same questions with the runtime of REVISION and of this checkout, in turns.

    Needs a git checkout. Masks are compared to the bit and texts to the letter. Exit code 1 if an answer differs.
    """
    from mimo_runtime.bundle.archive import Bundle
    from mimo_runtime.data.dataset import read_datasets, with_windows

    from ..revisions import compare

    check_writable(json_path)
    datasets = with_windows(read_datasets(data_), Bundle.open(bundle).windows)
    with progress_bar() as progress:
        result = compare.compare_revisions(
            revision, bundle, datasets, split=split, limit=limit, seed=seed, repeats=repeats, threads=threads,
            earlier_bundle=earlier_bundle, progress=progress,
        )  # fmt: skip
    deliver(compare.comparison_table(result), result, json_path)
    if result["different"]:
        what = f"{result['different']} of {result['questions']} answers differ from those of revision {revision}"
        raise VerificationError(what, "See the differences above")
