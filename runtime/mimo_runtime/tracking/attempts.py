"""What may find a target in the next frame: questions in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..graphs import EncodedImage
from ..preprocessing.prompts import Prompt
from ..results.answer import Box
from .appearance import FEATURES, most_similar_place
from .config import TrackingConfig
from .prompting import grown_box, mask_prompt, placed_box
from .registration import GreyFrame, register
from .results import Status
from .target import Target, visible_part, visible_share


@dataclass(frozen=True, eq=False)
class Attempt:
    """One question.

    Args:
        prompt: of the question.
        status: of the frame, if the answer shows the target.
        how: what found it, in words.
        region: where the whole target is expected; None: where the answer shows it.
        areas: expected areas in pixels, each of which will do; empty: any will.
        is_partial: whether a part of the target is out of view: appearance does not count.
        is_sure: whether the name decides: appearance does not count, but the answer must overlap the last mask.
    """

    prompt: Prompt
    status: Status
    how: str = ""
    region: Box | None = None
    areas: tuple[float, ...] = ()
    is_sure: bool = False
    is_partial: bool = False

    def min_similarity(self, config: TrackingConfig) -> float:
        """The lowest similarity of the appearance for which the answer shows the target."""
        if self.is_partial:
            return -1.0
        if self.region is not None:
            return config.min_moved_similarity
        return config.min_found_similarity if self.status == "found again" else config.min_similarity


def attempts(
    target: Target, image: EncodedImage, frame: GreyFrame, text: str, config: TrackingConfig, extra_margin_px: float = 0.0
) -> Iterator[Attempt]:
    """The questions about a frame.

    Args:
        image: the frame, encoded.
        frame: its grey values.
        text: the name of the target, or "".
        extra_margin_px: how much further than usual it may have moved.
    """
    if config.is_local and target.name:
        status: Status = "found again" if target.lost_frames else "tracked"
        yield Attempt(Prompt(target.name), status, "by name" if target.lost_frames else "", is_sure=True)
        return
    moved = _moved(target, frame, text, config)
    if moved is not None:
        yield from moved
        if not moved:
            return  # it is out of view: what a search finds is something else
    elif not target.lost_frames and visible_share(target.region, target.mask.shape) >= config.min_followed_share:
        yield _around_last_mask(target, text, config, extra_margin_px)
    if config.is_local or target.lost_frames >= config.search_after:
        yield _search(target, image, text, config, extra_margin_px)


def _moved(target: Target, frame: GreyFrame, text: str, config: TrackingConfig) -> list[Attempt] | None:
    """After the motion since the target was seen, its box and then its mask; none where it is out of view.

    None where the frames show no common motion.
    """
    shape = target.mask.shape
    if not target.lost_frames:
        motion = register(target.frame, frame, target.region, reach=config.reach)
        if motion.similarity < config.min_motion:
            return None
        region, mask = motion.box(target.region), motion.mask(target.mask)
        areas = (target.area * visible_share(region, shape), float(np.count_nonzero(mask)))
        partial = _is_partial(region, shape, config)
        prompts = _box_prompts(region, shape, text, config)
        prompts += [mask_prompt(text, mask, config)] if prompts and mask.any() else []
        return [Attempt(prompt, "tracked", "", region, areas, is_partial=partial) for prompt in prompts]
    if config.is_local:
        return None
    for before, box in (target.whole, (target.frame, target.region)):
        motion = register(before, frame, box, reach=1.0)
        if motion.similarity >= config.min_found_motion:
            region = motion.box(box)
            area, prompts = target.area * visible_share(region, shape), _box_prompts(region, shape, text, config)
            how, partial = "where the frames match", _is_partial(region, shape, config)
            return [Attempt(prompt, "found again", how, region, (area,), is_partial=partial) for prompt in prompts]
    return None


def _is_partial(region: Box, shape: tuple[int, ...], config: TrackingConfig) -> bool:
    return visible_share(region, shape) < 1 - config.min_visible_share


def _box_prompts(region: Box, shape: tuple[int, ...], text: str, config: TrackingConfig) -> list[Prompt]:
    """The visible part of a region, if enough of it is visible."""
    visible = visible_part(region, shape)
    if visible is None or visible_share(region, shape) < config.min_visible_share:
        return []
    return [Prompt(text, boxes=(visible,))]


def _around_last_mask(target: Target, text: str, config: TrackingConfig, extra_margin_px: float) -> Attempt:
    """Without a motion, the last mask and a box around it."""
    margins = [
        max(config.min_margin_px, config.margin * (target.region[i + 2] - target.region[i])) + extra_margin_px for i in (0, 1)
    ]
    box = grown_box(target.region, margins[0], margins[1], target.mask.shape)
    prompt = mask_prompt(text, target.mask, config, box if config.with_box else None)
    return Attempt(prompt, "tracked", areas=(float(np.count_nonzero(target.mask)),))


def _search(target: Target, image: EncodedImage, text: str, config: TrackingConfig, extra_margin_px: float) -> Attempt:
    """What asks for a lost target."""
    (x0, y0, x1, y1), shape = target.region, target.mask.shape
    if config.is_local:
        margins = [config.search_growth * length + extra_margin_px for length in (x1 - x0, y1 - y0)]
        prompt = Prompt(text, boxes=(grown_box(target.region, margins[0], margins[1], shape),))
        return Attempt(prompt, "found again", "at its last place", areas=(target.area,))
    if target.name:
        return Attempt(Prompt(target.name), "found again", "by name", areas=(target.area,))
    size, last = (x1 - x0, y1 - y0), ((x0 + x1) / 2, (y0 + y1) / 2)
    place = most_similar_place(image.features[FEATURES], image.letterbox, target.appearance, size, last)
    grown = 1 + config.search_growth * min(target.lost_frames + 1, 2)
    box = placed_box(place, (grown * size[0], grown * size[1]), shape)
    return Attempt(Prompt(text, boxes=(box,)), "found again", "by its appearance", areas=(target.area,))
