"""A tracker: follows the target of one prompt from frame to frame. Its state has a fixed size and belongs to the caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from ..errors import ImageError, PromptError
from ..graphs import EncodedImage
from ..imageio.image import ScanImage
from ..imageio.reader import Source
from ..preprocessing.prompts import Prompt
from ..request import AskRequest
from ..results.answer import Answer, Box, Finding
from ..text.questions import EVERYTHING
from ..utils.cancellation import CANCELLED
from .appearance import FEATURES, Appearance, appearance_of
from .attempts import Attempt, attempts
from .config import TrackingConfig
from .registration import grey_frame
from .results import Status, TrackedFrame, is_cancelled
from .target import Target


class TrackableScan(Protocol):
    """An encoded frame; ``scan.Scan`` is one."""

    image: ScanImage
    encoded: EncodedImage

    def ask_request(self, request: AskRequest) -> Answer:
        """The answer to a typed request."""


class Tracker:
    """Made by ``Mimo.tracker``. Not for several threads at once.

    Args:
        read: makes an image of a frame.
        open_scan: encodes an image.
        request: for the first frame. Its name, if any, goes with every frame.
        refine: whether later frames are refined as the first one is.
        config: when a target is lost.
    """

    def __init__(
        self,
        read: Callable[[Source], ScanImage],
        open_scan: Callable[[ScanImage], TrackableScan],
        request: AskRequest,
        refine: bool = False,
        config: TrackingConfig = TrackingConfig(),  # noqa: B008 - frozen
    ) -> None:
        self.read, self.open_scan, self.config = read, open_scan, config
        self.target: Target | None = None
        self._first = replace(request, masks=True, text_answer=False)
        self._later = replace(self._first, refine=refine)
        self._frames = 0
        self._size: tuple[int, int] | None = None

    def update(self, frame: Source) -> TrackedFrame:
        """The target in the next frame.

        Raises:
            ImageError: the frame cannot be read, or has another size than those before.
            PromptError: the prompt does not fit the first frame, or is about no single target.
        """
        return self.step(self.open_scan(self.read(frame)))

    def step(self, scan: TrackableScan, frame: int | None = None, extra_margin_px: float = 0.0) -> TrackedFrame:
        """As :meth:`update`, for an encoded frame.

        Args:
            scan: the encoded frame.
            frame: its number; None counts on.
            extra_margin_px: how much further than usual the target may have moved.
        """
        number = self._frames if frame is None else frame
        self._check_size(scan.image, number)
        result = self._first_frame(scan, number) if self.target is None else self._next_frame(scan, number, extra_margin_px)
        self._frames = number + 1
        return result

    def copy(self) -> Tracker:
        """Another tracker with the same state."""
        other = Tracker(self.read, self.open_scan, self._first, self._later.refine, self.config)
        other.target, other._frames, other._size = self.target, self._frames, self._size
        return other

    def _check_size(self, image: ScanImage, number: int) -> None:
        size = image.height, image.width
        if self._size is not None and size != self._size:
            raise ImageError(
                f"frame {number} has {size[1]} x {size[0]} pixels, the frames before it {self._size[1]} x {self._size[0]}",
                "Scale all frames to one size, or start a new tracker",
            )
        self._size = size

    def _first_frame(self, scan: TrackableScan, number: int) -> TrackedFrame:
        answer = scan.ask_request(self._first)
        finding = target_of(answer)
        if finding is None and not is_cancelled(answer):
            what = answer.refusal.reason if answer.refusal else "no single target"
            raise PromptError(f"the prompt cannot be tracked: {what}", "Name one structure, or give a box, points or a mask")
        if finding is None or not finding.present:
            return self._result(scan, number, "lost", "the prompt finds no target", answer)
        name = self._name_of(scan, finding.mask)
        frame, region = grey_frame(scan.image.pixels), self._first_region(finding)
        self.target = Target(
            finding.mask, region, frame, (frame, region), float(finding.area_px), finding.iou,
            self._appearance(scan, finding.mask), name,
        )  # fmt: skip
        return self._result(scan, number, "tracked", "", answer, finding, 1.0)

    def _first_region(self, finding: Finding) -> Box:
        """The box of the prompt, else of the mask."""
        assert finding.box is not None
        boxes = self._first.prompt.boxes
        return (boxes[0][0], boxes[0][1], boxes[0][2], boxes[0][3]) if len(boxes) == 1 else finding.box

    def _next_frame(self, scan: TrackableScan, number: int, extra_margin_px: float) -> TrackedFrame:
        target, frame = self.target, grey_frame(scan.image.pixels)
        assert target is not None
        problems, answer, similarity = list[str](), Answer("", ()), None
        for attempt in attempts(target, scan.encoded, frame, self._later.prompt.text, self.config, extra_margin_px):
            answer = scan.ask_request(replace(self._later, prompt=attempt.prompt))
            if is_cancelled(answer):
                return self._result(scan, number, "lost", CANCELLED, answer)
            finding = target_of(answer)
            appearance = self._appearance(scan, finding.mask) if finding is not None and finding.present else None
            similarity = None if appearance is None else target.appearance.similarity(appearance)
            problem = self._problem(attempt, finding, similarity)
            if not problem and finding is not None and appearance is not None and finding.box is not None:
                region = attempt.region or finding.box
                self.target = target.found_in(finding, region, frame, appearance, self.config)
                return self._result(scan, number, attempt.status, attempt.how, answer, finding, similarity)
            problems.append(problem)
        if not problems and self._later.should_stop is not None and self._later.should_stop():
            return self._result(scan, number, "lost", CANCELLED, replace(answer, finish_reason=CANCELLED))
        self.target = target.lost()
        reason = problems[0] if problems else "the frame does not match the last one that shows it"
        return self._result(scan, number, "lost", reason, answer, None, similarity)

    def _name_of(self, scan: TrackableScan, mask: np.ndarray) -> str:
        """The name that by itself gives the mask of the prompt: that of the prompt, else of an entity of the model; or ""."""
        prompt = self._first.prompt
        if prompt.text.strip() and not prompt.has_references:
            return prompt.text
        names = [prompt.text] if prompt.text.strip() else []
        if not names:
            everything = scan.ask_request(replace(self._first, prompt=Prompt(EVERYTHING), refine=False))
            names = [finding.phrase for finding in everything.findings if self._is_same(finding, mask)]
        for name in names:
            finding = target_of(scan.ask_request(replace(self._first, prompt=Prompt(name))))
            if finding is not None and self._is_same(finding, mask):
                return name
        return ""

    def _is_same(self, finding: Finding, mask: np.ndarray) -> bool:
        both, either = int(np.count_nonzero(finding.mask & mask)), int(np.count_nonzero(finding.mask | mask))
        return either > 0 and both >= self.config.min_name_iou * either

    def _problem(self, attempt: Attempt, finding: Finding | None, similarity: float | None) -> str:
        """Why a finding is not the target; "" if it is."""
        target, config, searched = self.target, self.config, attempt.status == "found again"
        assert target is not None
        if finding is None or similarity is None:
            return "it is not present" if finding is None else f"it is not present (presence {finding.presence:.2f})"
        if finding.iou < max(config.min_iou, config.iou_drop * target.iou):
            return f"the predicted IoU is {finding.iou:.2f}, {target.iou:.2f} as a rule"
        limit = config.max_found_area_ratio if searched else config.max_area_ratio
        if attempt.is_sure:
            return "" if (finding.mask & target.mask).any() else "it does not overlap the last mask"
        if attempt.areas and not any(1 / limit <= finding.area_px / max(area, 1) <= limit for area in attempt.areas):
            return f"the area jumps from {attempt.areas[-1]:.0f} to {finding.area_px} pixels"
        if similarity < attempt.min_similarity(config):
            return f"the appearance differs (similarity {similarity:.2f})"
        return ""

    def _appearance(self, scan: TrackableScan, mask: np.ndarray) -> Appearance:
        return appearance_of(scan.encoded.features[FEATURES], scan.encoded.letterbox, mask)

    def _result(
        self,
        scan: TrackableScan,
        number: int,
        status: Status,
        reason: str,
        answer: Answer,
        finding: Finding | None = None,
        similarity: float | None = None,
    ) -> TrackedFrame:
        image = scan.image
        time_s = None if image.source is None else image.source.time_s
        return TrackedFrame(number, status, reason, answer, finding, similarity, (image.height, image.width), time_s)


def target_of(answer: Answer) -> Finding | None:
    """The finding of the mask query that a prompt is about; None for an open question, several names, or a refusal."""
    return next((finding for finding in answer.findings if finding.query == 0), None)
