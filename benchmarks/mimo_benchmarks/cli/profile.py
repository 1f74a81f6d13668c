"""The command ``mimo-bench profile``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mimo_runtime.cli.app import Command
from mimo_runtime.cli.progress import progress_bar

from .options import request_options
from .output import check_writable, deliver_result, json_option


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--repeats", default=20, show_default=True, type=click.IntRange(1), help="Samples per request and graph.")
@click.option("--report", type=click.Path(path_type=Path), help="Folder for profile.md, with the slowest operators.")
@request_options
@json_option
def profile(
    bundle: Path, repeats: int, report: Path | None, threads: int | None, json_path: str | None, **request: Any
) -> None:
    """Where the time of BUNDLE goes: stages, operators inside each graph, and causes outside engines.

    Beside it what the machine can do at most: bandwidth, and products per second in FP32, BF16 and INT8.
    """
    from mimo_runtime.bundle.archive import Bundle

    from ..profile.measure import measure
    from ..profile.table import check_report, profile_table, write_report
    from ..report.figures import profile_result
    from ..request import make_request
    from ..system.measured_bundle import describe_bundle

    check_writable(json_path)
    if report is not None:
        check_report(report)
    with progress_bar() as progress:
        result = measure(bundle, make_request(bundle=bundle, **request), threads=threads, repeats=repeats, progress=progress)
    deliver_result(profile_table(result), profile_result(result, describe_bundle(Bundle.open(bundle))), json_path)
    if report is not None:
        write_report(result, report)
