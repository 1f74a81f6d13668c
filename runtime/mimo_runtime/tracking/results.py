"""What tracking gives for every frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..results.answer import Answer, Box, Finding

#: "tracked": followed from the frame before. "lost": not found. "found again": back after a loss, or found by a search.
Status = Literal["tracked", "lost", "found again"]


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """The target in one frame.

    Args:
        frame: number of the frame, from 0; of a live camera, of those that were submitted.
        status: "tracked", "lost" or "found again".
        reason: why the target is lost, or what found it again; "" for a tracked one.
        answer: of the last question about this frame.
        finding: the target; None where it is lost.
        similarity: of the appearance to the remembered one, in [-1, 1]; None where the answer has no mask.
        size: ``(height, width)`` of the frame.
        time_s: of a frame of a video file, in seconds since its first one; None for other sources.
    """

    frame: int
    status: Status
    reason: str
    answer: Answer
    finding: Finding | None
    similarity: float | None
    size: tuple[int, int]
    time_s: float | None = None

    @property
    def mask(self) -> np.ndarray:
        """bool ``[H, W]``; empty where the target is lost."""
        return np.zeros(self.size, bool) if self.finding is None else self.finding.mask

    @property
    def box(self) -> Box | None:
        """Of the mask, in pixels; None where the target is lost."""
        return None if self.finding is None else self.finding.box

    @property
    def score(self) -> float:
        """``presence * iou``; 0 where the target is lost."""
        return 0.0 if self.finding is None else self.finding.score

    @property
    def is_cancelled(self) -> bool:
        """Whether ``should_stop`` ended the question."""
        return is_cancelled(self.answer)


def is_cancelled(answer: Answer) -> bool:
    """Whether an answer without a text was stopped before it was complete."""
    return answer.finish_reason not in (None, "stop")
