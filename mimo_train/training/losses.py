"""The losses: masks at every level, presence, box and IoU heads, text, and the contrast of image, text and reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from mimo_runtime.errors import RequestError
from mimo_train.model.mimo import Grounding, Mimo

from .distributed import gather_rows
from .schedule import numbers_by_name

#: Weight of the map that fusion locates the target with, beside the finest mask.
LOCATOR_WEIGHT = 0.4
#: Weight of the masks that nobody asked for, beside the target's.
ENTITY_WEIGHT = 0.5


@dataclass
class LossWeights:
    """Weights of the terms of the total; chosen so that no term dwarfs the masks early on."""

    bce: float = 2.0
    dice: float = 2.0
    presence: float = 0.5
    box: float = 1.0
    iou: float = 0.5
    text: float = 2.0
    contrast: float = 0.1
    #: Weight of the coarse levels relative to the finest (deep supervision); 0 switches it off.
    deep: float = 0.4

    @staticmethod
    def parse(texts: Sequence[str]) -> LossWeights:
        """The defaults with the changes of "NAME=VALUE" texts.

        Raises:
            RequestError: an unknown name, or no number of 0 or more.
        """
        changed = numbers_by_name("--weight", texts, math.inf)
        names = [f.name for f in fields(LossWeights)]
        for name in changed:
            if name not in names:
                raise RequestError(f"--weight names the loss '{name}'", f"Name one of {', '.join(names)}")
        return LossWeights(**changed)


@dataclass
class Targets:
    """What the model should have said about N prompts; K supervised mask queries each (K >= 1, the first is query 0).

    Attributes:
        select: [N, K] int64 query indices; 0 is the query of the target, the others are entities'.
        masks: [N, K, M, M] float in [0, 1]; boxes: [N, K, 4] as (x0, y0, x1, y1), fractions of the square.
        select_valid: [N, K] 1 where the mask exists, 0 on padding or absent targets.
        presence: [N, K] 1 / 0; presence_known: [N, K] 1 where the annotation tells, 0 where it is silent or there is no query.
        answer: [N, T] int64 token ids, 0 = padding.
        group: [N] int64: prompts with the same group are positives of each other (the same entity); -1 = no contrast.
        text_names: [N] 1 where the query names the target; has_reference: [N] 1 where there is a visual reference.
        chance: [N] uniform in [0, 1), drawn with the prompt: whatever else is decided by lot in a step.
    """

    select: Tensor
    masks: Tensor
    boxes: Tensor
    select_valid: Tensor
    presence: Tensor
    presence_known: Tensor
    answer: Tensor
    group: Tensor
    text_names: Tensor
    has_reference: Tensor
    chance: Tensor


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice (Milletari et al. 2016, arXiv:1606.04797) over the last two axes; the 1 keeps empty targets finite."""
    p = logits.sigmoid()
    overlap = (p * target).sum((-2, -1))
    return 1.0 - (2.0 * overlap + 1.0) / (p.sum((-2, -1)) + target.sum((-2, -1)) + 1.0)


@dataclass(frozen=True)
class Normalizers:
    """What the sums of the losses are divided by: facts of the targets alone, so they can be known before any forward pass.

    With several processes or a batch in pieces, each divides its own sums by the totals of the whole batch: the sum of the
    pieces is then what one process would have computed at once.
    """

    #: [8] float; see the places below.
    values: Tensor

    @staticmethod
    def of(targets: Targets) -> Normalizers:
        first, valid = targets.select == 0, _weights(targets)
        nowhere = _absent(targets)
        known = targets.presence_known
        sums = (
            (valid + nowhere).sum(), valid.sum(),
            ((valid + nowhere) * first)[:, 0].sum(), (valid * first)[:, 0].sum(),
            (known * first).sum(), (known * ~first * targets.presence).sum(), (known * ~first * (1 - targets.presence)).sum(),
            (targets.answer[:, 1:] != 0).sum(),
        )  # fmt: skip
        return Normalizers(torch.stack([x.float() for x in sums]))

    def __getitem__(self, index: int) -> Tensor:
        return self.values[index].clamp(min=1.0)


