"""Simulated clicks: the point that a person adds where the mask is wrong (after Kirillov et al. 2023, arXiv:2304.02643)."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.targets import Targets
from ..model.mimo import Mimo, PromptBatch

#: Share of the prompts that get a click, in the steps with simulated clicks.
CLICKED_SHARE = 0.5
#: An error of fewer cells of the mask grid gets no click.
MIN_WRONG = 6


@torch.no_grad()
def simulate_clicks(model: Mimo, pyramid: tuple[Tensor, ...], prompts: PromptBatch, targets: Targets) -> PromptBatch:
    """The prompts with one more point where the first mask is wrong: positive on missing, negative on excess area.

    Args:
        pyramid: features of the B images.
        prompts: N = B * k prompts; ``targets.chance`` decides which of them get a click, and where in the wrong region.

    Returns:
        a copy. Prompts stay as they are without a target, without a free point, or with an error of few cells. A prompt by name
        alone gets only negative clicks: it means all of that name, but with a positive point only the instance under it.
    """
    first = targets.select[:, :1]
    g = model.ground_features(tuple(f.detach() for f in pyramid), prompts)
    drawn = model.decode_masks(g, first)[0][-1][:, 0] > 0
    truth = F.adaptive_avg_pool2d(targets.masks[:, :1], drawn.shape[-1])[:, 0] > 0.5
    clickable = ~truth | (targets.has_reference > 0)[:, None, None]
    wrong = ((drawn != truth) & clickable).float()
    side = wrong.shape[-1]
    # A hash of the cell and the prompt's chance: the same on every device, whatever else is in the batch.
    cells = torch.arange(side * side, device=wrong.device, dtype=torch.float32).reshape(1, side, side)
    jitter = torch.frac(torch.sin(cells * 12.9898 + targets.chance[:, None, None] * 78.233).abs() * 43758.5453)
    # A cell whose neighbours are wrong too is inside the wrong region, not on its rim.
    depth = F.avg_pool2d(wrong[:, None], 5, stride=1, padding=2)[:, 0] * wrong
    place = (depth + 0.2 * jitter * wrong).flatten(1).argmax(1)
    xy = torch.stack((place % side + 0.5, place // side + 0.5), dim=-1) / side
    label = truth.flatten(1).gather(1, place[:, None])[:, 0].to(prompts.point_labels.dtype)

    free = prompts.point_labels < 0
    slot = free.float().argmax(1)
    use = (
        (first[:, 0] == 0) & (targets.select_valid[:, 0] > 0) & free.any(1)
        & (wrong.sum((-2, -1)) >= MIN_WRONG) & (targets.chance < CLICKED_SHARE)
    )  # fmt: skip
    rows = torch.nonzero(use)[:, 0]
    points, labels = prompts.points.clone(), prompts.point_labels.clone()
    points[rows, slot[rows]], labels[rows, slot[rows]] = xy[rows].to(points.dtype), label[rows]
    return replace(prompts, points=points, point_labels=labels)
