"""``mimo-run series``: a question about every frame of a series, or about one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ..errors import RequestError
from .app import print_error
from .json_output import print_json
from .options import Coordinates, Writer, check_output, identity_of, object_options, object_request, where
from .progress import progress_bar

if TYPE_CHECKING:
    from ..clinical.study import StudyResult
    from ..pipeline import Mimo
    from ..preprocessing.prompts import Prompt
    from ..series.ordering import Layout
    from ..series.scans import SeriesAnswer, SeriesScans

#: Exit code where some frames could not be read and the others are answered.
PARTIAL = 3
#: Stacks of a series that are printed.
MOST_STACKS = 8


@click.command()
@click.argument("bundle")
@click.argument("source")
@click.option("--text", help="A name or a question, asked about every frame: liver, 'What do you see?'")
@click.option("--frame", type=click.IntRange(0), help="Ask about this frame only: from 0, in the order of the positions.")
@click.option(
    "--box", "boxes", type=Coordinates("X0,Y0,X1,Y1", 4), multiple=True, help="Around the target in --frame. Repeatable."
)
@click.option(
    "--point", "points", type=Coordinates("X,Y or X,Y,LABEL", 2, 3), multiple=True,
    help="A pixel on the target in --frame; with ',0' a pixel beside it. Repeatable.",
)  # fmt: skip
@click.option("--mask", "mask_file", metavar="PNG", help="A rough mask of the target in --frame, of its size.")
@click.option("--follow", is_flag=True, help="Follow the structure of --frame through the frames before and after it.")
@click.option("--series", "chosen", help="Which series of a folder with several: its number from 1, or its UID.")
@click.option("--stack", type=click.IntRange(1), help="Which time, echo or direction of a series with several: from 1.")
@click.option("--modality", help="Of frames that do not state it, e.g. mri; ct selects the window of CT.")
@click.option("--window", type=Coordinates("C,W", 2), help="Centre and width of the window for grey values, e.g. 40,400.")
@click.option("--no-refine", is_flag=True, help="Skip the crop pass: faster, less accurate.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per engine, at most the cores.")
@where
@object_options
@click.option("-o", "--output", metavar="OUT", help="Folder for answer.json, the picture of each structure, and objects.")
@click.option("--force", is_flag=True, help="Replace OUT if an earlier answer is in it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def series(
    bundle: str,
    source: str,
    text: str | None,
    frame: int | None,
    boxes: tuple[tuple[float, ...], ...],
    points: tuple[tuple[float, ...], ...],
    mask_file: str | None,
    follow: bool,
    chosen: str | None,
    stack: int | None,
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
    """Ask about the frames of SOURCE: a folder, a zip archive, a multi-frame file or a volume.

    Findings are joined over the frames; with positions and spacing they have a volume. Frames count from 0. Exit code 3: some
    frames could not be read, the others are answered.
    """
    request = object_request(objects, output)
    question = _Question(text, frame, boxes, points, mask_file, follow, not no_refine)
    question.check()
    check_output(output, force)
    from ..pipeline import Mimo

    number: int | str | None = int(chosen) if chosen and chosen.isdecimal() and len(chosen) < 6 else chosen
    with Mimo.load(bundle, device, threads, cache_images=1, allow_fallback=allow_fallback, trust=trust) as mimo:
        scans = mimo.open_series(source, series=number, modality=modality, window=window, stack=stack)
        prompt = question.prompt(scans)
        with progress_bar(quiet=as_json) as progress:
            answer = question.ask(mimo, scans, prompt, lambda done, frames: progress("frames", done, frames))
        info = mimo.info
    from ..clinical.study import StudyResult

    def study(salt: str) -> StudyResult:
        return StudyResult.of_series(prompt, answer, identity_of(info), salt)

    result = study("")
    report = {**_summary(answer, result), "model": info["id"]}
    if output is not None:
        shown, pictures = request.json_without_words(report), request.may_show_pictures(study)
        _write(output, force, shown, result, request.writer(study), pictures)
    for note in _notes(answer):
        click.echo(f"note: {note}", err=True)
    if as_json:
        print_json(report, indent=1)
    else:
        click.echo(_text_of(answer, result, output))
    if not answer.is_complete:
        print_error(_failed(answer))
        raise click.exceptions.Exit(PARTIAL)


@dataclass(frozen=True)
class _Question:
    """The options that say what is asked."""

    text: str | None
    frame: int | None
    boxes: tuple[tuple[float, ...], ...]
    points: tuple[tuple[float, ...], ...]
    mask_file: str | None
    follow: bool
    refine: bool

    def check(self) -> None:
        """Refuse options that do not fit each other. Raises RequestError."""
        has_references = bool(self.boxes or self.points or self.mask_file)
        if self.text is not None and not self.text.strip():
            raise RequestError("--text is empty", "Give a name or a question")
        if self.text is None and not has_references:
            raise RequestError("nothing is asked", "Give --text, or --frame with --box, --point or --mask")
        if self.frame is None and has_references:
            raise RequestError("--box, --point and --mask are about one frame", "Name it with --frame")
        if self.frame is None and self.follow:
            raise RequestError("--follow without --frame", "Name the frame to start from with --frame")

    def prompt(self, scans: SeriesScans) -> Prompt:
        """Text and references. Raises ImageError where the frame or the mask cannot be read."""
        from ..imageio.masks import read_mask_file
        from ..preprocessing.prompts import Prompt

        mask = None
        if self.frame is not None:
            scans.check_frame(self.frame)
            if self.mask_file is not None:
                read = read_mask_file(self.mask_file, scans.series.frames[self.frame].index)
                mask = read.fitted(scans.series[self.frame]).inside()
        return Prompt(self.text or "", self.boxes, self.points, mask)

    def ask(self, mimo: Mimo, scans: SeriesScans, prompt: Prompt, progress: Callable[[int, int], None]) -> SeriesAnswer:
        """The answer about all frames, about one, or about the frames that the structure reaches."""
        from ..request import AskRequest

        if self.follow:
            return mimo.segment_volume(
                scans, prompt.text, frame=self.frame, boxes=prompt.boxes, points=prompt.points, mask=prompt.mask,
                refine=self.refine, progress=progress,
            )  # fmt: skip
        request = AskRequest.of(prompt.text, prompt.boxes, prompt.points, prompt.mask, refine=self.refine)
        return scans.ask_request(request, progress, None if self.frame is None else [self.frame])


def _summary(answer: SeriesAnswer, result: StudyResult) -> dict[str, object]:
    """For JSON; docs/reference/json.md, ``series``."""
    findings = []
    for finding, structure in zip(answer.findings, result.structures):
        volume = answer.volume_ml(finding)
        findings.append({
            "phrase": finding.phrase, "tracking_id": structure.tracking_id, "frames": list(finding.frames),
            "score": round(finding.score, 6), "confident": finding.confident, "pixels": sum(finding.areas_px().values()),
            "volume_ml": None if volume is None else round(volume, 4),
        })  # fmt: skip
    frames = [
        {"frame": f.frame, "text": f.answer.text, "refusal": f.answer.refusal.to_dict() if f.answer.refusal else None,
         "warnings": list(f.answer.warnings)}
        for f in answer.frames
    ]  # fmt: skip
    layout = answer.series.layout
    return {
        "frames": frames, "failures": [vars(failure) for failure in answer.failures], "is_complete": answer.is_complete,
        "findings": findings, "is_regular": layout.is_regular, "problem": layout.problem, "distance_mm": layout.distance_mm,
        "stacks": _stacks(layout), "seconds": round(answer.seconds, 3),
    }  # fmt: skip


def _stacks(layout: Layout) -> list[dict[str, object]]:
    return [
        {"first": stack.start, "last": stack.stop - 1, "label": stack.label, "problem": stack.problem,
         "has_volume": stack.has_volume, "distance_mm": stack.distance_mm}
        for stack in layout.stacks
    ]  # fmt: skip


def _notes(answer: SeriesAnswer) -> Iterator[str]:
    """What a person has to know, each once."""
    layout = answer.series.layout
    yield from answer.series.notes
    if layout.problem:
        yield f"no regular volume: {layout.problem}"
    for stack in layout.stacks[:MOST_STACKS] if len(layout.stacks) > 1 else ():
        problem = f", {stack.problem}" if stack.problem else ""
        yield f"frames {stack.start} to {stack.stop - 1}: {stack.label}{problem}"
    if len(layout.stacks) > MOST_STACKS:
        yield f"{len(layout.stacks) - MOST_STACKS} more stacks: see stacks of --json"
    frames: dict[str, list[int]] = {}
    for one in answer.frames:
        for warning in one.answer.warnings:
            frames.setdefault(warning, []).append(one.frame)
    for warning, of in frames.items():
        yield warning if len(answer.frames) == 1 else f"{warning} ({len(of)} of {len(answer.frames)} frames, first {of[0]})"


def _text_of(answer: SeriesAnswer, result: StudyResult, output: str | None) -> str:
    """For a person. Structures have the names and the order of the report and of the objects."""
    counted = f"{len(answer.frames)} frame{'' if len(answer.frames) == 1 else 's'}"
    lines = [f"{counted} in {answer.seconds:.1f} s"]
    if answer.asked is not None:
        lines += [f.answer.plain_text for f in answer.frames if f.answer.text]
    for finding, structure in zip(answer.findings, result.structures):
        first, last, volume = finding.frames[0], finding.frames[-1], answer.volume_ml(finding)
        frames = f"frame {first}" if first == last else f"frames {first} to {last}"
        size = "" if volume is None else f", {volume:.2f} mL"
        uncertain = "" if finding.confident else ", uncertain"
        lines.append(f"{structure.tracking_id}: {frames}{size}, score {finding.score:.2f}{uncertain}")
    if not answer.findings:
        refusals = [frame.answer.plain_text for frame in answer.frames if frame.answer.refusal is not None]
        lines.append(refusals[0] if refusals else "no finding")
    return "\n".join([*lines, *([f"written to {output}"] if output else [])])


def _failed(answer: SeriesAnswer) -> str:
    from ..clinical.study import counted_frames

    remedy = "The others are answered. Export these again."
    if not answer.failures:
        lost = answer.series.lost
        return f"error: {lost} damaged file{' was' if lost == 1 else 's were'} left out. {remedy}"
    frames = counted_frames([failure.frame for failure in answer.failures]).lower()
    return f"error: {frames} of {len(answer.series)} could not be read: {answer.failures[0].reason}. {remedy}"


def _write(
    output: str, force: bool, report: Mapping[str, object], result: StudyResult, also: Writer | None, pictures: bool
) -> None:
    from ..clinical.pictures import draw_frame
    from ..results.folder import ANSWER, slug
    from ..utils.atomic import atomic_folder

    with atomic_folder(output, force, ANSWER) as target:
        for number, structure in enumerate(result.structures if pictures else ()):
            frame = structure.largest_frame
            picture = draw_frame(result, frame, result.images[frame])
            picture.save(target / f"{number:02d}_{slug(structure.tracking_id)}_frame_{frame:04d}.png")
        if also is not None:
            also(target)
        (target / ANSWER).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
