"""A tracked target over all frames of a clip, with cropped masks: memory grows with the target, not with the frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..postprocessing.masks import box_of_mask
from ..results.answer import Box
from ..series.joined import JoinedFinding, SlicePart
from .results import Status, TrackedFrame


@dataclass(frozen=True)
class ClipFrame:
    """A tracked frame without its mask.

    Args:
        frame: number in the source.
        status, reason, score, similarity, box, time_s: see ``results.TrackedFrame``.
        pixels: of the mask.
    """

    frame: int
    status: Status
    reason: str
    score: float
    similarity: float | None
    box: Box | None
    pixels: int
    time_s: float | None = None


@dataclass
class Clip:
    """Filled frame by frame.

    Args:
        first: number of the first frame in the source.
        name: of the target.
        size: ``(height, width)`` of all frames.
    """

    first: int = 0
    name: str = "target"
    size: tuple[int, int] = (0, 0)
    frames: list[ClipFrame] = field(default_factory=list)
    parts: list[SlicePart] = field(default_factory=list)

    def add(self, tracked: TrackedFrame) -> None:
        """Add the next frame."""
        number, mask = self.first + tracked.frame, tracked.mask
        box = box_of_mask(mask)
        pixels, self.size = 0, tracked.size
        if box is not None and tracked.finding is not None:
            x0, y0, x1, y1 = box
            part = mask[y0:y1, x0:x1].copy()
            pixels = int(part.sum())
            self.parts.append(SlicePart(number, y0, x0, part, tracked.score, tracked.finding.confident))
        self.frames.append(
            ClipFrame(
                number, tracked.status, tracked.reason, tracked.score, tracked.similarity, tracked.box, pixels, tracked.time_s
            )
        )  # fmt: skip

    def finding(self) -> JoinedFinding | None:
        """The target over the frames; None where it was never seen."""
        return JoinedFinding(self.name, tuple(self.parts)) if self.parts else None

    def count(self, status: Status) -> int:
        """Frames with this status."""
        return sum(frame.status == status for frame in self.frames)

    def runs(self) -> Iterator[tuple[int, int, Status, str]]:
        """First frame, last frame, status and first reason of the frames in a row with the same status."""
        for status, group in itertools.groupby(self.frames, key=lambda frame: frame.status):
            frames = list(group)
            yield frames[0].frame, frames[-1].frame, status, frames[0].reason
