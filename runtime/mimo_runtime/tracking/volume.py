"""One structure in the slices of a volume: followed from a prompted slice in both directions, or asked for by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ImageError, PromptError
from ..imageio.reader import Source
from ..postprocessing.masks import box_of_mask
from ..preprocessing.prompts import Prompt
from ..request import AskRequest
from ..results.answer import Answer, Box
from ..series.image_series import ImageSeries
from ..series.joined import FindingJoiner
from ..series.scans import FrameAnswer, FrameFailure, SeriesAnswer
from .prompting import grown_box
from .results import is_cancelled
from .stream import open_ahead, track_frames
from .tracker import TrackableScan, Tracker, target_of

#: Slices in a row without the target after which a direction ends.
LOST_SLICES = 2
#: How far the outline of a structure moves between two slices, in mm per mm of their distance.
DRIFT = 0.35
#: A filled slice has between 1 / this and this times the mean area of its neighbours.
MAX_FILLED_RATIO = 3.0
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class SliceMask:
    """The structure in one slice, cropped: memory grows with the structure, not with the slices.

    Args:
        box: ``(x0, y0, x1, y1)`` of the crop in pixels.
        pixels: bool ``[h, w]`` of the crop.
        score, confident, phrase: of the finding.
    """

    box: tuple[int, int, int, int]
    pixels: np.ndarray
    score: float
    confident: bool
    phrase: str

    @property
    def area(self) -> int:
        """In pixels."""
        return int(np.count_nonzero(self.pixels))

    def full(self, shape: tuple[int, int]) -> np.ndarray:
        """bool ``[H, W]``."""
        x0, y0, x1, y1 = self.box
        mask = np.zeros(shape, bool)
        mask[y0:y1, x0:x1] = self.pixels
        return mask

    def overlaps(self, other: SliceMask | None) -> bool:
        """Whether a pixel lies above or below one of the other."""
        if other is None:
            return False
        x0, y0, x1, y1 = (f(a, b) for f, a, b in zip((max, max, min, min), self.box, other.box))
        if x0 >= x1 or y0 >= y1:
            return False
        a, b = (m.pixels[y0 - m.box[1] : y1 - m.box[1], x0 - m.box[0] : x1 - m.box[0]] for m in (self, other))
        return bool((a & b).any())


class VolumeSegmentation:
    """One run over a series.

    Args:
        series: the slices.
        tracker: with the prompt; ``TrackingConfig.is_local``.
        request: without text answer.
        progress: called with (slices done, slices in all).
    """

    def __init__(self, series: ImageSeries, tracker: Tracker, request: AskRequest, progress: Progress | None = None) -> None:
        self.series, self._tracker, self._request, self._progress = series, tracker, request, progress
        self._answers: dict[int, Answer] = {}
        self._masks: dict[int, SliceMask] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._failures: list[FrameFailure] = []
        self._starts = series.layout.starts
        self._cancelled = False
        self._name = ""  # of the structure that is followed, where the model knows it

    def follow(self, frame: int) -> SeriesAnswer:
        """From the prompted slice up and down."""
        started, tracker = time.perf_counter(), self._tracker
        first = tracker.step(tracker.open_scan(tracker.read(self.series[frame])), frame)
        if tracker.target is not None:
            self._name = tracker.target.name
        self._keep(frame, first.answer, first.size)
        self._cancelled, stack = first.is_cancelled, self.series.layout.stack_of(frame)
        if tracker.target is not None and not self._cancelled:
            self._follow(tracker.copy(), range(frame + 1, stack.stop))
            self._follow(tracker, range(frame - 1, stack.start - 1, -1))
            self._fill_gaps()
        return self._result(started)

    def by_name(self) -> SeriesAnswer:
        """Every slice asked by name; see :meth:`_fill_gaps` and :meth:`_drop_isolated`."""
        started, start = time.perf_counter(), 0
        while start < len(self.series) and not self._cancelled:
            start = self._ask_from(start)
        self._fill_gaps()
        self._drop_isolated()
        return self._result(started)

    def _ask_from(self, start: int) -> int:
        """Ask slices by name until one is damaged; the slice to go on with."""
        stream = open_ahead(self._slices(range(start, len(self.series))), self._open)
        try:
            for frame, scan in stream:
                answer = scan.ask_request(self._request)
                if self._stops(answer):
                    break
                self._keep(frame, answer, (scan.image.height, scan.image.width))
                start = frame + 1
        except ImageError as error:
            self._failures.append(FrameFailure(start, error.what))
            start += 1
        finally:
            stream.close()
        return start

    def _open(self, frame: Source) -> TrackableScan:
        return self._tracker.open_scan(self._tracker.read(frame))

    def _slices(self, frames: range) -> Iterator[tuple[int, Source]]:
        return ((frame, self.series[frame]) for frame in frames)

    def _follow(self, tracker: Tracker, frames: range) -> None:
        if self._cancelled:
            return
        step, lost = frames.step, 0
        stream = track_frames(tracker, self._slices(frames), extra_margin_px=lambda frame: self._drift_px(frame, frame - step))
        count = 0
        try:
            for tracked in stream:
                count += 1
                answer = tracked.answer if tracked.finding is not None else replace(tracked.answer, findings=())
                self._keep(tracked.frame, answer, tracked.size)
                lost = lost + 1 if tracked.status == "lost" else 0
                if lost >= LOST_SLICES:
                    return
        except ImageError as error:
            self._failures.append(FrameFailure(frames[count], error.what))
            return
        finally:
            stream.close()
        self._cancelled = count < len(frames)

    def _drift_px(self, frame: int, other: int) -> float:
        """How far an outline may move between two slices, in pixels; 0 where their distance is unknown."""
        places, spacing = self.series.layout.places_mm, self.series.geometry(frame).spacing_mm
        if not places or spacing is None:
            return 0.0
        return DRIFT * abs(places[frame] - places[other]) / (sum(spacing) / 2)

    def _stops(self, answer: Answer) -> bool:
        stop = self._request.should_stop
        self._cancelled = is_cancelled(answer) or (stop is not None and stop())
        return self._cancelled

    def _keep(self, frame: int, answer: Answer, size: tuple[int, int]) -> None:
        finding = target_of(answer)
        self._sizes[frame], self._answers[frame] = size, replace(answer, findings=())
        box = None if finding is None or not finding.present else box_of_mask(finding.mask)
        if finding is not None and box is not None:
            x0, y0, x1, y1 = box
            pixels = finding.mask[y0:y1, x0:x1].copy()
            self._masks[frame] = SliceMask(box, pixels, finding.score, finding.confident, self._name or finding.phrase)
        if self._progress:
            self._progress(len(self._answers), len(self.series))

    def _fill_gaps(self) -> None:
        """Ask a slice without the structure, between two with it that overlap, with the box of both."""
        for frame in range(1, len(self.series) - 1):
            below, above = self._neighbour(frame, -1), self._neighbour(frame, 1)
            if self._cancelled or frame in self._masks or frame not in self._sizes or below is None or above is None:
                continue
            if not below.overlaps(above):
                continue
            scan = self._open(self.series[frame])
            corners = [f(a, b) for f, a, b in zip((min, min, max, max), below.box, above.box)]
            union: Box = (float(corners[0]), float(corners[1]), float(corners[2]), float(corners[3]))
            box = grown_box(union, 1.0, 1.0, self._sizes[frame])
            answer = scan.ask_request(replace(self._request, prompt=Prompt(self._request.prompt.text, boxes=(box,))))
            finding = target_of(answer)
            if self._stops(answer) or finding is None:
                continue
            ratio = 2 * finding.area_px / (below.area + above.area)
            if 1 / MAX_FILLED_RATIO <= ratio <= MAX_FILLED_RATIO:
                self._keep(frame, answer, self._sizes[frame])

    def _drop_isolated(self) -> None:
        """Drop a mask that overlaps no mask of a neighbouring slice, unless it is confident."""
        isolated = [
            frame
            for frame, mask in self._masks.items()
            if not mask.confident and not any(mask.overlaps(self._neighbour(frame, step)) for step in (-1, 1))
        ]
        for frame in isolated if len(self.series) > 1 else ():
            del self._masks[frame]

    def _neighbour(self, frame: int, step: int) -> SliceMask | None:
        """The mask of the slice before (-1) or after (1), None in another stack."""
        return None if max(frame, frame + step) in self._starts else self._masks.get(frame + step)

    def _result(self, started: float) -> SeriesAnswer:
        joiner = FindingJoiner(self._starts)
        for failure in self._failures:
            joiner.skip(failure.frame)
        for frame, mask in sorted(self._masks.items()):
            joiner.add(frame, mask.phrase, mask.full(self._sizes[frame]), mask.score, mask.confident)
        answers = tuple(FrameAnswer(frame, self._answers[frame]) for frame in sorted(self._answers))
        if self._progress and not self._cancelled:
            self._progress(len(self.series), len(self.series))
        failures = tuple(sorted(self._failures, key=lambda failure: failure.frame))
        is_complete = not (self._cancelled or failures or self.series.lost)
        return SeriesAnswer(self.series, answers, joiner.findings(), is_complete, time.perf_counter() - started, failures)


def check_slice(series: ImageSeries, frame: int | None, prompt: Prompt) -> None:
    """Refuse a prompt without its slice. Raises PromptError."""
    if frame is None and prompt.has_references:
        raise PromptError("the prompt has no slice", "Name the slice of the box, points or mask as frame=")
    if frame is not None and not 0 <= frame < len(series):
        raise PromptError(f"the series has no slice {frame}", f"Use 0 to {len(series) - 1}")
