"""The losses: masks at every level, presence, box and IoU heads, text, and the contrast of image, text and reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from mimo_runtime.errors import RequestError

from ..data.targets import Targets
from ..model.mimo import Grounding, Mimo
from .distributed import gather_rows
from .schedule import numbers_by_name

#: Weight of the target's location map of fusion, relative to the finest mask.
LOCATOR_WEIGHT = 0.4
#: Weight of the masks of entities, relative to the target's.
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


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice (Milletari et al. 2016, arXiv:1606.04797) over the last two axes; the 1 keeps empty targets finite."""
    p = logits.sigmoid()
    overlap = (p * target).sum((-2, -1))
    return 1.0 - (2.0 * overlap + 1.0) / (p.sum((-2, -1)) + target.sum((-2, -1)) + 1.0)


@dataclass(frozen=True)
class Normalizers:
    """Divisors of the loss sums; they depend on the targets alone, so they are known before any forward pass.

    With several processes or micro-batches, each divides its own sums by the normalizers of the whole batch. The losses of the
    micro-batches then add up to the loss of the whole batch.
    """

    #: [8] float; see the places below.
    values: Tensor

    @staticmethod
    def of(targets: Targets) -> Normalizers:
        first, valid = targets.select == 0, _weights(targets)
        absent = _absent(targets)
        known = targets.presence_known
        sums = (
            (valid + absent).sum(), valid.sum(),
            ((valid + absent) * first)[:, 0].sum(), (valid * first)[:, 0].sum(),
            (known * first).sum(), (known * ~first * targets.presence).sum(), (known * ~first * (1 - targets.presence)).sum(),
            (targets.answer[:, 1:] != 0).sum(),
        )  # fmt: skip
        return Normalizers(torch.stack([x.float() for x in sums]))

    def __getitem__(self, index: int) -> Tensor:
        return self.values[index].clamp(min=1.0)


#: Places in :class:`Normalizers`.
MASKS, VALID_MASKS, TARGET_MASKS, VALID_TARGET_MASKS, TARGETS, ENTITIES_PRESENT, ENTITIES_ABSENT, TOKENS = range(8)


def _weights(targets: Targets) -> Tensor:
    """[N, K] weight of each mask that exists."""
    return targets.select_valid * torch.where(targets.select == 0, 1.0, ENTITY_WEIGHT)


def _absent(targets: Targets) -> Tensor:
    """[N, K] weight of the masks that should be empty; low, because presence already decides that a target is absent."""
    return (targets.select == 0) * targets.presence_known * (1.0 - targets.select_valid) * 0.1


def mask_losses(
    levels: list[Tensor], weights: Sequence[float], targets: Targets, normalizers: Normalizers
) -> tuple[Tensor, Tensor]:
    """Mean BCE and Dice loss over the supervised queries of all levels.

    ``levels`` are [N, K, side, side], each with its weight; a level with K = 1 holds only the target's mask.
    """
    valid, absent = _weights(targets), _absent(targets)
    total_bce, total_dice, total_weight = 0.0, 0.0, 0.0
    for logits, weight in zip(levels, weights, strict=True):
        if weight == 0.0:
            continue
        truth = F.adaptive_avg_pool2d(targets.masks[:, : logits.shape[1]], logits.shape[-1])
        valid_here, absent_here, places = valid, absent, (MASKS, VALID_MASKS)
        if logits.shape[1] == 1:
            is_target = targets.select[:, :1] == 0
            valid_here, absent_here = valid[:, :1] * is_target, absent[:, :1] * is_target
            places = (TARGET_MASKS, VALID_TARGET_MASKS)
        # Small structures would vanish in a mean over all pixels: each mask's BCE is scaled by its share of the image.
        share = truth.mean((-2, -1)).clamp(min=0.02)
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((-2, -1))
        bce = bce / share.sqrt()
        total_bce = total_bce + weight * (bce * (valid_here + absent_here)).sum() / normalizers[places[0]]
        total_dice = total_dice + weight * (dice_loss(logits, truth) * valid_here).sum() / normalizers[places[1]]
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
        # Nothing to compare; the zero keeps every parameter in the graph, which data-parallel training requires.
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
    model: Mimo,
    g: Grounding,
    targets: Targets,
    weights: LossWeights,
    normalizers: Normalizers | None = None,
    share: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss and its parts (detached) for a grounded batch.

    Args:
        normalizers: of the whole batch, if these targets are a micro-batch of it; the losses then add up.
        share: of these targets in the whole batch; the contrastive loss compares within them and is weighted by it.
    """
    normalizers = normalizers or Normalizers.of(targets)
    levels, boxes, presence, iou = model.decode_masks(g, targets.select)
    levels = [x.float() for x in (g.target, *levels)]
    bce, dice = mask_losses(levels, (LOCATOR_WEIGHT, *[weights.deep] * (len(levels) - 2), 1.0), targets, normalizers)

    first, known = (targets.select == 0).float(), targets.presence_known
    presence_bce = F.binary_cross_entropy_with_logits(presence.float(), targets.presence, reduction="none") * known
    # Query 0 is the target; the entity queries share the other half of the weight. Most entities are absent, so present and
    # absent ones get the same total weight: with a plain mean the queries would learn to call everything absent.
    target = (presence_bce * first).sum() / normalizers[TARGETS]
    others = presence_bce * (1.0 - first)
    present = (others * targets.presence).sum() / normalizers[ENTITIES_PRESENT]
    absent = (others * (1.0 - targets.presence)).sum() / normalizers[ENTITIES_ABSENT]

    valid = _weights(targets)
    box = (box_loss(boxes.float(), targets.boxes) * valid).sum() / normalizers[VALID_MASKS]

    with torch.no_grad():
        drawn, truth = levels[-1] > 0, F.adaptive_avg_pool2d(targets.masks, levels[-1].shape[-1]) >= 0.5
        true_iou = (drawn & truth).sum((-2, -1)) / (drawn | truth).sum((-2, -1)).clamp(min=1)
    iou_error = ((iou.float() - true_iou).square() * valid).sum() / normalizers[VALID_MASKS]

    logits = model.text_decoder(targets.answer[:, :-1], g.memory, g.memory_valid).float()
    text = F.cross_entropy(logits.flatten(0, 1), targets.answer[:, 1:].flatten(), ignore_index=0, reduction="sum")

    parts = {
        "bce": bce,
        "dice": dice,
        "presence": target + 0.5 * (present + absent),
        "box": box,
        "iou": iou_error,
        "text": text / normalizers[TOKENS],
        "contrast": contrast_loss(model, g, targets) * share,
    }
    total = sum(getattr(weights, name) * value for name, value in parts.items())
    return total, {name: value.detach() for name, value in parts.items()}
