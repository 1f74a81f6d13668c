"""The constants of tracking, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrackingConfig:
    """When a target counts as tracked, lost or found again.

    Args:
        is_local: whether a lost target is searched for only near its last place, as in the slices of a volume.
    """

    #: Whether the prompt of the next frame has a box beside the mask. On sequences of ``val``, the mask by itself was better by
    #: .05 Dice: the model fills a box that the target has partly left.
    with_box: bool = False
    #: How far the target moves from one frame to the next, as a share of the frame's longer side.
    reach: float = 0.25
    #: Lowest correlation of grey values for which a motion counts: from one frame to the next, and since the target was lost.
    min_motion: float = 0.5
    min_found_motion: float = 0.75
    #: A target is lost where less than this share of its box is within the frame.
    min_visible_share: float = 0.1
    #: Without a motion, a target of which less than this share was in the last frame has left it.
    min_followed_share: float = 0.6
    #: By how much the box around the target follows the mask of a frame; the rest follows the motion.
    region_rate: float = 0.1
    #: Margin of that box around the last mask, as a share of the mask's sides, and at least so many pixels.
    margin: float = 0.1
    min_margin_px: float = 2.0
    #: From this IoU of the mask by name with the mask of the prompt on, the first frame shows that the name means the same
    #: target: a name finds a lost target, and the slices of a volume are asked by name, because it cannot drift.
    min_name_iou: float = 0.7
    #: Radius of the erosion of the mask prompt, as a share of the square root of the mask's area.
    erosion: float = 0.05
    #: A mask with a lower predicted IoU is not followed, nor one whose predicted IoU falls below this share of the usual one.
    min_iou: float = 0.3
    iou_drop: float = 0.5
    #: Largest ratio of the areas of two frames in a row.
    max_area_ratio: float = 2.0
    #: Largest ratio of the area of a target that is found again to its usual area.
    max_found_area_ratio: float = 3.0
    #: Lowest similarity of the appearance to the remembered one; higher for a target that is found again than for one in track.
    min_similarity: float = 0.75
    min_found_similarity: float = 0.85
    #: The same where the grey values around the target match those of the last frame.
    min_moved_similarity: float = 0.25
    #: Weight of a new frame in the appearance, the usual area and the usual predicted IoU.
    update_rate: float = 0.1
    #: For so many lost frames, only a frame that matches the last one with the target brings it back: it may be blurred or
    #: hidden for a moment. Then its name or its appearance does, too, with one question per lost frame.
    search_after: int = 2
    #: Growth of the search box per side and lost frame, as a share of the target's box.
    search_growth: float = 0.25
    is_local: bool = False
