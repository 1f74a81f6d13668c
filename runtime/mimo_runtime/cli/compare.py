"""``mimo-run compare``: the results of two examinations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import RequestError
from .json_output import print_json

if TYPE_CHECKING:
    from ..clinical.comparison import Comparison


@click.command()
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("now", type=click.Path(path_type=Path))
@click.option("--nadir", type=click.FloatRange(0), metavar="MM", help="Smallest sum of diameters of all earlier examinations.")
@click.option("-o", "--output", metavar="OUT", help="Folder for comparison.json and report.html with both pictures.")
@click.option(
    "--write", type=click.Choice(["sr"]), help="Also write OUT/sr.dcm: the structured report of NOW with the changes."
)
@click.option("--force", is_flag=True, help="Replace OUT if an earlier comparison is in it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def compare(
    baseline: Path, now: Path, nadir: float | None, output: str | None, write: str | None, force: bool, as_json: bool
) -> None:
    """Compare the results of two examinations.

    BASELINE and NOW are folders that predict or series wrote with --write. Findings are matched by tracking identifier, else by
    position for a person to confirm.
    """
    if write is not None and output is None:
        raise RequestError("--write without --output", "Name a folder with -o")
    from ..clinical.comparison import compare as compare_studies
    from ..clinical.store import load_study

    before, after = (load_study(_objects(folder)) for folder in (baseline, now))
    result = compare_studies(before, after, nadir)
    report = _compared(result)
    if output is not None:
        from ..clinical.report.content import follow_up_lines, report_of
        from ..clinical.report.page import html_of
        from ..utils.atomic import atomic_folder

        page = html_of(report_of(after, result, before))
        with atomic_folder(output, force, "comparison.json") as target:
            if write is not None:
                from ..clinical.dicom.follow_up import read_report, write_follow_up
                from ..imageio.elements import silent

                with silent():
                    data = write_follow_up(read_report(_objects(now)), result, follow_up_lines(result))
                    data.save_as(target / "sr.dcm", enforce_file_format=True)
            (target / "report.html").write_text(page, "utf-8")
            (target / "comparison.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if as_json:
        print_json(report, indent=1)
        return
    _print_comparison(result)


def _print_comparison(result: Comparison) -> None:
    """For a person."""
    for pair in result.pairs:
        how = pair.matched_by or ("only now" if pair.before is None else "only at the baseline")
        click.echo(f"{pair.name} ({how}{', to be confirmed' if pair.needs_confirmation else ''})")
        for change in pair.changes:
            percent = "" if change.percent is None else f" ({change.percent:+.0f} %)"
            click.echo(f"  {change.name}: {change.before:.1f} to {change.now:.1f} {change.unit}{percent}")
    if result.target is not None:
        click.echo(f"target lesions, RECIST 1.1: {result.target.category}, {result.target.reason}")
    for note in (*(result.target.notes if result.target else ()), *result.warnings):
        click.echo(f"note: {note}", err=True)


def _objects(folder: Path) -> Path:
    """The folder of the study: the one named, or the ``objects`` in it."""
    inner = folder / "objects"
    return inner if inner.is_dir() else folder


def _compared(result: Comparison) -> dict[str, object]:
    """For JSON; docs/reference/json.md, ``compare``."""
    pairs = [
        {
            "name": pair.name, "before": pair.before is not None, "now": pair.now is not None, "matched_by": pair.matched_by,
            "needs_confirmation": pair.needs_confirmation,
            "changes": [{**vars(change), "percent": change.percent} for change in pair.changes],
        }
        for pair in result.pairs
    ]  # fmt: skip
    target = None if result.target is None else {**vars(result.target), "notes": list(result.target.notes)}
    return {"pairs": pairs, "target": target, "warnings": list(result.warnings)}