#: Places in :class:`Normalizers`.
MASKS, DRAWN, TARGET_MASKS, TARGETS_DRAWN, ASKED, ENTITIES_THERE, ENTITIES_ABSENT, TOKENS = range(8)


def _weights(targets: Targets) -> Tensor:
    """[N, K] weight of each mask that exists."""
    return targets.select_valid * torch.where(targets.select == 0, 1.0, ENTITY_WEIGHT)


def _absent(targets: Targets) -> Tensor:
    """[N, K] weight of the masks that should be empty: an absent target draws nothing; lightly, since presence says so."""
    return (targets.select == 0) * targets.presence_known * (1.0 - targets.select_valid) * 0.1


def mask_losses(levels: list[Tensor], weights: Sequence[float], targets: Targets, totals: Normalizers) -> tuple[Tensor, Tensor]:
    """Mean BCE and Dice loss over the supervised queries of all levels.

    ``levels`` are [N, K, side, side], each with its weight; a level with K = 1 draws the target alone.
    """
    valid, absent = _weights(targets), _absent(targets)
    total_bce, total_dice, total_weight = 0.0, 0.0, 0.0
    for logits, weight in zip(levels, weights, strict=True):
        if weight == 0.0:
            continue
        truth = F.adaptive_avg_pool2d(targets.masks[:, : logits.shape[1]], logits.shape[-1])
        here, nowhere, places = valid, absent, (MASKS, DRAWN)
        if logits.shape[1] == 1:
            asked = targets.select[:, :1] == 0
            here, nowhere, places = valid[:, :1] * asked, absent[:, :1] * asked, (TARGET_MASKS, TARGETS_DRAWN)
        # Small structures would vanish in a mean over all pixels: each mask's BCE is scaled by its share of the image.
        share = truth.mean((-2, -1)).clamp(min=0.02)
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((-2, -1))
        bce = bce / share.sqrt()
        total_bce = total_bce + weight * (bce * (here + nowhere)).sum() / totals[places[0]]
        total_dice = total_dice + weight * (dice_loss(logits, truth) * here).sum() / totals[places[1]]
        total_weight += weight
    return total_bce / total_weight, total_dice / total_weight


