"""Further passes of the mask decoder for the target of a request: the crop pass, and the disambiguation of a single point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..model.config import MimoConfig
from ..postprocessing.contours import CropLogits
from ..postprocessing.mask_prediction import MaskPrediction
from ..preprocessing.prompts import Prompt
from ..text.questions import subject_of
from ..utils.cancellation import Cancelled
from .config import RefinementConfig
from .crops import CropRequest, crop_around_target
from .multiscale import Candidate, has_single_point, pixel_of, point_crops, select_best_mask

#: Gives the outputs of ``mask_decoder``, batch 1, for a crop of the image.
SegmentCrop = Callable[[CropRequest], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class MaskRefiner:
    """Refines the target's mask. Stateless, so that threads may share it.

    Args:
        config: see :class:`RefinementConfig`.
    """

    config: RefinementConfig

    @staticmethod
    def of(config: MimoConfig) -> MaskRefiner:
        """The refiner of a model."""
        return MaskRefiner(RefinementConfig.of(config))

    def refine(
        self,
        prediction: MaskPrediction,
        prompt: Prompt,
        segment: SegmentCrop,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> MaskPrediction:
        """The prediction with the refined mask and predicted IoU of query 0; the same object where nothing changes.

        A request that names nothing and points at nothing ("What do you see?") has no target, and a target that is not present
        is not refined.

        Args:
            prediction: of the full-image pass.
            prompt: the request.
            segment: runs the model on a crop; called at most once for the crop pass, three to ten times for an
                ambiguous point.
            is_cancelled: called before every crop; True gives the prediction as it is.
        """
        if self.config.crop_scale <= 0 or not (prompt.has_references or subject_of(prompt.text)):
            return prediction
        full = Candidate.of(prediction.mask(0), prediction.iou[0])
        if full is None:
            return prediction

        def segment_unless_cancelled(crop: CropRequest) -> Mapping[str, np.ndarray]:
            if is_cancelled():
                raise Cancelled
            return segment(crop)

        try:
            return _TargetRefinement(self.config, prediction, prompt, segment_unless_cancelled, full).run()
        except Cancelled:
            return prediction


@dataclass(frozen=True)
class _TargetRefinement:
    """The refinement of one target; ``full`` is its mask of the full-image pass."""

    config: RefinementConfig
    prediction: MaskPrediction
    prompt: Prompt
    segment: SegmentCrop
    full: Candidate

    def run(self) -> MaskPrediction:
        cropped = self._crop_pass()
        best = cropped or self.full
        if self._is_ambiguous(best):
            best = self._select(cropped)
        if best is self.full:
            return self.prediction
        mask = best.full_mask(self.prediction.height, self.prediction.width)
        logits = self.prediction.full_image_logits(best.query, best.logits)
        return self.prediction.with_target(mask, best.iou, logits, refined=best.crop is not None)

    def _crop_pass(self) -> Candidate | None:
        crop = self._crop_around(self.prompt, self.full)
        cropped = self._segment(crop, self.config.full_image_weight) if crop else None
        # The crop shows how well the outline fits, the full image whether it is the right object. The mean of both
        # predictions correlates with the true IoU more than either.
        return cropped and replace(cropped, iou=(cropped.iou + self.full.iou) / 2)

    def _is_ambiguous(self, best: Candidate) -> bool:
        """Whether the point of the request may refer to another object than ``best``."""
        if not has_single_point(self.prompt):
            return False
        # Predicted IoU is float32 wherever it is reported.
        return bool(np.float32(best.iou) < self.config.refine_below_iou) or (
            self._is_named and not self._is_single_object(best)
        )

    def _select(self, cropped: Candidate | None) -> Candidate:
        """The candidate that the point of an ambiguous request refers to."""
        height, width, size = self.prediction.height, self.prediction.width, self.prediction.letterbox.size
        # With a name, the model may segment all objects of that kind.
        prompt = replace(self.prompt, text="") if self._is_named else self.prompt
        candidates = list(self._under_point(cropped))
        # A mask of a crop around the point only tells where to place the crop of the crop pass, as the full-image mask does.
        previews = [self._segment(crop) for crop in point_crops(prompt, height, width, size, self.config)]
        for preview in [c for c in previews if c] + [c for c in candidates if c.query]:
            crop = self._crop_around(prompt, preview)
            candidate = self._segment(crop) if crop else None
            if candidate:
                candidates.append(replace(candidate, iou=(candidate.iou + preview.iou) / 2))
        candidates = candidates or [cropped or self.full]
        # What the name segmented elsewhere says nothing about the object under the point.
        named_part = self._named_part(self.full) if self._is_named else None
        return candidates[select_best_mask(candidates, height, width, self.config, named_part)]

    def _under_point(self, cropped: Candidate | None) -> Iterator[Candidate]:
        """Candidates among the masks that exist already: full-image pass, crop pass, their parts, and entities."""
        x, y = pixel_of(self.prompt, self.prediction.height, self.prediction.width)
        existing = [c for c in (self.full, cropped) if c]
        if self._is_named:
            yield from filter(None, map(self._named_part, existing))
        else:
            yield from existing
            part = self.full.part_at(x, y)
            if part and part.area < self.full.area:
                yield part
        for query in self.prediction.entity_queries(self.config.entity_presence):
            if self.prediction.may_cover(query, x, y):
                entity = Candidate.of(self.prediction.mask(query), self.prediction.iou[query], query=query)
                part = entity and entity.part_at(x, y)
                if part:
                    yield part

    @property
    def _is_named(self) -> bool:
        return bool(subject_of(self.prompt.text))

    def _is_single_object(self, candidate: Candidate) -> bool:
        """Whether (nearly) all of a mask is in the connected part under the point."""
        part = self._named_part(candidate)
        return part is not None and part.area >= self.config.single_object_share * candidate.area

    def _named_part(self, candidate: Candidate) -> Candidate | None:
        """The part under the point of a mask that may cover all objects of a name."""
        x, y = pixel_of(self.prompt, self.prediction.height, self.prediction.width)
        return candidate.part_at(x, y, self.config.point_tolerance)

    def _crop_around(self, prompt: Prompt, candidate: Candidate) -> CropRequest | None:
        prediction = self.prediction
        return crop_around_target(
            prompt, candidate.box, prediction.height, prediction.width, prediction.letterbox.size, self.config
        )

    def _segment(self, crop: CropRequest, full_image_weight: float = 0.0) -> Candidate | None:
        """The mask of query 0 in a crop, with a share of the full image's logits; None if it is empty."""
        outputs = self.segment(crop)
        logits = crop.letterbox.unletterbox_masks(outputs["masks"][0, :1])[0]
        if full_image_weight:
            logits += full_image_weight * (self.prediction.target_logits(crop.crop_box) - logits)
        mask = self.prediction.clean_mask(logits, crop.letterbox)
        if mask is None:
            return None
        kept = CropLogits(outputs["masks"][0, 0].copy(), crop.letterbox, crop.crop_box, full_image_weight)
        return Candidate.of(mask, outputs["iou"][0, 0], crop, logits=kept)
