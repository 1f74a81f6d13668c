"""``mimo-run track``: one target over the frames of a video."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from ..errors import RequestError
from .json_output import print_json
from .options import Coordinates, Writer, check_output, identity_of, object_options, object_request, where
from .progress import progress_bar

if TYPE_CHECKING:
    from ..clinical.study import ModelIdentity, StudyResult
    from ..imageio.image import ScanImage
    from ..pipeline import Mimo
    from ..preprocessing.prompts import Prompt
    from ..series.image_series import ImageSeries
    from ..tracking.clip import Clip
    from ..tracking.overlay import OverlayVideo
    from ..tracking.setup import TrackingOptions
    from ..utils.progress import Progress
    from ..video.reader import Video


@click.command()
@click.argument("bundle")
@click.argument("source")
@click.option("--text", help="The name of the target: polyp. It finds a lost target again.")
@click.option(
    "--frame", type=click.IntRange(0), default=0, help="Frame of the prompt, from 0; the target is followed from there."
)
@click.option("--box", "boxes", type=Coordinates("X0,Y0,X1,Y1", 4), multiple=True, help="Around the target in --frame.")
@click.option(
    "--point", "points", type=Coordinates("X,Y or X,Y,LABEL", 2, 3), multiple=True,
    help="A pixel on the target in --frame; with ',0' a pixel beside it. Repeatable.",
)  # fmt: skip
@click.option("--mask", "mask_file", metavar="PNG", help="A rough mask of the target in --frame, of its size.")
@click.option("--refine", is_flag=True, help="Add the crop pass to every frame: better for small targets, half as fast.")
@click.option("--any-domain", is_flag=True, help="Track in images unlike those of the training, too, by a name.")
@click.option("--modality", help="Of frames that do not state it, e.g. ultrasound.")
@click.option("--window", type=Coordinates("C,W", 2), help="Centre and width of the window for grey values, e.g. 40,400.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per engine.")
@where
@object_options
@click.option("-o", "--output", metavar="OUT", help="Folder for answer.json, the mask of every frame, and objects.")
@click.option("--overlay", metavar="FILE", help="Also write a video of the frames with the mask: .mp4, .mov or .mkv.")
@click.option("--force", is_flag=True, help="Replace OUT if an earlier answer is in it, and the file of --overlay.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def track(
    bundle: str,
    source: str,
    text: str | None,
    frame: int,
    boxes: tuple[tuple[float, ...], ...],
    points: tuple[tuple[float, ...], ...],
    mask_file: str | None,
    refine: bool,
    any_domain: bool,
    modality: str | None,
    window: tuple[float, float] | None,
    threads: int | None,
    device: str,
    allow_fallback: bool,
    trust: str | None,
    output: str | None,
    overlay: str | None,
    force: bool,
    as_json: bool,
    **objects: object,
) -> None:
    """Follow one target over the frames of SOURCE: a video, a multi-frame file (DICOM, TIFF, GIF) or a folder of images.

    Videos (MP4, MOV, MKV, WebM, AVI, MPEG, WMV) need the extra video. The slices of a volume are followed by mimo-run series
    --follow.
    """
    request = object_request(objects, output)
    _check_prompt(text, bool(boxes or points or mask_file))
    _check_outputs(source, output, overlay, force, bool(request.formats))
    from ..pipeline import Mimo

    with Mimo.load(bundle, device, threads, cache_images=0, allow_fallback=allow_fallback, trust=trust) as mimo:
        frames = _open(mimo, source, modality, window)
        prompt = _prompt(frames, frame, text, boxes, points, mask_file)
        options: TrackingOptions = {"refine": refine, "any_domain": any_domain, "modality": modality}
        started = time.perf_counter()
        with progress_bar(quiet=as_json) as progress, _overlay(overlay, text) as drawn:
            clip = _track(mimo, frames, frame, prompt, options, drawn, progress)
        seconds = time.perf_counter() - started
        info = mimo.info

    def study(salt: str) -> StudyResult:
        return _study(frames, clip, prompt, salt, identity_of(info))

    report = {**_summary(clip, seconds), "model": info["id"], "overlay": None if drawn is None else drawn.encoder.codec}
    if output is not None:
        _write(output, force, request.json_without_words(report), clip, request.writer(study))
    if as_json:
        print_json(report, indent=1)
    else:
        click.echo(_text_of(clip, seconds, output, drawn))


def _check_prompt(text: str | None, has_references: bool) -> None:
    if text is not None and not text.strip():
        raise RequestError("--text is empty", "Name the target, or leave --text out")
    if text is None and not has_references:
        raise RequestError("nothing says what to track", "Give --box, --point, --mask or --text")


def _check_outputs(source: str, output: str | None, overlay: str | None, force: bool, has_objects: bool) -> None:
    """Refuse what cannot be written before the model is loaded. Raises RequestError."""
    from ..video.containers import is_video

    check_output(output, force and (output is not None or overlay is None))
    if overlay is not None:
        from ..video.writer import check_video_output

        check_video_output(overlay, force)
    if has_objects and is_video(source):
        raise RequestError("--write: objects refer to image files, and SOURCE is a video", "Leave --write out")


def _open(mimo: Mimo, source: str, modality: str | None, window: tuple[float, float] | None) -> ImageSeries | Video:
    """Raises ImageError, and RequestError for a window of a video."""
    from ..video.containers import is_video

    if not is_video(source):
        return mimo.open_series(source, modality=modality, window=window).series
    if window is not None:
        raise RequestError("--window is for grey values, and SOURCE is a video", "Leave it out")
    return mimo.open_video(source)


def _prompt(
    frames: ImageSeries | Video,
    frame: int,
    text: str | None,
    boxes: tuple[tuple[float, ...], ...],
    points: tuple[tuple[float, ...], ...],
    mask_file: str | None,
) -> Prompt:
    """Raises RequestError for a frame that does not exist, ImageError where it or the mask cannot be read."""
    from ..imageio.masks import read_mask_file
    from ..preprocessing.prompts import Prompt
    from ..series.image_series import ImageSeries

    index = 0
    if isinstance(frames, ImageSeries):
        if frame >= len(frames):
            raise RequestError(f"there is no frame {frame}", f"Use 0 to {len(frames) - 1}")
        index = frames.frames[frame].index
    mask = None
    if mask_file is not None:
        mask = read_mask_file(mask_file, index).fitted(next(iter(frames[frame:]))).inside()
    return Prompt(text or "", boxes, points, mask)


@contextlib.contextmanager
def _overlay(path: str | None, text: str | None) -> Iterator[OverlayVideo | None]:
    """The video of ``--overlay``, if there is to be one."""
    if path is None:
        yield None
        return
    from ..tracking.overlay import overlay_video

    with overlay_video(path, text or "target") as video:
        yield video


def _track(
    mimo: Mimo,
    frames: ImageSeries | Video,
    frame: int,
    prompt: Prompt,
    options: TrackingOptions,
    overlay: OverlayVideo | None,
    progress: Progress,
) -> Clip:
    from ..series.image_series import ImageSeries
    from ..tracking.clip import Clip

    clip, part = Clip(frame, prompt.text or "target"), frames[frame:]
    total = len(part) if isinstance(part, ImageSeries) else (part.stated_frames or 0) - frame
    options = {**options, "boxes": prompt.boxes, "points": prompt.points, "mask": prompt.mask}
    images: dict[int, ScanImage] = {}
    for tracked in mimo.track(_kept(part, images), prompt.text, **options):
        clip.add(tracked)
        image = images.pop(tracked.frame)
        if overlay is not None:
            overlay.add(tracked, image)
        if total > 0:
            progress("frames", len(clip.frames), max(total, len(clip.frames)))
    return clip


def _kept(frames: ImageSeries | Video, images: dict[int, ScanImage]) -> Iterator[ScanImage]:
    """The frames; each is in ``images`` by its place until it is taken out."""
    for number, image in enumerate(frames):
        images[number] = image
        yield image


def _study(frames: ImageSeries | Video, clip: Clip, prompt: Prompt, salt: str, model: ModelIdentity) -> StudyResult:
    """The target as one structure of the frames."""
    from ..clinical.study import StudyResult
    from ..series.image_series import ImageSeries
    from ..series.scans import SeriesAnswer

    assert isinstance(frames, ImageSeries)  # _check_outputs refuses videos
    finding = clip.finding()
    answer = SeriesAnswer(frames, (), () if finding is None else (finding,), asked=tuple(f.frame for f in clip.frames))
    return StudyResult.of_series(prompt, answer, model, salt)


def _summary(clip: Clip, seconds: float) -> dict[str, object]:
    """For JSON; docs/reference/json.md, ``track`` of ``mimo-run``."""
    frames = [
        {
            "frame": f.frame, "time_s": f.time_s, "status": f.status, "reason": f.reason, "score": round(f.score, 6),
            "similarity": None if f.similarity is None else round(f.similarity, 6),
            "box": None if f.box is None else list(f.box), "pixels": f.pixels,
            "mask": _mask_name(f.frame) if f.pixels else None,
        }
        for f in clip.frames
    ]  # fmt: skip
    return {
        "frames": frames, "tracked": clip.count("tracked"), "lost": clip.count("lost"),
        "found_again": clip.count("found again"), "seconds": round(seconds, 3),
        "frames_per_s": round(len(frames) / max(seconds, 1e-9), 2),
    }  # fmt: skip


def _mask_name(frame: int) -> str:
    return f"masks/{frame:05d}.png"


def _text_of(clip: Clip, seconds: float, output: str | None, overlay: OverlayVideo | None) -> str:
    """For a person."""
    lines = [f"{len(clip.frames)} frames in {seconds:.1f} s ({len(clip.frames) / max(seconds, 1e-9):.1f} frames/s)"]
    for first, last, status, reason in clip.runs():
        frames = f"frame {first}" if first == last else f"frames {first} to {last}"
        lines.append(f"{frames}: {status}{f', {reason}' if reason else ''}")
    lines += [f"written to {output}"] if output else []
    lines += [f"overlay in {overlay.encoder.codec} ({overlay.encoder.name})"] if overlay else []
    return "\n".join(lines)


def _write(output: str, force: bool, report: Mapping[str, object], clip: Clip, also: Writer | None) -> None:
    from ..imageio.png import write_png
    from ..results.folder import ANSWER
    from ..utils.atomic import atomic_folder

    finding = clip.finding()
    with atomic_folder(output, force, ANSWER) as target:
        (target / "masks").mkdir()
        for frame in () if finding is None else finding.frames:
            assert finding is not None
            write_png(target / _mask_name(frame), finding.mask(frame, *clip.size))
        if also is not None:
            also(target)
        (target / ANSWER).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
