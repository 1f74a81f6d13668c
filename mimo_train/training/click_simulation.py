"""Corrective points: what a person clicks next, where the model is wrong (after Kirillov et al. 2023, arXiv:2304.02643)."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.mimo import Mimo, PromptBatch
from .losses import Targets

#: Share of the prompts that get a point, in the steps that correct at all.
CORRECTED = 0.5
#: Fewer wrong cells of the mask grid than this are nothing that a person would click on.
MIN_WRONG = 6


@torch.no_grad()
def simulate_clicks(model: Mimo, pyramid: tuple[Tensor, ...], question: PromptBatch, targets: Targets) -> PromptBatch:
    """The question with one more point where the first answer is wrong: positive on what it missed, negative on what it added.

    Args:
        pyramid: features of the B images; question: of N = B * k prompts; ``targets.chance`` decides which are corrected,
            and where in the wrong region.

    Returns:
        a copy; prompts without a target, a free place for a point or a mistake worth a click stay as they are. A question by
        name alone is clicked only where too much was drawn: it means all of that name, a name with a point the one under it.
    """
    first = targets.select[:, :1]
    g = model.ground_features(tuple(f.detach() for f in pyramid), question)
    drawn = model.decode_masks(g, first)[0][-1][:, 0] > 0
    truth = F.adaptive_avg_pool2d(targets.masks[:, :1], drawn.shape[-1])[:, 0] > 0.5
    clickable = ~truth | (targets.has_reference > 0)[:, None, None]
    wrong = ((drawn != truth) & clickable).float()
    side = wrong.shape[-1]
    # A hash of the cell and the prompt's lot: the same on every device, whatever else is in the batch.
    cells = torch.arange(side * side, device=wrong.device, dtype=torch.float32).reshape(1, side, side)
    jitter = torch.frac(torch.sin(cells * 12.9898 + targets.chance[:, None, None] * 78.233).abs() * 43758.5453)
    # A cell whose neighbours are wrong too is inside the mistake, not on its rim.
    depth = F.avg_pool2d(wrong[:, None], 5, stride=1, padding=2)[:, 0] * wrong
    place = (depth + 0.2 * jitter * wrong).flatten(1).argmax(1)
    xy = torch.stack((place % side + 0.5, place // side + 0.5), dim=-1) / side
    label = truth.flatten(1).gather(1, place[:, None])[:, 0].to(question.point_labels.dtype)

    free = question.point_labels < 0
    slot = free.float().argmax(1)
    use = (
        (first[:, 0] == 0) & (targets.select_valid[:, 0] > 0) & free.any(1)
        & (wrong.sum((-2, -1)) >= MIN_WRONG) & (targets.chance < CORRECTED)
    )  # fmt: skip
    rows = torch.nonzero(use)[:, 0]
    points, labels = question.points.clone(), question.point_labels.clone()
    points[rows, slot[rows]], labels[rows, slot[rows]] = xy[rows].to(points.dtype), label[rows]
    return replace(question, points=points, point_labels=labels)
