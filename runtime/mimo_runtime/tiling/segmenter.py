"""The mask of a name from the tiles of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..postprocessing.mask_prediction import MaskPrediction, presence_of
from ..postprocessing.masks import remove_small_parts
from .grid import PixelBox, TileGrid
from .stitching import TiledLogits, absent

#: Gives the outputs of ``mask_decoder``, batch 1, for a tile.
SegmentTile = Callable[[PixelBox], Mapping[str, np.ndarray]]
#: How certain a tile without the structure is of its background; see ``stitching.absent``.
ABSENT_CONFIDENCE = 0.98


def segment_tiles(
    prediction: MaskPrediction, tiles: TileGrid, segment: SegmentTile, full_weight: float = 0.0
) -> MaskPrediction:
    """The prediction with the mask of query 0 from all tiles.

    Presence and predicted IoU become the means over the tiles with the structure, weighted by their pixels of the mask.
    Presence does not fall below that of the full image. The same object where no tile has the structure.

    Args:
        prediction: of the full image.
        segment: runs the model on a tile; called once per tile.
        full_weight: of the full image's logits where the full image shows the structure, 0 to 1.
    """
    config, grids, scores = prediction.config, list[np.ndarray](), list[tuple[float, float]]()
    full = prediction.full_image_logits(0)
    for box in tiles:
        outputs = segment(box)
        grid, presence = outputs["masks"][0, 0].copy(), float(presence_of(outputs["presence"][0, :1], config)[0])
        is_present = presence >= config.presence_threshold
        grids.append(grid if is_present else absent(grid, full.threshold, ABSENT_CONFIDENCE))
        scores.append((presence if is_present else 0.0, float(outputs["iou"][0, 0])))
    seen_in_full = prediction.presence[0] >= config.presence_threshold
    logits = TiledLogits(tiles, grids, full, full_weight if seen_in_full else 0.0)
    mask = remove_small_parts(logits.mask(), cell_area=logits.letterbox.cell_area(config.mask_size))
    pixels = np.array([np.count_nonzero(mask[y0:y1, x0:x1]) for x0, y0, x1, y1 in tiles], np.float64)
    pixels[[not presence for presence, _ in scores]] = 0
    if not pixels.any():
        return prediction
    presence, iou = np.average(np.array(scores), axis=0, weights=pixels)
    return prediction.with_target(
        mask, float(iou), logits, refined=True, presence=max(float(presence), float(prediction.presence[0]))
    )
