"""The command ``mimo-bench report``."""

from __future__ import annotations

from pathlib import Path

import click

from mimo_runtime.cli.app import Command

#: Where results are kept.
RESULTS = Path("benchmarks/results")


@click.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path), default=RESULTS)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of report.md and report.html. Default: FOLDER.")
def report(folder: Path, output: Path | None) -> None:
    """Collect the results in FOLDER into report.md and report.html. The last line is JSON.

    FOLDER holds JSON files that the other commands wrote with --json. Default: benchmarks/results.
    """
    from mimo_runtime.cli.json_output import print_json
    from mimo_runtime.errors import RequestError
    from mimo_runtime.utils.atomic import check_output_file

    from ..report.collect import collect
    from ..report.pages import HTML, MARKDOWN, write_report

    collected = collect(folder)
    target = output or folder
    if target.exists() and not target.is_dir():
        raise RequestError(f"--output {target} is a file", "Name a folder")
    target.mkdir(exist_ok=True)
    for name in (MARKDOWN, HTML):
        check_output_file(target / name)
    summary = write_report(collected, target)
    for name, result in collected.results.items():
        missed = [figure.name for figure in result.figures if figure.reached is False]
        state = "" if result.quotable else ", not to be quoted"
        goals = f"; goals missed: {', '.join(missed)}" if missed else ""
        click.echo(f"{name}: {result.command} of {result.subject}{state}{goals}")
    for name, reason in collected.unreadable.items():
        click.echo(f"{name} is no result: {reason}")
    print_json(summary)
