"""``mimo-run mercure``: one run as a processing module of the DICOM router Mercure."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import RequestError
from .options import where

_FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("bundle")
@click.option("--in", "source", type=_FOLDER, envvar="MERCURE_IN_DIR", required=True, help="Images. [env: MERCURE_IN_DIR]")
@click.option("--out", "target", type=_FOLDER, envvar="MERCURE_OUT_DIR", required=True, help="Results. [env: MERCURE_OUT_DIR]")
@click.option("--ask", metavar="TEXT", help="The question where task.json has none. Default: all structures.")
@click.option("--max-memory", type=click.IntRange(1), metavar="MB", help="Refuse a bundle or an image that needs more.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per engine, at most the cores.")
@where
def mercure(
    bundle: str,
    source: Path,
    target: Path,
    ask: str | None,
    max_memory: int | None,
    threads: int | None,
    device: str,
    allow_fallback: bool,
    trust: str | None,
) -> None:
    """Answer with BUNDLE about the DICOM series of a folder, as task.json in it says, and write DICOM objects and result.json.

    A series that fails is listed in result.json. Exit code 1 or 2: nothing could be answered.
    """
    from ..pipeline import Mimo
    from ..services.dicom_node.rules import check_rules
    from ..services.mercure.module import run_module
    from ..services.mercure.settings import read_settings

    for folder, what, option in ((source, "images", "--in or MERCURE_IN_DIR"), (target, "results", "--out or MERCURE_OUT_DIR")):
        if not folder.is_dir():
            raise RequestError(f"the folder of {what} does not exist", f"Name it with {option}")
    settings = read_settings(source, ask)
    with Mimo.load(
        bundle, device, threads, cache_images=1, allow_fallback=allow_fallback, max_memory=max_memory, trust=trust
    ) as mimo:  # fmt: skip
        check_rules(settings.rules, mimo.config)
        result = run_module(mimo, source, target, settings)
    counts = {"series": len(result["series"]), "failures": len(result["failures"]), "skipped": result["skipped"]}
    click.echo(json.dumps(counts))
