"""A tracker: follows the target of one prompt from frame to frame. Its state has a fixed size and belongs to the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..errors import ImageError, PromptError
from ..graphs import EncodedImage
from ..imageio.image import ScanImage
from ..imageio.reader import Source
from ..preprocessing.prompts import Prompt
from ..request import AskRequest
from ..results.answer import Answer, Box, Finding
from .appearance import FEATURES, Appearance, appearance_of, most_similar_place
from .config import TrackingConfig
from .prompting import grown_box, next_prompt, placed_box
from .results import Status, TrackedFrame, is_cancelled


class TrackableScan(Protocol):
    """An encoded frame; ``scan.Scan`` is one."""

    image: ScanImage
    encoded: EncodedImage

    def ask_request(self, request: AskRequest) -> Answer:
        """The answer to a typed request."""


@dataclass(frozen=True, eq=False)
class Target:
    """All that a tracker remembers. Memory: one mask, and two numbers per channel.

    Args:
        mask: of the last frame in which it was seen.
        box: of the mask.
        area: usual area in pixels.
        iou: usual predicted IoU.
        appearance: averaged over the frames.
        by_name: whether the name by itself means this target.
        lost_frames: since it was seen.
    """

    mask: np.ndarray
    box: Box
    area: float
    iou: float
    appearance: Appearance
    by_name: bool = False
    lost_frames: int = 0


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
        appearance = self._appearance(scan, finding.mask)
        assert finding.box is not None
        by_name = self._means_target(scan, finding.mask)
        self.target = Target(finding.mask, finding.box, float(finding.area_px), finding.iou, appearance, by_name)
        return self._result(scan, number, "tracked", "", answer, finding, 1.0)

    def _next_frame(self, scan: TrackableScan, number: int, extra_margin_px: float) -> TrackedFrame:
        target = self.target
        assert target is not None
        problems, attempt = list[str](), None
        for prompt, status, how in self._prompts(scan, extra_margin_px):
            attempt = self._ask(scan, prompt)
            answer, finding, similarity = attempt
            if is_cancelled(answer):
                return self._result(scan, number, "lost", "cancelled", answer)
            problem = self._problem(finding, similarity, status == "found again")
            if not problem and finding is not None:
                self._follow(scan, finding)
                return self._result(scan, number, status, how, answer, finding, similarity)
            problems.append(problem)
        assert attempt is not None
        self.target = replace(target, lost_frames=target.lost_frames + 1)
        return self._result(scan, number, "lost", problems[0], attempt[0], None, attempt[2])

    def _prompts(self, scan: TrackableScan, extra_margin_px: float) -> Iterator[tuple[Prompt, Status, str]]:
        """What may find the target in the next frame, in order; with the status that it gives, and how it was found."""
        target, text = self.target, self._later.prompt.text
        assert target is not None
        if not target.lost_frames:
            if target.by_name and not self.config.is_local:
                yield Prompt(text), "tracked", ""
            yield next_prompt(text, target.mask, self.config, extra_margin_px), "tracked", ""
        if target.lost_frames or not target.by_name or self.config.is_local:
            prompt, how = self._search_prompt(scan, extra_margin_px)
            yield prompt, "found again", how

    def _means_target(self, scan: TrackableScan, mask: np.ndarray) -> bool:
        """Whether the name by itself gives the mask of the prompt."""
        prompt = self._first.prompt
        if not prompt.text.strip() or not prompt.has_references:
            return bool(prompt.text.strip())
        finding = target_of(scan.ask_request(replace(self._first, prompt=Prompt(prompt.text))))
        if finding is None:
            return False
        both, either = np.count_nonzero(finding.mask & mask), np.count_nonzero(finding.mask | mask)
        return bool(both >= self.config.min_name_iou * either)

    def _ask(self, scan: TrackableScan, prompt: Prompt) -> tuple[Answer, Finding | None, float | None]:
        answer = scan.ask_request(replace(self._later, prompt=prompt))
        finding = target_of(answer)
        if finding is None or not finding.present or self.target is None:
            return answer, finding, None
        return answer, finding, self.target.appearance.similarity(self._appearance(scan, finding.mask))

    def _search_prompt(self, scan: TrackableScan, extra_margin_px: float) -> tuple[Prompt, str]:
        """What asks for a lost target, and how."""
        target, text = self.target, self._later.prompt.text
        assert target is not None
        (x0, y0, x1, y1), shape = target.box, target.mask.shape
        if self.config.is_local:
            margins = [self.config.search_growth * length + extra_margin_px for length in (x1 - x0, y1 - y0)]
            return Prompt(text, boxes=(grown_box(target.box, margins[0], margins[1], shape),)), "at its last place"
        if target.by_name:
            return Prompt(text), "by name"
        encoded = scan.encoded
        size, last = (x1 - x0, y1 - y0), ((x0 + x1) / 2, (y0 + y1) / 2)
        place = most_similar_place(encoded.features[FEATURES], encoded.letterbox, target.appearance, size, last)
        grown = 1 + self.config.search_growth * min(target.lost_frames + 1, 2)
        box = placed_box(place, (grown * size[0], grown * size[1]), shape)
        return Prompt(text, boxes=(box,)), "by its appearance"

    def _problem(self, finding: Finding | None, similarity: float | None, searched: bool) -> str:
        """Why a finding is not the target; "" if it is."""
        target, config = self.target, self.config
        assert target is not None
        if finding is None or similarity is None:
            return "it is not present" if finding is None else f"it is not present (presence {finding.presence:.2f})"
        if finding.iou < max(config.min_iou, config.iou_drop * target.iou):
            return f"the predicted IoU is {finding.iou:.2f}, {target.iou:.2f} as a rule"
        area = target.area if searched else float(np.count_nonzero(target.mask))
        limit = config.max_found_area_ratio if searched else config.max_area_ratio
        if not 1 / limit <= finding.area_px / area <= limit:
            return f"the area jumps from {area:.0f} to {finding.area_px} pixels"
        if similarity < (config.min_found_similarity if searched else config.min_similarity):
            return f"the appearance differs (similarity {similarity:.2f})"
        return ""

    def _follow(self, scan: TrackableScan, finding: Finding) -> None:
        target, rate = self.target, self.config.update_rate
        assert target is not None and finding.box is not None
        self.target = Target(
            finding.mask,
            finding.box,
            target.area + rate * (finding.area_px - target.area),
            target.iou + rate * (finding.iou - target.iou),
            target.appearance.updated(self._appearance(scan, finding.mask), rate),
            target.by_name,
        )

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
        return TrackedFrame(number, status, reason, answer, finding, similarity, (scan.image.height, scan.image.width))


def target_of(answer: Answer) -> Finding | None:
    """The finding of the mask query that a prompt is about; None for an open question, several names, or a refusal."""
    return next((finding for finding in answer.findings if finding.query == 0), None)
