"""The types of the ``accuracy`` JSON; docs/reference/json.md describes every field.

A share, a mean or a correlation is None where there is no sample of it. Intervals are ``[low, high]``.
"""

from __future__ import annotations

from typing import TypedDict


class Means(TypedDict):
    """Mean Dice and IoU of ``n`` targets."""

    dice: float
    iou: float
    n: int


class MaskSummary(Means):
    """Means with their 95 % bootstrap intervals."""

    ci95: list[float]
    iou_ci95: list[float]


class BaselineSummary(MaskSummary):
    """A baseline that needs no model: mean over sets, and each set."""

    sets: dict[str, MaskSummary]


class Difference(TypedDict):
    """The mean paired difference of Dice over ``n`` targets."""

    dice: float
    ci95: list[float]
    n: int


class BoxGain(Difference):
    """Dice by box minus that of the ellipse in the same box: mean over sets, and each set."""

    sets: dict[str, Difference]


class MaskResult(TypedDict):
    """Masks by set and prompt, mean over sets, baselines, and by set, class and prompt.

    ``box_gain`` is None where no box was asked.
    """

    sets: dict[str, dict[str, MaskSummary]]
    macro: dict[str, MaskSummary]
    baselines: dict[str, BaselineSummary]
    box_gain: BoxGain | None
    per_class: dict[str, dict[str, dict[str, Means]]]


class SubgroupSummary(TypedDict):
    dice: float
    n: int
    ci95: list[float]


#: By kind of subgroup, value and prompt.
Subgroups = dict[str, dict[str, dict[str, SubgroupSummary]]]


class AbsentPart(TypedDict):
    """Detection of absent targets by the presence decision."""

    precision: float | None
    recall: float | None
    f1: float | None
    auc: float | None
    n: int
    n_present: int


class AbsentSummary(AbsentPart):
    within: AbsentPart
    across: AbsentPart


class ReliabilityBin(TypedDict):
    low: float
    high: float
    mean_probability: float
    rate: float
    n: int


class PresenceSummary(TypedDict):
    temperature: float | None
    threshold: float | None
    ece: float | None
    bins: list[ReliabilityBin]


class PresenceResult(TypedDict):
    absent: AbsentSummary
    ece: float | None
    presence: PresenceSummary


class RiskCoverage(TypedDict):
    coverage: list[float]
    risk: list[float]


class PredictedIou(TypedDict):
    """How the predicted IoU fits the true one, over ``n_drawn`` masks."""

    iou_pearson: float | None
    iou_spearman: float | None
    iou_mae: float | None
    n_drawn: int


class ConfidenceSummary(PredictedIou):
    n: int
    aurc: float
    risk_coverage: RiskCoverage
    threshold: float | None
    coverage_at_threshold: float | None
    risk_at_threshold: float | None


#: By prompt, and "all".
Confidence = dict[str, ConfidenceSummary]


class Share(TypedDict):
    """A share of ``n`` final texts, and of the same texts as the decoder wrote them."""

    share: float | None
    generated: float | None
    n: int


class AbsentText(Share):
    within: Share
    across: Share


class Contradictions(Share):
    present: Share
    absent: Share


class StatementResult(TypedDict):
    absent_text: AbsentText
    contradictions: Contradictions


class SlotShares(TypedDict):
    """Shares of answers whose slot is right."""

    finding: float | None
    modality: float | None
    location: float | None
    size: float | None
    count: float | None


class SetSlotShares(SlotShares):
    n: int


class SlotResult(TypedDict):
    text: SlotShares
    text_sets: dict[str, SetSlotShares]


class Rate(TypedDict):
    """The mean over ``patients`` of the rate of each."""

    rate: float
    ci95: list[float]
    patients: int


class ContourSummary(TypedDict):
    """How often the contours of ``n`` findings hold, and the median of their pixels as a share of those of the mask.

    ``stated`` is the share of the findings that have contours.
    """

    inner: Rate
    outer: Rate
    inner_area: float
    outer_area: float
    stated: float
    n: int


class GuaranteeResult(TypedDict):
    """Promised and measured rates, by kind of prompt ("name", "box", "point", "mask") and class."""

    coverage: float | None
    miss_rate: float | None
    contours: dict[str, ContourSummary]
    contours_per_class: dict[str, dict[str, ContourSummary]]
    missed: Rate | None
    missed_per_class: dict[str, Rate]


class _MetaBase(TypedDict):
    split: str
    images: int
    images_per_set: dict[str, int]
    limit: int | None
    seed: int
    refused_questions: int
    prompts: list[str]
    model: str | None
    sha256: str | None
    engine: str | None
    presence_threshold: float | None
    presence_temperature: float | None
    entity_threshold: float | None
    abstain_threshold: float | None
    crop_scale: float | None
    full_image_weight: float | None
    coverage: float | None
    miss_rate: float | None
    interval: str


class Meta(_MetaBase, total=False):
    """What was measured. The last two are there for checkpoints with rounded weights."""

    weight_bits: int
    qat_skip: list[str]


class AccuracyResult(MaskResult, PresenceResult, SlotResult, StatementResult):
    """``accuracy`` of docs/reference/json.md."""

    confidence: Confidence
    guarantees: GuaranteeResult
    subgroups: Subgroups
    text_generated: SlotShares
    meta: Meta


class ReferringSummary(TypedDict):
    right: float
    ci95: list[float]
    dice: float
    n: int
    images: int


class ReferringOverall(ReferringSummary):
    """Over all answers; ``macro`` is the mean of ``right`` over the sets."""

    macro: float
    macro_ci95: list[float]


class ReferringRule(TypedDict):
    """When an answer is right; see ``referring.exactly_that_one``."""

    min_dice: float
    max_share_of_another: float


class ReferringMeta(TypedDict):
    split: str
    images: int
    images_per_set: dict[str, int]
    limit: int | None
    seed: int
    instances_per_class_and_image: int
    rule: ReferringRule
    model: str | None
    engine: str | None


#: Summaries by kind of prompt, and of the ellipse in the box.
ReferringByAnswer = dict[str, ReferringSummary]
ReferringResult = TypedDict(
    "ReferringResult",
    {
        "box": ReferringOverall,
        "point": ReferringOverall,
        "text+box": ReferringOverall,
        "text+point": ReferringOverall,
        "baselines": dict[str, ReferringOverall],
        "sets": dict[str, ReferringByAnswer],
        "classes": dict[str, dict[str, ReferringByAnswer]],
        "meta": ReferringMeta,
    },
)
