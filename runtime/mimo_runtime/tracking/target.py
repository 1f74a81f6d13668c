"""The state of a tracked target."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..results.answer import Box, Finding
from .appearance import Appearance
from .config import TrackingConfig
from .registration import GreyFrame


@dataclass(frozen=True, eq=False)
class Target:
    """All that a tracker remembers. Memory: one mask, the grey values of two frames, and two numbers per channel.

    Args:
        mask: of the last frame in which it was seen.
        region: box around the whole target in that frame; it may reach beyond the frame.
        frame: grey values of that frame.
        whole: grey values of the last frame that shows all of it, and its box there.
        area: usual area in pixels, where all of it is visible.
        iou: usual predicted IoU.
        appearance: averaged over the frames.
        name: that by itself means this target; "" where none does.
        lost_frames: since it was seen.
    """

    mask: np.ndarray
    region: Box
    frame: GreyFrame
    whole: tuple[GreyFrame, Box]
    area: float
    iou: float
    appearance: Appearance
    name: str = ""
    lost_frames: int = 0

    def lost(self) -> Target:
        """The same target, not seen in one more frame."""
        return replace(self, lost_frames=self.lost_frames + 1)

    def found_in(
        self, finding: Finding, region: Box, frame: GreyFrame, appearance: Appearance, config: TrackingConfig
    ) -> Target:
        """The target as it is in a new frame.

        Args:
            finding: with its mask.
            region: where the whole target is expected in the frame.
            frame: grey values.
            appearance: in the frame.
        """
        assert finding.box is not None
        rate, area, box, whole, usual = config.update_rate, self.area, region, self.whole, self.appearance
        if visible_share(region, finding.mask.shape) > 1 - config.min_visible_share:
            # A part of a target says nothing about its size and its appearance.
            usual = usual.updated(appearance, rate)
            area += rate * (finding.area_px - area)
            x0, y0, x1, y1 = (a + config.region_rate * (b - a) for a, b in zip(region, finding.box))
            box = (x0, y0, x1, y1)
            whole = frame, box
        iou = self.iou + rate * (finding.iou - self.iou)
        return Target(finding.mask, box, frame, whole, area, iou, usual, self.name)


def visible_part(region: Box, shape: tuple[int, ...]) -> Box | None:
    """The part of a box within a frame of ``shape`` (height, width); None if that is less than a pixel wide or high."""
    height, width = shape[:2]
    x0, y0, x1, y1 = max(0.0, region[0]), max(0.0, region[1]), min(float(width), region[2]), min(float(height), region[3])
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None


def visible_share(region: Box, shape: tuple[int, ...]) -> float:
    """The share of a box that lies within a frame of ``shape`` (height, width)."""
    part = visible_part(region, shape)
    return 0.0 if part is None else _area(part) / max(_area(region), 1e-6)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
