"""Questions about a series: an answer for every frame, and findings joined over the frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from ..errors import CancelledError, ImageError
from ..imageio.image import ScanImage
from ..request import AskRequest, takes_arguments_of
from ..results.answer import Answer, Finding
from ..utils.arguments import is_whole
from ..utils.cancellation import CANCELLED, DEADLINE, check_stopping
from ..utils.messages import shown
from .image_series import ImageSeries
from .joined import FindingJoiner, JoinedFinding

#: Finish reasons of answers that are not complete.
STOPPED = (CANCELLED, DEADLINE)


class OpensScan(Protocol):
    """``Mimo.open``: encodes an image."""

    def __call__(
        self, image: ScanImage, /, *, should_stop: Callable[[], bool] | None = None, deadline: float | None = None
    ) -> Askable: ...


class Askable(Protocol):
    """An encoded image; ``scan.Scan`` is one."""

    image: ScanImage

    def ask_request(self, request: AskRequest) -> Answer:
        """The answer to a typed request."""


@dataclass(frozen=True)
class FrameAnswer:
    """What was answered about one frame; its findings are in ``SeriesAnswer.findings``.

    Args:
        frame: of the series, from 0.
        answer: without findings.
    """

    frame: int
    answer: Answer


@dataclass(frozen=True)
class FrameFailure:
    """A frame that could not be read.

    Args:
        frame: of the series, from 0; ``ImageSeries.frames`` has its file.
        reason: in one line, without name or path of the file.
    """

    frame: int
    reason: str


@dataclass(frozen=True, eq=False)
class SeriesAnswer:
    """The answer about a series.

    Args:
        series: that was asked.
        frames: the answers in order of the frames; fewer than were asked about if it was stopped.
        findings: joined over the frames; see ``joined.JoinedFinding``.
        is_complete: False if it was stopped, if a frame could not be read, or if damaged files were left out of the series.
        seconds: in all.
        failures: frames that could not be read.
        asked: the frames that were asked about; None is all.
    """

    series: ImageSeries
    frames: tuple[FrameAnswer, ...]
    findings: tuple[JoinedFinding, ...]
    is_complete: bool = True
    seconds: float = field(default=0.0, compare=False)
    failures: tuple[FrameFailure, ...] = ()
    asked: tuple[int, ...] | None = None

    def extents_mm(self) -> tuple[float, ...]:
        """What each frame stands for along the normal, see ``ordering.Layout``: 0 in a stack with a frame that was not read."""
        extents = list(self.series.layout.extents_mm())
        for failure in self.failures if extents else ():
            stack = self.series.layout.stack_of(failure.frame)
            extents[stack.start : stack.stop] = [0.0] * (stack.stop - stack.start)
        return tuple(extents) if any(extents) else ()

    def volume_ml(self, finding: JoinedFinding) -> float | None:
        """Millilitres of a finding: the areas of its slices times the distance that each stands for along the normal.

        None where positions or spacing are unknown, in a stack with a missing, repeated, unread or shifted frame, and where
        only some frames were asked about.
        """
        extents = self.extents_mm()
        if not extents or self.asked is not None:
            return None
        total = 0.0
        for frame, pixels in finding.areas_px().items():
            geometry = self.series.geometry(frame)
            if geometry.spacing_mm is None or geometry.plane != "patient" or not extents[frame]:
                return None
            total += pixels * geometry.spacing_mm[0] * geometry.spacing_mm[1] * extents[frame]
        return total / 1000


class SeriesScans:
    """The frames of a series, opened one after the other. Made by ``Mimo.open_series``.

    ``scans[7].ask(boxes=[...])`` is the answer about one frame, as of ``Mimo.open``.

    Args:
        series: the frames.
        open_scan: encodes one.
    """

    def __init__(self, series: ImageSeries, open_scan: OpensScan) -> None:
        self.series = series
        self._open = open_scan

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, index: int) -> Askable:
        """One frame, read and encoded now."""
        return self._open(self.series[index])

    def __iter__(self) -> Iterator[Askable]:
        return (self[index] for index in range(len(self)))

    @takes_arguments_of(AskRequest.of)
    def ask(self, request: AskRequest) -> SeriesAnswer:
        """The same question to every frame, and findings joined over the frames.

        ``should_stop`` and ``deadline`` end it; the answer then has the frames that are complete. A damaged frame is one of
        ``SeriesAnswer.failures``, and the others are answered. Arguments of ``AskRequest.of``, errors of ``Scan.ask``.
        """
        return self.ask_request(request)

    def ask_request(
        self,
        request: AskRequest,
        progress: Callable[[int, int], None] | None = None,
        frames: Sequence[int] | None = None,
    ) -> SeriesAnswer:
        """As :meth:`ask`, for a typed request.

        Args:
            progress: called with (frames done, frames in all).
            frames: to ask about, from 0; None: all. A box, point or mask is in pixels of each of them.

        Raises:
            ImageError: the series has no such frame, or none of its frames can be read.
        """
        started, joiner = time.perf_counter(), FindingJoiner(self.series.layout.starts)
        answers, failures, wanted = list[FrameAnswer](), list[FrameFailure](), self._frames(frames)
        check_stopping(request.should_stop, request.deadline)
        is_stopped = False
        for done, frame in enumerate(wanted, 1):
            try:
                answer = self._answer(frame, request)
            except ImageError as error:
                if len(wanted) == 1:
                    raise
                failures.append(FrameFailure(frame, error.what))
                joiner.skip(frame)
            else:
                if is_stopped := answer is None:
                    break
                assert answer is not None
                for finding in _by_phrase(answer):
                    joiner.add(frame, *finding)
                answers.append(FrameAnswer(frame, replace(answer, findings=())))
            if progress:
                progress(done, len(wanted))
        if failures and not answers and not is_stopped:
            raise ImageError(f"none of the {len(wanted)} frames can be read: {failures[0].reason}", "Export the series again")
        return SeriesAnswer(
            self.series, tuple(answers), joiner.findings(), not (is_stopped or failures or frames is None and self.series.lost),
            time.perf_counter() - started,
            tuple(failures), None if frames is None else tuple(wanted),
        )  # fmt: skip

    def check_frame(self, frame: int) -> None:
        """Raises ImageError where the series has no such frame."""
        if not is_whole(frame) or not 0 <= frame < len(self):
            raise ImageError(f"the series has no frame {shown(frame)}", f"Use 0 to {len(self) - 1}")

    def _frames(self, frames: Sequence[int] | None) -> Sequence[int]:
        """The frames to ask about, rising. Raises ImageError for one that is not there."""
        if frames is None:
            return range(len(self))
        for frame in frames:
            self.check_frame(frame)
        return sorted({int(frame) for frame in frames})

    def _answer(self, frame: int, request: AskRequest) -> Answer | None:
        """The answer about a frame; None if it was stopped. Raises ImageError where the frame cannot be read."""
        try:
            scan = self._open(self.series[frame], should_stop=request.should_stop, deadline=request.deadline)
            answer = scan.ask_request(request)
        except CancelledError:
            return None
        is_stopped = answer.finish_reason in STOPPED or request.should_stop is not None and request.should_stop()
        return None if is_stopped else answer


def _by_phrase(answer: Answer) -> Iterator[tuple[str, np.ndarray, float, bool]]:
    """Phrase, mask, score and confidence of the present findings of an answer; those with the same phrase together."""
    groups: dict[str, list[Finding]] = {}
    for finding in answer.findings:
        if finding.present:
            groups.setdefault(finding.phrase, []).append(finding)
    for phrase, group in groups.items():
        mask = np.logical_or.reduce([finding.mask for finding in group])
        yield phrase, mask, max(finding.score for finding in group), all(finding.confident for finding in group)
