"""The losses: masks at every level, presence, box and IoU heads, text, and the contrast of image, text and reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mimo_train.model.mimo import Grounding, Mimo


@dataclass
class LossWeights:
    """Weights of the terms of the total; chosen so that no term dwarfs the masks early on."""

    bce: float = 2.0
    dice: float = 2.0
    presence: float = 0.5
    box: float = 1.0
    iou: float = 0.5
    text: float = 0.5
    contrast: float = 0.1
    #: Weight of the coarse levels relative to the finest (deep supervision); 0 switches it off.
    deep: float = 0.4


@dataclass
class Targets:
    """What the model should have said about N prompts; K supervised mask queries each (K >= 1, the first is query 0).

    Attributes:
        select: [N, K] int64 query indices.
        masks: [N, K, S, S] float in [0, 1].
        select_valid: [N, K] 1 where the mask exists, 0 on padding or absent targets.
        presence: [N, Q] 1 / 0; presence_known: [N, Q] 1 where the annotation tells, 0 where it is silent.
        answer: [N, T] int64 token ids, 0 = padding.
        group: [N] int64: prompts with the same group are positives of each other (the same entity); -1 = no contrast.
        text_names: [N] 1 where the query names the target; has_reference: [N] 1 where there is a visual reference.
    """

    select: Tensor
    masks: Tensor
    select_valid: Tensor
    presence: Tensor
    presence_known: Tensor
    answer: Tensor
    group: Tensor
    text_names: Tensor
    has_reference: Tensor


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice (Milletari et al. 2016, arXiv:1606.04797) over the last two axes; the 1 keeps empty targets finite."""
    p = logits.sigmoid()
    overlap = (p * target).sum((-2, -1))
    return 1.0 - (2.0 * overlap + 1.0) / (p.sum((-2, -1)) + target.sum((-2, -1)) + 1.0)


def mask_losses(levels: list[Tensor], targets: Targets, deep: float) -> tuple[Tensor, Tensor]:
    """Mean BCE and Dice loss over the supervised queries of all levels, coarse ones weighted by ``deep``."""
    valid = targets.select_valid
    # A target that is absent should draw nothing; weighed lightly, since presence already says so.
    absent = (1.0 - valid) * 0.0
    absent[:, 0] = (1.0 - valid[:, 0]) * 0.1
    total_bce, total_dice, total_weight = 0.0, 0.0, 0.0
    for i, logits in enumerate(levels):
        finest = i == len(levels) - 1
        weight = 1.0 if finest else deep
        if weight == 0.0:
            continue
        if not finest:
            index = targets.select[..., None, None].expand(-1, -1, *logits.shape[-2:])
            logits = logits.gather(1, index)
        truth = F.adaptive_avg_pool2d(targets.masks, logits.shape[-1])
        # Small structures would vanish in a mean over all pixels: each mask's BCE is scaled by its share of the image.
        share = truth.mean((-2, -1)).clamp(min=0.02)
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((-2, -1))
        bce = bce / share.sqrt()
        total_bce = total_bce + weight * (bce * (valid + absent)).sum() / (valid + absent).sum().clamp(min=1.0)
        total_dice = total_dice + weight * (dice_loss(logits, truth) * valid).sum() / valid.sum().clamp(min=1.0)
        total_weight += weight
    return total_bce / total_weight, total_dice / total_weight


def boxes_of(masks: Tensor) -> Tensor:
    """Boxes [..., 4] (x0, y0, x1, y1 as fractions) of masks [..., S, S]; zeros if empty."""
    side = masks.shape[-1]
    line = torch.arange(side, device=masks.device)
    sides = []
    for axis in (-2, -1):  # columns first: x
        hit = (masks > 0.5).any(axis)
        low = torch.where(hit, line, side).amin(-1)
        high = torch.where(hit, line + 1, 0).amax(-1)
        sides.append((low, high))
    boxes = torch.stack((sides[0][0], sides[1][0], sides[0][1], sides[1][1]), dim=-1).to(masks.dtype) / side
    return torch.where((boxes[..., 2:3] > 0), boxes, torch.zeros_like(boxes))


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
        return (a.sum() + b.sum() + scale) * 0.0
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
    present = targets.select_valid[:, 0] * (targets.group >= 0)
    features = g.pyramid[2]
    weight = F.adaptive_avg_pool2d(targets.masks[:, :1], features.shape[-1]).flatten(2)
    weight = weight / (weight.sum(-1, keepdim=True) + 1e-4)
    image = model.contrast["image"]((weight @ features.flatten(2).transpose(1, 2))[:, 0])
    text = model.contrast["text"](g.text.sum(1) / g.text_valid.sum(1, keepdim=True).clamp(min=1.0))
    reference = model.contrast["reference"](g.references.sum(1) / g.reference_valid.sum(1, keepdim=True).clamp(min=1.0))
    scale, names, has = model.contrast_scale, targets.text_names * present, targets.has_reference * present
    return (
        info_nce(image, text, scale, targets.group, names)
        + info_nce(image, reference, scale, targets.group, has)
        + info_nce(text, reference, scale, targets.group, names * has)
    ) / 3.0


def balanced_mean(losses: Tensor, positive: Tensor, known: Tensor) -> Tensor:
    """Mean over the known entries of which positives and negatives each make up one half; all [N, Q]."""
    halves = [(losses * part).sum() / part.sum().clamp(min=1.0) for part in (known * positive, known * (1.0 - positive))]
    return 0.5 * (halves[0] + halves[1])


def mimo_loss(model: Mimo, g: Grounding, targets: Targets, weights: LossWeights) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss and its parts (detached) for a grounded batch."""
    levels, boxes, presence, iou = model.decode_masks(g, targets.select)
    valid = targets.select_valid
    bce, dice = mask_losses(levels, targets, weights.deep)

    known = targets.presence_known
    presence_bce = F.binary_cross_entropy_with_logits(presence, targets.presence, reduction="none")
    # Query 0 answers the question; the entity queries share the other half of the weight. They are nearly always silent, so
    # what is there weighs as much in all as what is not: in a plain mean they would learn to say no to everything.
    first = (presence_bce[:, 0] * known[:, 0]).sum() / known[:, 0].sum().clamp(min=1.0)
    others = balanced_mean(presence_bce[:, 1:], targets.presence[:, 1:], known[:, 1:])

    truth_boxes = boxes_of(targets.masks)
    picked = boxes.gather(1, targets.select[..., None].expand(-1, -1, 4))
    box = (box_loss(picked, truth_boxes) * valid).sum() / valid.sum().clamp(min=1.0)

    with torch.no_grad():
        drawn = levels[-1] > 0
        truth = F.adaptive_avg_pool2d(targets.masks, drawn.shape[-1]) >= 0.5
        true_iou = (drawn & truth).sum((-2, -1)) / (drawn | truth).sum((-2, -1)).clamp(min=1)
    iou_error = ((iou.gather(1, targets.select) - true_iou).square() * valid).sum() / valid.sum().clamp(min=1.0)

    logits = model.text_decoder(targets.answer[:, :-1], g.memory, g.memory_valid)
    text = F.cross_entropy(logits.flatten(0, 1), targets.answer[:, 1:].flatten(), ignore_index=0)
    contrast = contrast_loss(model, g, targets)

    parts = {
        "bce": bce,
        "dice": dice,
        "presence": first + others,
        "box": box,
        "iou": iou_error,
        "text": text,
        "contrast": contrast,
    }
    total = sum(getattr(weights, name) * value for name, value in parts.items())
    return total, {name: value.detach() for name, value in parts.items()}
