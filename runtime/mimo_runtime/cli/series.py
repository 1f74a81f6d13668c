"""``mimo-run series`` and ``mimo-run compare``: whole series, and two examinations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import RequestError
from .json_output import print_json
from .options import Coordinates, Writer, identity_of, object_options, object_request, where
from .progress import progress_bar

if TYPE_CHECKING:
    from ..clinical.comparison import Comparison
    from ..clinical.study import StudyResult
    from ..series.scans import SeriesAnswer


@click.command()
@click.argument("bundle")
@click.argument("source")
@click.option("--text", required=True, help="A name or a question, asked about every frame: liver, 'What do you see?'")
@click.option("--series", "chosen", help="Which series of a folder with several: its number from 1, or its UID.")
@click.option("--modality", help="Of frames that do not state it, e.g. mri; ct selects the window of CT.")
@click.option("--window", type=Coordinates("C,W", 2), help="Centre and width of the window for grey values, e.g. 40,400.")
@click.option("--no-refine", is_flag=True, help="Skip the crop pass: faster, less accurate.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per engine.")
@where
@object_options
@click.option("-o", "--output", metavar="OUT", help="Folder for answer.json, the picture of each structure, and objects.")
@click.option("--force", is_flag=True, help="Replace OUT if an earlier answer is in it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def series(
    bundle: str,
    source: str,
    text: str,
    chosen: str | None,
    modality: str | None,
    window: tuple[float, float] | None,
    no_refine: bool,
    threads: int | None,
    device: str,
    allow_fallback: bool,
    trust: str | None,
    output: str | None,
    force: bool,
    as_json: bool,
    **objects: object,
) -> None:
    """Ask about every frame of SOURCE: a folder, a zip archive, a multi-frame file or a volume.

    Findings are joined over the frames; with positions and spacing they have a volume.
    """
    request = object_request(objects, output)
    if not text.strip():
        raise RequestError("--text is empty", "Give a name or a question")
    from ..pipeline import Mimo
    from ..preprocessing.prompts import Prompt
    from ..request import AskRequest

    number: int | str | None = int(chosen) if chosen and chosen.isdecimal() and len(chosen) < 6 else chosen
    with Mimo.load(bundle, device, threads, cache_images=1, allow_fallback=allow_fallback, trust=trust) as mimo:
        scans = mimo.open_series(source, series=number, modality=modality, window=window)
        with progress_bar(quiet=as_json) as progress:
            answer = scans.ask_request(
                AskRequest.of(text, refine=not no_refine), lambda done, frames: progress("frames", done, frames)
            )
        info = mimo.info
    from ..clinical.study import StudyResult

    def study(salt: str) -> StudyResult:
        return StudyResult.of_series(Prompt(text), answer, identity_of(info), salt)

    report = {**_summary(answer), "model": info["id"]}
    if output is not None:
        _write(output, force, report, study(""), request.writer(study))
    for note in (*scans.series.notes, *([answer.series.layout.problem] if answer.series.layout.problem else [])):
        click.echo(f"note: {note}", err=True)
    if as_json:
        print_json(report, indent=1)
    else:
        click.echo(_text_of(answer, output))


def _summary(answer: SeriesAnswer) -> dict[str, object]:
    """For JSON; docs/reference/json.md, ``series``."""
    findings = []
    for finding in answer.findings:
        volume = answer.volume_ml(finding)
        findings.append({
            "phrase": finding.phrase, "frames": list(finding.frames), "score": round(finding.score, 6),
            "confident": finding.confident, "pixels": sum(finding.areas_px().values()),
            "volume_ml": None if volume is None else round(volume, 4),
        })  # fmt: skip
    frames = [
        {"frame": f.frame, "text": f.answer.text, "refusal": f.answer.refusal.to_dict() if f.answer.refusal else None,
         "warnings": list(f.answer.warnings)}
        for f in answer.frames
    ]  # fmt: skip
    layout = answer.series.layout
    return {
        "frames": frames, "findings": findings, "is_regular": layout.is_regular, "problem": layout.problem,
        "distance_mm": layout.distance_mm, "seconds": round(answer.seconds, 3),
    }  # fmt: skip


def _text_of(answer: SeriesAnswer, output: str | None) -> str:
    """For a person."""
    lines = [f"{len(answer.frames)} frames in {answer.seconds:.1f} s"]
    for finding in answer.findings:
        first, last, volume = finding.frames[0], finding.frames[-1], answer.volume_ml(finding)
        size = "" if volume is None else f", {volume:.2f} mL"
        uncertain = "" if finding.confident else ", uncertain"
        lines.append(f"{finding.phrase}: frames {first} to {last}{size}, score {finding.score:.2f}{uncertain}")
    if not answer.findings:
        refusals = [frame.answer.plain_text for frame in answer.frames if frame.answer.refusal is not None]
        lines.append(refusals[0] if refusals else "no finding")
    return "\n".join([*lines, *([f"written to {output}"] if output else [])])


def _write(output: str, force: bool, report: Mapping[str, object], result: StudyResult, also: Writer | None) -> None:
    from ..clinical.pictures import draw_frame
    from ..results.folder import ANSWER, slug
    from ..utils.atomic import atomic_folder

    with atomic_folder(output, force, ANSWER) as target:
        for number, structure in enumerate(result.structures):
            frame = structure.largest_frame
            picture = draw_frame(result, frame, result.images[frame])
            picture.save(target / f"{number:02d}_{slug(structure.tracking_id)}_frame_{frame:04d}.png")
        if also is not None:
            also(target)
        (target / ANSWER).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")


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
