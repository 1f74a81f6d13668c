"""The choice of crop scale and full-image weight among measured settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mimo_runtime.evaluation.summary import Overlap


class CropSetting(NamedTuple):
    """Values of ``MimoConfig`` that are tried together."""

    crop_scale: float
    full_image_weight: float


#: Tried scales of the crop; 0 leaves the crop pass out.
CROP_SCALES = (0.0, 2.5, 3.5, 5.0)
#: Tried weights of the full-image pass in the mask of the crop pass; they cost no time.
FULL_IMAGE_WEIGHTS = (0.0, 0.15, 0.3, 0.45)
#: Without the crop pass there is nothing to weight.
NO_CROP_PASS = CropSetting(0.0, 0.0)
CROP_SETTINGS = (NO_CROP_PASS, *(CropSetting(scale, weight) for scale in CROP_SCALES[1:] for weight in FULL_IMAGE_WEIGHTS))
#: Required gain in mean Dice, because the crop pass takes as long as another image.
CROP_PASS_GAIN = 0.002
#: Images per set, and prompts, on which the gain is measured.
CROP_PASS_LIMIT, CROP_PASS_PROMPTS = 12, ("box", "point", "mask", "text")


def choose_crop_scale(overlaps: Mapping[CropSetting, Sequence[Overlap]]) -> CropSetting:
    """The crop scale with the best mean Dice over sets and prompts, and for it the best full-image weight.

    The scale is chosen without the full-image pass. The result is :data:`NO_CROP_PASS` where both together gain less than
    :data:`CROP_PASS_GAIN`.

    Args:
        overlaps: of every one of :data:`CROP_SETTINGS`; other prompts than :data:`CROP_PASS_PROMPTS` do not count.
    """
    scales = [setting for setting in CROP_SETTINGS if setting.full_image_weight == FULL_IMAGE_WEIGHTS[0]]
    dices = {setting: _mean_dice(overlaps[setting]) for setting in scales}
    scale = max(scales, key=lambda setting: dices[setting])
    if scale == NO_CROP_PASS:
        return NO_CROP_PASS
    weights = [setting for setting in CROP_SETTINGS if setting.crop_scale == scale.crop_scale]
    dices.update((setting, _mean_dice(overlaps[setting])) for setting in weights)
    best = max(weights, key=lambda setting: dices[setting])
    return best if dices[best] >= dices[NO_CROP_PASS] + CROP_PASS_GAIN else NO_CROP_PASS


def _mean_dice(overlaps: Sequence[Overlap]) -> float:
    groups: dict[tuple[str, str], list[float]] = {}
    for row in overlaps:
        if row.prompt in CROP_PASS_PROMPTS:
            groups.setdefault((row.prompt, row.set_name), []).append(row.dice)
    return float(np.mean([np.mean(values) for values in groups.values()])) if groups else 0.0
