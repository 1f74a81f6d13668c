"""Questions about a series: an answer for every frame, and findings joined over the frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from ..errors import CancelledError
from ..imageio.image import ScanImage
from ..request import AskRequest, takes_arguments_of
from ..results.answer import Answer, Finding
from ..utils.cancellation import CANCELLED, DEADLINE, check_stopping
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


@dataclass(frozen=True, eq=False)
class SeriesAnswer:
    """The answer about a series.

    Args:
        series: that was asked.
        frames: the answers in order of the frames; fewer than the series has if it was stopped.
        findings: joined over the frames; see ``joined.JoinedFinding``.
        is_complete: False if it was stopped.
        seconds: in all.
    """

    series: ImageSeries
    frames: tuple[FrameAnswer, ...]
    findings: tuple[JoinedFinding, ...]
    is_complete: bool = True
    seconds: float = field(default=0.0, compare=False)

    def volume_ml(self, finding: JoinedFinding) -> float | None:
        """Millilitres of a finding: the areas of its slices times the distance that each stands for along the normal.

        None where positions or spacing are unknown. Works for irregular series, too.
        """
        extents = self.series.layout.extents_mm()
        if not extents:
            return None
        total = 0.0
        for frame, pixels in finding.areas_px().items():
            geometry = self.series.geometry(frame)
            if geometry.spacing_mm is None or geometry.plane != "patient":
                return None
            total += pixels * geometry.spacing_mm[0] * geometry.spacing_mm[1] * extents[frame]
        return total / 1000


class SeriesScans:
    """The frames of a series, opened one after the other. Made by ``Mimo.open_series``.

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

        ``should_stop`` and ``deadline`` end it; the answer then has the frames that are complete. Arguments of
        ``AskRequest.of``, errors of ``Scan.ask``.
        """
        return self.ask_request(request)

    def ask_request(self, request: AskRequest, progress: Callable[[int, int], None] | None = None) -> SeriesAnswer:
        """As :meth:`ask`, for a typed request; ``progress`` is called with (frames done, frames in all)."""
        started, joiner, answers = time.perf_counter(), FindingJoiner(), list[FrameAnswer]()
        check_stopping(request.should_stop, request.deadline)
        for frame in range(len(self)):
            try:
                scan = self._open(self.series[frame], should_stop=request.should_stop, deadline=request.deadline)
                answer = scan.ask_request(request)
            except CancelledError:
                break
            if answer.finish_reason in STOPPED or request.should_stop is not None and request.should_stop():
                break
            for finding in _by_phrase(answer):
                joiner.add(frame, *finding)
            answers.append(FrameAnswer(frame, replace(answer, findings=())))
            if progress:
                progress(frame + 1, len(self))
        seconds = time.perf_counter() - started
        return SeriesAnswer(self.series, tuple(answers), joiner.findings(), len(answers) == len(self), seconds)


def _by_phrase(answer: Answer) -> Iterator[tuple[str, np.ndarray, float, bool]]:
    """Phrase, mask, score and confidence of the present findings of an answer; those with the same phrase together."""
    groups: dict[str, list[Finding]] = {}
    for finding in answer.findings:
        if finding.present:
            groups.setdefault(finding.phrase, []).append(finding)
    for phrase, group in groups.items():
        mask = np.logical_or.reduce([finding.mask for finding in group])
        yield phrase, mask, max(finding.score for finding in group), all(finding.confident for finding in group)
