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


def segment_tiles(prediction: MaskPrediction, tiles: TileGrid, segment: SegmentTile) -> MaskPrediction:
    """The prediction with the mask of query 0 from all tiles.

    Presence and predicted IoU become the means over the tiles with the structure, weighted by their pixels of the mask.
    Presence does not fall below that of the full image. The same object where no tile has the structure.

    Args:
        prediction: of the full image.
        segment: runs the model on a tile; called once per tile.
    """
    config, grids, scores = prediction.config, list[np.ndarray](), list[tuple[float, float]]()
    threshold = prediction.full_image_logits(0).threshold
    for box in tiles:
        outputs = segment(box)
        grid, presence = outputs["masks"][0, 0].copy(), float(presence_of(outputs["presence"][0, :1], config)[0])
        is_present = presence >= config.presence_threshold
        grids.append(grid if is_present else absent(grid, threshold, ABSENT_CONFIDENCE))
        scores.append((presence if is_present else 0.0, float(outputs["iou"][0, 0])))
    # Without the logits of the full image, which lowered Dice on ``val``: they blur small structures.
    logits = TiledLogits(tiles, grids, prediction.letterbox.size, threshold)
    mask = remove_small_parts(logits.mask(), cell_area=logits.letterbox.cell_area(config.mask_size))
    pixels = np.array([np.count_nonzero(mask[y0:y1, x0:x1]) for x0, y0, x1, y1 in tiles], np.float64)
    pixels[[not presence for presence, _ in scores]] = 0
    if not pixels.any():
        return prediction
    presence, iou = np.average(np.array(scores), axis=0, weights=pixels)
    return prediction.with_target(
        mask, float(iou), logits, refined=True, presence=max(float(presence), float(prediction.presence[0]))
    )
