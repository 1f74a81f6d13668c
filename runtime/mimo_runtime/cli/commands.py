"""``mimo-run``: answer about an image, compile and verify a bundle on this machine, find out what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import PromptError, RequestError, VerificationError
from ..utils.tables import table
from ..utils.untyped import Untyped
from .app import Commands, Option, print_error
from .batch import batch
from .compare import compare
from .json_output import print_json
from .mercure import mercure
from .node import node
from .options import (
    Coordinates,
    ObjectRequest,
    TileSize,
    check_output,
    object_options,
    object_request,
    study_of,
    trust_option,
    where,
)
from .progress import progress_bar
from .series import series
from .serve import serve
from .track import track

if TYPE_CHECKING:
    from ..clinical.study import StudyResult
    from ..deploy.prepare import PrepareReport
    from ..deploy.verify import VerifyReport
    from ..imageio.image import ScanImage
    from ..pipeline import ModelInfo
    from ..preprocessing.prompts import Prompt
    from ..results.answer import Answer
    from ..results.described import ImageJson


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mimo-edge", prog_name="mimo-run")
def main() -> None:
    """Run a mimo bundle on this machine.

    Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 3 a part of the work failed (series, batch).
    """


main.add_command(series)
main.add_command(track)
main.add_command(compare)
main.add_command(serve)
main.add_command(node)
main.add_command(mercure)
main.add_command(batch)


@main.command()
@click.argument("bundle")
@click.argument("image")
@click.option("--text", help="A name or a question: polyp, 'Where is the polyp?', 'What do you see?'")
@click.option(
    "--box",
    "boxes",
    type=Coordinates("X0,Y0,X1,Y1", 4),
    multiple=True,
    help="Around the target, in pixels. Repeatable.",
)
@click.option(
    "--point",
    "points",
    type=Coordinates("X,Y or X,Y,LABEL", 2, 3),
    multiple=True,
    help="A pixel on the target; with ',0' a pixel beside it. Repeatable.",
)
@click.option("--mask", "mask_file", metavar="PNG", help="A rough mask of the target, of the size of the image.")
@click.option("--frame", type=click.IntRange(0), default=0, help="Frame of a multi-frame file, or slice of a volume.")
@click.option("--modality", help="Of an image that does not state it, e.g. mri; ct selects the model's window of CT.")
@click.option(
    "--window", type=Coordinates("C,W", 2), help="Centre and width for grey values, instead of the model's window: 40,400."
)
@click.option("--masks/--no-masks", default=True, help="Draw masks.")
@click.option("--answer/--no-answer", "text_answer", default=True, help="Write a text.")
@click.option(
    "--no-refine",
    cls=Option,
    earlier=("--no-closer",),
    is_flag=True,
    help="Skip the crop pass and the disambiguation of points: faster, less accurate.",
)
@click.option(
    "--tiles",
    type=TileSize(),
    metavar="SIZE",
    help="Ask about overlapping tiles of a large image, too: auto, a side in pixels, or SIDE,OVERLAP. For a name alone.",
)
@click.option("--temperature", type=float, help="0, the default: the most probable text. Above: sampled.")
@click.option("--top-k", type=int, help="Sample among the K most probable tokens.")
@click.option("--top-p", type=float, help="Sample among the most probable tokens that sum to P.")
@click.option("--seed", type=int, help="Of the sampling.")
@click.option("--max-tokens", type=int, help="Longest text.")
@click.option("--any-domain", is_flag=True, default=None, help="Name structures in an image unlike those of the training, too.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per engine, at most the cores.")
@where
@object_options
@click.option(
    "-o", "--output", metavar="OUT", help="Folder for answer.json, overlay.png, panel.png, PNGs of masks and contours."
)
@click.option("--force", is_flag=True, help="Replace OUT if an earlier answer is in it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def predict(
    bundle: str,
    image: str,
    text: str | None,
    boxes: tuple[tuple[float, ...], ...],
    points: tuple[tuple[float, ...], ...],
    mask_file: str | None,
    frame: int,
    modality: str | None,
    window: tuple[float, float] | None,
    masks: bool,
    text_answer: bool,
    no_refine: bool,
    threads: int | None,
    device: str,
    allow_fallback: bool,
    trust: str | None,
    output: str | None,
    force: bool,
    as_json: bool,
    **writing: Untyped,
) -> None:
    """Ask about IMAGE (PNG, JPEG, TIFF, DICOM, NIfTI ...).

    Coordinates are pixels of the image, origin top left, x right, y down.
    """
    _check_text(text)
    objects = object_request(writing, output)
    options = {name: value for name, value in writing.items() if value is not None}
    _refuse_idle_options(options, masks, text_answer, no_refine)
    check_output(output, force)
    from ..bundle.archive import Bundle
    from ..imageio.masks import read_mask_file
    from ..imageio.reader import read_image
    from ..pipeline import Mimo
    from ..preprocessing.prompts import Prompt
    from ..request import AskRequest

    opened = Bundle.open(bundle, this_machine=not allow_fallback, trust=trust)
    picture = read_image(image, frame=frame, modality=modality, window=window, windows=opened.windows)
    mask = None if mask_file is None else read_mask_file(mask_file, frame).fitted(picture)
    prompt = Prompt(text or "", boxes, points, None if mask is None else mask.inside())
    request = AskRequest.of(
        prompt.text, prompt.boxes, prompt.points, prompt.mask,
        masks=masks, text_answer=text_answer, refine=not no_refine, **options,
    )  # fmt: skip
    request.validate(picture.height, picture.width, opened.config)  # before engines are created
    with Mimo.load(opened, device, threads, cache_images=0, allow_fallback=allow_fallback) as mimo:
        answer = mimo.open(picture, modality=modality).ask_request(request)
        if mask is not None:
            answer = replace(answer, warnings=(*(f"--mask: {note}" for note in mask.notes), *answer.warnings))
        report = {"model": mimo.info["id"], "image": _described(picture), "device": _device(mimo.info)}
    files = _write(output, force, picture, prompt, answer, report, objects, mimo.info) if output is not None else {}
    click.echo("".join(f"note: {warning}\n" for warning in answer.warnings), err=True, nl=False)
    if as_json:
        print_json({**answer.to_dict(files), **report}, indent=1)
    else:
        click.echo(_summary(answer, files, output))


@main.command()
@click.argument("bundle")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per engine, at most the cores.")
@where
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def verify(bundle: str, threads: int | None, device: str, allow_fallback: bool, trust: str | None, as_json: bool) -> None:
    """Run the golden samples of BUNDLE: does this machine compute what the exporter computed?"""
    from ..bundle.archive import Bundle
    from ..deploy.verify import verify as run_verify
    from ..pipeline import Mimo

    opened = Bundle.open(bundle, this_machine=not allow_fallback, trust=trust)
    with Mimo.load(opened, device, threads, allow_fallback=allow_fallback) as mimo:
        report, info = run_verify(mimo, opened, trusted=trust is not None), mimo.info
    if as_json:
        print_json({**report, "device": _device(info), "fallback": info["fallback"]}, indent=1)
    else:
        click.echo(_verified(report, info["device_explanation"]))
    failed = [sample["sample"] for sample in report["samples"] if not sample["passed"]]
    if failed:
        message = f"{len(failed)} of {len(report['samples'])} golden samples differ, first {failed[0]}"
        raise VerificationError(message, f"Run mimo-run doctor {bundle}, and build the bundle again for this machine")


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PREPARED",
    help="Folder, or file ending in .mimo.",
)
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Remember measured kernel times here (TensorRT): the next run is faster.",
)
@click.option("--force", is_flag=True, help="Replace an earlier bundle at PREPARED.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def prepare(bundle: Path, output: Path, timing_cache: Path | None, force: bool, trust: str | None, as_json: bool) -> None:
    """Compile a BUNDLE for this machine, and verify it.

    Of a portable bundle (TensorRT) all graphs are compiled; it is verified if a GPU is here. Of a bundle for the CPU those on
    OpenVINO are compiled: loading it is faster and takes less memory. Needs only the engine: no PyTorch, no onnx.
    """
    from ..deploy.prepare import prepare as run_prepare

    with progress_bar(quiet=as_json) as progress:
        prepared = run_prepare(
            bundle, output, force=force, timing_cache=timing_cache, trust=trust, progress=progress,
            announce=lambda line: None if as_json else click.echo(line, err=True),
        )  # fmt: skip
    message = prepared.report
    if as_json:
        print_json(message, indent=1)
        return
    click.echo(_prepared(message))


@main.command()
@click.argument("bundle", required=False)
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
@click.pass_context
def doctor(context: click.Context, bundle: str | None, trust: str | None, as_json: bool) -> None:
    """What is here, what is missing, what to install; with BUNDLE, also whether it runs here."""
    from ..deploy.doctor import examine, healthy, to_dict, verdict

    if trust is not None and bundle is None:
        raise RequestError("--trust has no effect without BUNDLE", "Name a bundle, or leave --trust out")
    if bundle is not None and not Path(bundle).exists():
        raise RequestError(f"bundle {bundle} does not exist", "Check the path, or leave it out to examine this machine only")
    checks = examine(bundle, trust=trust)
    if as_json:
        print_json(to_dict(checks), indent=1)
    else:
        marks = {"ok": "ok", "missing": "--", "broken": "!!"}
        click.echo(table([(marks[c.state], c.name, c.detail + (f" -> {c.remedy}" if c.remedy else "")) for c in checks]))
        click.echo(verdict(checks))
    if not healthy(checks):
        first = next(check for check in checks if check.state == "broken")
        print_error(f"error: {first.name}: {first.detail}. {first.remedy}.")
        context.exit(1)


def _device(info: ModelInfo) -> dict[str, str]:
    """Where a model runs, for JSON."""
    return {"name": info["device"], "explanation": info["device_explanation"]}


def _described(image: ScanImage) -> ImageJson:
    """What is known of an image, for JSON."""
    from ..results.described import described

    return described(image)


def _check_text(text: str | None) -> None:
    """Refuse an empty ``--text``, which would ask without a name."""
    if text is not None and not text.strip():
        raise PromptError("--text is empty", "Give a name or a question, or leave --text out")


def _refuse_idle_options(writing: Mapping[str, object], masks: bool, text_answer: bool, no_refine: bool) -> None:
    """An option that would change nothing is a misunderstanding: say so instead of ignoring it."""
    options = {name: "--" + name.replace("_", "-") for name in writing if name not in ("any_domain", "tiles")}
    if not (masks or text_answer):
        raise RequestError("--no-masks and --no-answer leave nothing to do", "Leave one of them out")
    if no_refine and not masks:
        raise RequestError("--no-refine has no effect with --no-masks", "Leave one of them out")
    if no_refine and "tiles" in writing:
        raise RequestError("--no-refine has no effect with --tiles", "Leave one of them out")
    if not text_answer and options:
        raise RequestError(f"{next(iter(options.values()))} has no effect with --no-answer", "Leave one of them out")
    sampling = [options[name] for name in ("top_k", "top_p", "seed") if name in options]
    if sampling and not writing.get("temperature"):
        raise RequestError(f"{sampling[0]} has no effect at temperature 0", "Add --temperature, e.g. 0.7")


def _write(
    output: str,
    force: bool,
    picture: ScanImage,
    prompt: Prompt,
    answer: Answer,
    report: Mapping[str, object],
    objects: ObjectRequest,
    info: ModelInfo,
) -> dict[int, str]:
    """The result folder, with clinical objects where they are asked for; returns the mask files."""
    from ..results.folder import write_result

    def study(salt: str) -> StudyResult:
        return study_of(picture, prompt, answer, info, salt)

    shown, pictures = objects.without_words(prompt, answer), objects.may_show_pictures(study)
    return write_result(output, force, picture.pixels, *shown, report, objects.writer(study), pictures=pictures)


def _summary(answer: Answer, files: dict[int, str], output: str | None) -> str:
    lines = [answer.plain_text] if answer.finish_reason else []
    if answer.finish_reason not in ("stop", None) and answer.text == answer.generated:
        lines.append(f"(the text ended early: {answer.finish_reason})")
    if answer.findings:
        rows = [("finding", "there", "score", "presence", "pixels", "box x0,y0,x1,y1")]
        for finding in answer.findings:
            box = ",".join(f"{v:g}" for v in finding.box) if finding.box else "-"
            absent = "not excluded" if finding.excluded is False else "no"
            there = ("yes" if finding.confident else "yes, uncertain") if finding.present else absent
            rows.append((finding.phrase, there, f"{finding.score:.2f}", f"{finding.presence:.2f}", f"{finding.area_px:,}", box))
        lines.append(table(rows))
        few = sorted({finding.phrase for finding in answer.findings if finding.calibrated is False})
        lines += [f"(no contours of {', '.join(few)}: too few calibration cases)"] if few else []
    elif not answer.finish_reason:
        lines.append("nothing found" if answer.refusal is None else f"(not answered: {answer.refusal.reason})")
    engines = ", ".join(sorted(set(answer.engines.values())))
    lines.append("  ".join(f"{stage} {ms:.0f} ms" for stage, ms in answer.timings.items()) + f"  ({engines})")
    if answer.fallback:
        lines.insert(-1, f"(not as it was built: {answer.fallback})")
    if output is not None:
        objects = ["objects/"] if (Path(output) / "objects").is_dir() else []
        pictures = [name for name in ("overlay.png", "panel.png") if (Path(output) / name).is_file()]
        names = ", ".join(["answer.json", *pictures, *files.values(), *objects])
        lines.append(f"wrote {Path(output)}/: {names}")
    return "\n".join(lines)


def _prepared(report: PrepareReport) -> str:
    rows = [("graph", "delivered", "MB", "seconds")]
    for name, graph in report["graphs"].items():
        counts = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in graph["delivered"].items() if n)
        rows.append((name, counts or "nothing", f"{graph['bytes'] / 1e6:.2f}", f"{graph['seconds']:.1f}"))
    lines = [table(rows), _compiled_by(report)]
    if report["verified"]:
        lines.append(f"all {len(report['verified']['samples'])} golden samples passed")
    else:
        lines.append(f"{report['not_verified']}; next, where there is a GPU: mimo-run verify {report['bundle']}")
    return "\n".join([*lines, f"wrote {report['bundle']} in {report['seconds']:.0f} s"])


def _compiled_by(report: PrepareReport) -> str:
    compiler = "openvino" if report["processor"] else report["target"]
    return f"compiled by {compiler} {report['built_with']} for {report['processor'] or report['compute_capability']}"


def _verified(report: VerifyReport, explanation: str) -> str:
    rows = [("sample", "", "mask Dice", "score diff", "text", "ms")]
    for s in report["samples"]:
        same = "same" if s["text_same"] else "differs"
        passed = "passed" if s["passed"] else "FAILED"
        rows.append((s["sample"], passed, f"{s['mask_dice']:.4f}", f"{s['score_difference']:.4f}", same, f"{s['ms']:.0f}"))
    lines = [table(rows)]
    lines += [f"  {s['sample']}: {problem}" for s in report["samples"] for problem in s["problems"]]
    lines.append(explanation)
    if report["passed"]:
        lines.append(f"all {len(report['samples'])} golden samples passed")
        lines.append(f"signature: {report['signature']}")
    return "\n".join(lines)
