"""The constants of refinement, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.config import MimoConfig


@dataclass(frozen=True)
class RefinementConfig:
    """How a mask of the full-image pass is refined. "Chosen on ``val``" means the validation splits of the model card's data.

    Args:
        crop_scale, full_image_weight: chosen for each model by ``mimo-train tune-thresholds``; see :meth:`of`.
    """

    #: Side of the crop as a multiple of the target's longer side; 0 disables all refinement.
    crop_scale: float = 0.0
    #: Weight of the full-image pass in the logits of the crop pass, 0 to 1: only the full image shows distant context.
    full_image_weight: float = 0.0

    # -- crop pass
    #: No crop pass for a crop with a longer side than this share of the image's: it would show what the full image shows.
    max_crop_share: float = 0.8
    #: Shortest side of a crop in pixels: below, a crop holds no context.
    min_crop_side: int = 24
    #: Upper limit of the contrast gain: beyond it, the steps of eight bits become visible.
    max_contrast_gain: float = 4.0
    #: Percentiles of the crop's values that become black and white: a few extreme pixels do not decide the contrast.
    contrast_percentiles: tuple[float, float] = (0.5, 99.5)

    # -- disambiguation of a single point
    #: A point is ambiguous below this predicted IoU. Above, other crops gained nothing on ``val``.
    refine_below_iou: float = 0.75
    #: Sides of the crops around an ambiguous point, as shares of the image's longer side; chosen on ``val``.
    point_crop_shares: tuple[float, ...] = (24 / 256, 64 / 256, 168 / 256)
    #: Shortest side of a crop around a point in pixels.
    min_point_crop_side: int = 16
    #: An entity below this presence gives no candidate. Independent of ``MimoConfig.entity_threshold``, which tuning lowers to
    #: see all answers: it would choose among other masks than the runtime.
    entity_presence: float = 0.75
    #: Weight of a candidate's agreement with the others beside its predicted IoU; chosen on ``val``.
    agreement_weight: float = 0.8
    #: Agreement of a candidate without others to compare with (none, or all with a predicted IoU of 0): the middle of the range
    #: of Dice, because nothing agrees or disagrees with it.
    default_agreement: float = 0.5
    #: Penalty for the logarithm of a candidate's area; chosen on ``val`` with ``point_crop_shares``.
    area_penalty: float = 0.02
    #: Weight of a candidate's overlap with the part under the point of what a name segmented; chosen on ``val``.
    named_part_weight: float = 0.4
    #: A mask is a single object if the part under the point holds this share of its pixels.
    single_object_share: float = 0.97
    #: A click this many pixels beside a named mask still refers to it.
    point_tolerance: int = 2

    @staticmethod
    def of(config: MimoConfig) -> RefinementConfig:
        """The refinement of a model."""
        return RefinementConfig(crop_scale=config.crop_scale, full_image_weight=config.full_image_weight)