def box_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """L1 plus generalised IoU loss (Rezatofighi et al. 2019, arXiv:1902.09630) per box."""
    low, high = torch.maximum(predicted[..., :2], truth[..., :2]), torch.minimum(predicted[..., 2:], truth[..., 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    areas = [(b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1) for b in (predicted, truth)]
    union = areas[0] + areas[1] - overlap
    hull = (
        (torch.maximum(predicted[..., 2:], truth[..., 2:]) - torch.minimum(predicted[..., :2], truth[..., :2]))
        .clamp(min=0)
        .prod(-1)
    )
    giou = overlap / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)
    return 5.0 * (predicted - truth).abs().mean(-1) + 1.0 - giou


def info_nce(a: Tensor, b: Tensor, scale: Tensor, group: Tensor, use: Tensor) -> Tensor:
    """Symmetric InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) with every pair of the same group as a positive.

    Args:
        a, b: [N, D] embeddings of two modalities; group: [N]; use: [N] 1 where the pair exists.
    """
    if use.sum() < 2:
        # Nothing to compare; the zero keeps every parameter in the graph, which data-parallel training insists on.
        return (a.sum() + b.sum() + scale.sum()) * 0.0
    keep = use > 0
    a, b, group = F.normalize(a[keep], dim=-1), F.normalize(b[keep], dim=-1), group[keep]
    logits = a @ b.t() * scale.exp().clamp(max=100.0)
    positive = (group[:, None] == group[None, :]).to(logits.dtype)
    losses = []
    for x in (logits, logits.t()):
        log_p = x.log_softmax(dim=-1)
        losses.append(-(log_p * positive).sum(-1) / positive.sum(-1))
    return torch.stack(losses).mean()


def contrast_loss(model: Mimo, g: Grounding, targets: Targets) -> Tensor:
    """InfoNCE over the triplet (image region, text, reference); pairs that do not exist for a prompt are left out."""
    present = targets.select_valid[:, 0] * (targets.group >= 0)  # then the first query is the target's
    features = g.pyramid[2]
    weight = F.adaptive_avg_pool2d(targets.masks[:, :1], features.shape[-1]).flatten(2)
    weight = weight / (weight.sum(-1, keepdim=True) + 1e-4)
    image = model.contrast["image"]((weight @ features.flatten(2).transpose(1, 2))[:, 0])
    text = model.contrast["text"](g.text.sum(1) / g.text_valid.sum(1, keepdim=True).clamp(min=1.0))
    reference = model.contrast["reference"](g.references.sum(1) / g.reference_valid.sum(1, keepdim=True).clamp(min=1.0))
    image, text, reference = (gather_rows(x.float()) for x in (image, text, reference))
    names, has = gather_rows(targets.text_names * present), gather_rows(targets.has_reference * present)
    scale, group = model.contrast_scale, gather_rows(targets.group)
    return (
        info_nce(image, text, scale, group, names)
        + info_nce(image, reference, scale, group, has)
        + info_nce(text, reference, scale, group, names * has)
    ) / 3.0


def mimo_loss(
    model: Mimo, g: Grounding, targets: Targets, weights: LossWeights, totals: Normalizers | None = None, share: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss and its parts (detached) for a grounded batch.

    Args:
        totals: of the whole batch, if these targets are a piece of it; the losses of the pieces then add up.
        share: of the whole batch that these targets are; contrast compares within the piece and is weighted by it.
    """
    totals = totals or Normalizers.of(targets)
    levels, boxes, presence, iou = model.decode_masks(g, targets.select)
    levels = [x.float() for x in (g.target, *levels)]
    bce, dice = mask_losses(levels, (LOCATOR_WEIGHT, *[weights.deep] * (len(levels) - 2), 1.0), targets, totals)

    first, known = (targets.select == 0).float(), targets.presence_known
    presence_bce = F.binary_cross_entropy_with_logits(presence.float(), targets.presence, reduction="none") * known
    # Query 0 answers the question; the entity queries share the other half of the weight. Most of them are silent, so what
    # is there weighs as much in all as what is not: in a plain mean they would learn to say no to everything.
    asked = (presence_bce * first).sum() / totals[ASKED]
    others = presence_bce * (1.0 - first)
    there = (others * targets.presence).sum() / totals[ENTITIES_THERE]
    absent = (others * (1.0 - targets.presence)).sum() / totals[ENTITIES_ABSENT]

    valid = _weights(targets)
    box = (box_loss(boxes.float(), targets.boxes) * valid).sum() / totals[DRAWN]

    with torch.no_grad():
        drawn, truth = levels[-1] > 0, F.adaptive_avg_pool2d(targets.masks, levels[-1].shape[-1]) >= 0.5
        true_iou = (drawn & truth).sum((-2, -1)) / (drawn | truth).sum((-2, -1)).clamp(min=1)
    iou_error = ((iou.float() - true_iou).square() * valid).sum() / totals[DRAWN]

    logits = model.text_decoder(targets.answer[:, :-1], g.memory, g.memory_valid).float()
    text = F.cross_entropy(logits.flatten(0, 1), targets.answer[:, 1:].flatten(), ignore_index=0, reduction="sum")

    parts = {
        "bce": bce,
        "dice": dice,
        "presence": asked + 0.5 * (there + absent),
        "box": box,
        "iou": iou_error,
        "text": text / totals[TOKENS],
        "contrast": contrast_loss(model, g, targets) * share,
    }
    total = sum(getattr(weights, name) * value for name, value in parts.items())
    return total, {name: value.detach() for name, value in parts.items()}
