"""What the mask decoder predicts for one request, in the geometry of the image.

A model predicts all its mask queries at once; only a few answer the request. Only those are resized to the image, one after the
other, because the logits of a mask of a large image take hundreds of megabytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..model.config import MimoConfig
from ..preprocessing.letterbox import Letterbox
from .contours import CropLogits, LogitSource, MaskLogits
from .masks import box_of_mask, mask_from_logits, pixel_counts, sigmoid, soft_centroid


class MaskPrediction:
    """Presence and predicted IoU of every mask query, and masks on demand. Used by one answer, in one thread at a time.

    Args:
        outputs: of ``mask_decoder``, batch 1.
        letterbox: of the image.
        config: of the model.
        points_at_target: whether the request has a box, a point or a mask.
    """

    def __init__(
        self, outputs: Mapping[str, np.ndarray], letterbox: Letterbox, config: MimoConfig, *, points_at_target: bool = False
    ) -> None:
        self.letterbox, self.config, self.points_at_target = letterbox, config, points_at_target
        #: Calibrated probabilities, float64 ``[Q]``.
        self.presence = presence_of(outputs["presence"][0], config)
        #: Predicted IoU, float32 ``[Q]``.
        self.iou: np.ndarray = outputs["iou"][0]
        #: Queries whose mask comes from a crop pass.
        self.refined = frozenset[int]()
        #: Queries of entities that have what a request by their name alone gives.
        self.by_name = frozenset[int]()
        self._logits: np.ndarray = outputs["masks"][0]
        self._masks: dict[int, np.ndarray | None] = {}
        self._thresholds: dict[int, float] = {}
        #: What :meth:`mask_logits` gives where it is not the full image.
        self._sources: dict[int, LogitSource] = {}

    def snapshot(self) -> MaskPrediction:
        """A copy with masks of its own, for another answer: an answer may change its masks."""
        copy = object.__new__(MaskPrediction)
        masks = {query: None if mask is None else mask.copy() for query, mask in self._masks.items()}
        copy.__dict__ = {**self.__dict__, "_masks": masks}
        return copy

    def with_target(
        self, mask: np.ndarray, iou: float, logits: LogitSource, *, refined: bool, presence: float | None = None
    ) -> MaskPrediction:
        """A copy with another mask, bool ``[H, W]``, its logits, predicted IoU and, where stated, presence of query 0.

        With a presence, the full image may not show the target: its position is then that of the mask.
        """
        copy = object.__new__(MaskPrediction)
        replaced = {"_masks": {**self._masks, 0: mask}, "_sources": {**self._sources, 0: logits}}
        queries = self.refined | {0} if refined else self.refined - {0}
        copy.__dict__ = {**self.__dict__, **replaced, "refined": queries}
        copy.iou = np.concatenate(([iou], self.iou[1:])).astype(np.float32)
        if presence is not None:
            copy.presence = np.concatenate(([presence], self.presence[1:]))
            copy.points_at_target = True
        return copy

    def with_names(self, named: Mapping[int, MaskPrediction]) -> MaskPrediction:
        """A copy in which the queries of entities have what requests by their names alone give.

        Args:
            named: prediction of the same image by query of the entity; its query 0 is the target of the request.
        """
        if not named:
            return self
        copy = object.__new__(MaskPrediction)
        masks = {query: mask for query, mask in self._masks.items() if query not in named}
        sources = {query: source for query, source in self._sources.items() if query not in named}
        copy.__dict__ = {**self.__dict__, "_masks": masks, "_sources": sources}
        copy.presence, copy.iou, copy._logits = self.presence.copy(), self.iou.copy(), self._logits.copy()
        for query, own in named.items():
            copy.presence[query], copy.iou[query], copy._logits[query] = own.presence[0], own.iou[0], own._logits[0]
            masks |= {query: own._masks[0]} if 0 in own._masks else {}
            sources |= {query: own._sources[0]} if 0 in own._sources else {}
        copy.by_name = self.by_name | named.keys()
        copy.refined = (self.refined - named.keys()) | {query for query, own in named.items() if 0 in own.refined}
        return copy

    def with_threshold(self, queries: Iterable[int], threshold: float) -> MaskPrediction:
        """A copy in which these queries count as present from a presence of ``threshold`` on, if the model's is higher.

        Where no pixel reaches the mask threshold, their mask has the pixels with at least half of the largest probability.
        """
        lowered = dict.fromkeys(queries, min(threshold, self.config.presence_threshold))
        copy = object.__new__(MaskPrediction)
        masks = {query: mask for query, mask in self._masks.items() if mask is not None or query not in lowered}
        copy.__dict__ = {**self.__dict__, "_masks": masks, "_thresholds": {**self._thresholds, **lowered}}
        return copy

    def without(self, queries: Sequence[int]) -> MaskPrediction:
        """The same prediction with the structures of these queries absent for sure."""
        if not queries:
            return self
        copy = object.__new__(MaskPrediction)
        copy.__dict__ = {**self.__dict__, "_masks": {**self._masks, **dict.fromkeys(queries)}}
        copy.presence = self.presence.copy()
        copy.presence[[query for query in queries if query < len(copy.presence)]] = 0
        return copy

    @property
    def height(self) -> int:
        """Of the image in pixels."""
        return self.letterbox.height

    @property
    def width(self) -> int:
        """Of the image in pixels."""
        return self.letterbox.width

    def mask(self, query: int) -> np.ndarray | None:
        """The clean mask of a query, bool ``[H, W]``; None if it is not present, has no pixel, or does not exist."""
        if query not in self._masks:
            threshold = self._thresholds.get(query, self.config.presence_threshold)
            present = query < len(self.presence) and self.presence[query] >= threshold
            self._masks[query] = self._full_image_mask(query) if present else None
        return self._masks[query]

    def centre(self, query: int) -> tuple[float, float] | None:
        """The position of a query's structure, ``(x, y)`` in pixels of the image; None if the query does not exist.

        For a target that the request points at, the centroid of its mask; otherwise :func:`soft_centroid`, which is right more
        often where the outline is uncertain.
        """
        if query >= len(self.presence):
            return None
        mask = self.mask(0) if query == 0 and self.points_at_target else None
        box = None if mask is None else box_of_mask(mask)
        if mask is None or box is None:
            return soft_centroid(self._logits[query], self.letterbox)
        x0, y0, x1, y1 = box
        in_rows, in_columns = pixel_counts(mask[y0:y1, x0:x1])
        x, y = in_columns @ (np.arange(x0, x1) + 0.5), in_rows @ (np.arange(y0, y1) + 0.5)
        return float(x / in_rows.sum()), float(y / in_rows.sum())

    def entities(self) -> dict[str, int]:
        """Query by name of the entities that reach ``entity_threshold``, whether or not the request names them."""
        present = set(self.entity_queries(self.config.entity_threshold))
        return {name: 1 + i for i, name in enumerate(self.config.entities) if 1 + i in present}

    def entity_queries(self, threshold: float) -> list[int]:
        """The queries of entities with at least this presence."""
        return [1 + int(i) for i in np.flatnonzero(self.presence[1 : 1 + len(self.config.entities)] >= threshold)]

    def may_cover(self, query: int, x: int, y: int) -> bool:
        """Whether the mask of a query can cover a pixel, judged by the cells around it: cheaper than the mask itself."""
        logits = self._logits[query]
        row, column = (int(v * factor * len(logits)) for v, factor in zip((y, x), reversed(self.letterbox.factors)))
        around = logits[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        return bool(sigmoid(around.max()) >= self.config.mask_threshold)

    def mask_logits(self, query: int) -> LogitSource:
        """The logits that the mask of a query comes from."""
        return self._sources.get(query) or self.full_image_logits(query)

    def full_image_logits(self, query: int, crop: CropLogits | None = None) -> MaskLogits:
        """The logits of a query in the full-image pass, where ``crop`` lies those of a crop pass."""
        threshold = self._mask_threshold(query)
        # A copy: a finding does not keep the grids of all queries.
        return MaskLogits(self._logits[query].copy(), self.letterbox, math.log(threshold / (1 - threshold)), crop)

    def target_logits(self, window: tuple[int, int, int, int]) -> np.ndarray:
        """Logits of query 0 in the full-image pass for a window of the image, float32 ``[y1 - y0, x1 - x0]``."""
        logits: np.ndarray = self.letterbox.unletterbox_masks(self._logits[:1], window)[0]
        return logits

    def clean_mask(self, logits: np.ndarray, letterbox: Letterbox, threshold: float | None = None) -> np.ndarray | None:
        """Logits ``[H, W]`` in the geometry of ``letterbox`` as a mask without small parts; None if it is empty.

        ``threshold`` is a probability; None is that of the model.
        """
        cell = letterbox.cell_area(self.config.mask_size)
        mask = mask_from_logits(logits, threshold or self.config.mask_threshold, cell_area=cell)
        return mask if mask.any() else None

    def _full_image_mask(self, query: int) -> np.ndarray | None:
        threshold = self._mask_threshold(query) or self.config.mask_threshold
        # Only where a pixel can be inside: for an organ, a tenth of the image.
        window = self.letterbox.window_reaching(self._logits[query], math.log(threshold / (1 - threshold)))
        if window is None:
            return None
        logits = self.letterbox.unletterbox_masks(self._logits[query : query + 1], window)[0]
        part = self.clean_mask(logits, self.letterbox, threshold)
        if part is None:
            return None
        x0, y0, x1, y1 = window
        mask = np.zeros((self.height, self.width), bool)
        mask[y0:y1, x0:x1] = part
        return mask

    def _mask_threshold(self, query: int) -> float:
        """The probability from which on a pixel belongs to the mask of a query; see :meth:`with_threshold`."""
        threshold = self.config.mask_threshold
        if query not in self._thresholds:
            return threshold
        logits = self.letterbox.unletterbox_masks(self._logits[query : query + 1])[0]
        largest = float(sigmoid(logits.max()))
        return largest / 2 if largest < threshold else threshold


def presence_of(logits: np.ndarray, config: MimoConfig) -> np.ndarray:
    """Calibrated presence probabilities: the sigmoid of ``logits / presence_temperature``.

    Temperature scaling: Guo et al. 2017, arXiv:1706.04599.
    """
    return sigmoid(logits.astype(np.float64) / config.presence_temperature)
