"""``mimo-run batch``: one question about many images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import RequestError
from .app import print_error
from .json_output import print_json
from .options import Coordinates, object_options, object_request, where
from .progress import progress_bar

if TYPE_CHECKING:
    from ..services.batch.items import BatchItem
    from ..services.batch.question import Question
    from ..services.batch.run import BatchReport
    from ..services.batch.settings import WebSource

#: Exit code where some images failed and the others are answered.
PARTIAL = 3
#: Failures that are printed; the file has all.
MOST_FAILURES = 5


@click.command()
@click.argument("bundle")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--text", help="A name or a question, asked about every image: polyp, 'What do you see?'")
@click.option("--box", "boxes", type=Coordinates("X0,Y0,X1,Y1", 4), multiple=True, help="In every image. Repeatable.")
@click.option(
    "--point", "points", type=Coordinates("X,Y or X,Y,LABEL", 2, 3), multiple=True,
    help="A pixel on the target in every image; with ',0' a pixel beside it. Repeatable.",
)  # fmt: skip
@click.option("--frame", type=click.IntRange(0), default=0, help="Frame of multi-frame files, or slice of volumes.")
@click.option("--modality", help="Of images that do not state it, e.g. mri; ct selects the model's window of CT.")
@click.option("--window", type=Coordinates("C,W", 2), help="Centre and width of the window for grey values, e.g. 40,400.")
@click.option("--masks/--no-masks", default=True, help="Draw masks.")
@click.option("--answer/--no-answer", "text_answer", default=True, help="Write a text.")
@click.option("--no-refine", is_flag=True, help="Skip the crop pass: faster, less accurate.")
@click.option("--any-domain", is_flag=True, help="Name structures in images unlike those of the training, too.")
@click.option("--jobs", type=click.IntRange(1, 1024), default=1, show_default=True, help="Images at a time.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of an image. Default: the cores, divided by --jobs.")
@click.option(
    "--engine", type=click.Choice(("local", "ray")), default="local", show_default=True,
    help="Who answers: threads of this process, or processes of a Ray cluster.",
)  # fmt: skip
@click.option("--ray-address", metavar="ADDRESS", help="A running cluster: auto, HOST:PORT. Default: one of this machine.")
@click.option("--token-file", metavar="FILE", help="Bearer token for the DICOMweb server, or a header: Basic ...")
@where
@object_options
@click.option("-o", "--output", required=True, metavar="OUT", help="Folder of the results; an earlier batch in it is resumed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def batch(
    bundle: str,
    inputs: tuple[str, ...],
    text: str | None,
    boxes: tuple[tuple[float, ...], ...],
    points: tuple[tuple[float, ...], ...],
    frame: int,
    modality: str | None,
    window: tuple[float, float] | None,
    masks: bool,
    text_answer: bool,
    no_refine: bool,
    any_domain: bool,
    jobs: int,
    threads: int | None,
    engine: str,
    ray_address: str | None,
    token_file: str | None,
    device: str,
    allow_fallback: bool,
    trust: str | None,
    output: str,
    as_json: bool,
    **writing: object,
) -> None:
    """Ask about every image of INPUT: folders, images, lists (.csv, .jsonl) or a DICOMweb query.

    A query is an address: https://pacs.example/dicom-web?Modality=CT. A list has the fields image, text, box, point, mask,
    frame and modality. The same command resumes a batch that was ended. Exit code 3: some images failed, the others
    are answered.
    """
    objects = object_request(writing, output)
    if ray_address is not None and engine != "ray":
        raise RequestError("--ray-address has no effect without --engine ray", "Leave it out")
    _check(text, masks, text_answer, not no_refine)
    import hashlib

    from ..bundle.archive import Bundle
    from ..services.batch.question import Question
    from ..services.batch.run import Workers, run_batch
    from ..services.batch.settings import BatchSettings

    opened = Bundle.open(bundle, this_machine=not allow_fallback, trust=trust)
    items, web = _items(inputs, Question(text or "", boxes, points, "", frame, modality), token_file)
    settings = BatchSettings(
        str(Path(bundle).absolute()), hashlib.sha256(opened.raw_manifest).hexdigest(), Path(output).absolute(),
        device, threads, allow_fallback, trust and str(Path(trust).absolute()), window, masks, text_answer, not no_refine,
        any_domain, objects.formats, objects.salt, objects.allow_burned_in, objects.show_patient, web,
    )  # fmt: skip
    with progress_bar(quiet=as_json) as progress:
        report = run_batch(settings, items, Workers(engine, jobs, ray_address), progress)
    _print(report, output, as_json)
    if report.failures:
        listed = f"{len(report.failures)} of {report.images} images failed"
        others = " The others are answered." if len(report.failures) < report.images else ""
        print_error(f"error: {listed}, see failures.csv.{others} The same command tries these again.")
        raise click.exceptions.Exit(PARTIAL)


def _check(text: str | None, masks: bool, text_answer: bool, refine: bool) -> None:
    """Refuse options that would do nothing."""
    if not (masks or text_answer):
        raise RequestError("--no-masks and --no-answer leave nothing to do", "Leave one of them out")
    if not (refine or masks):
        raise RequestError("--no-refine has no effect with --no-masks", "Leave one of them out")
    if text is not None and not text.strip():
        raise RequestError("--text is empty", "Give a name or a question, or leave --text out")


def _items(inputs: tuple[str, ...], question: Question, token_file: str | None) -> tuple[list[BatchItem], WebSource | None]:
    """What is asked about, and the server of a query."""
    from ..services.batch.items import items_of

    addresses = [text for text in inputs if text.startswith(("http://", "https://"))]
    if not addresses:
        if token_file is not None:
            raise RequestError("--token-file has no effect without a DICOMweb query", "Leave it out")
        return items_of([str(Path(text).absolute()) for text in inputs], question), None
    if len(inputs) > 1:
        raise RequestError("a DICOMweb query beside other inputs", "Ask about them in a batch of their own")
    from ..services.batch.dicomweb import search, web_source

    web = web_source(addresses[0], "" if token_file is None else _token(token_file))
    return search(web, question), web


def _token(path: str) -> str:
    try:
        token = Path(path).read_text("ascii").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no ASCII text"
        raise RequestError(f"the file of --token-file cannot be read: {reason}", "Name a text file") from None
    if not token or not token.isprintable():
        raise RequestError("the file of --token-file has no token", "Write the token into it")
    return token


def _print(report: BatchReport, output: str, as_json: bool) -> None:
    if as_json:
        failures = [{"number": number, "reason": reason} for number, reason in report.failures]
        print_json({**vars(report), "failures": failures, "files": list(report.files)}, indent=1)
        return
    click.echo(f"{report.answered} images answered in {report.seconds:.1f} s, {report.resumed} were answered before")
    for number, reason in report.failures[:MOST_FAILURES]:
        named = reason.startswith(f"input {number} ")
        click.echo(f"note: {reason}" if named else f"note: input {number}: {reason}", err=True)
    if report.left_out:
        click.echo(f"note: {report.left_out} answers lack a format of --write: see left_out in ledger.jsonl", err=True)
    click.echo(f"wrote {output}: {', '.join([*report.files, 'results/'])}")
