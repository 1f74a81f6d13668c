"""Losses against hand-made cases: right is cheap, wrong is dear, and what is unknown costs nothing."""

from __future__ import annotations

import pytest
import torch

from mimo_train.losses import Targets, balanced_mean, box_loss, boxes_of, dice_loss, info_nce, mask_losses


def square(x0: int, y0: int, x1: int, y1: int, side: int = 32) -> torch.Tensor:
    mask = torch.zeros(side, side)
    mask[y0:y1, x0:x1] = 1.0
    return mask


def targets(masks: torch.Tensor, valid: torch.Tensor, queries: int = 4) -> Targets:
    n, k = masks.shape[:2]
    return Targets(
        torch.arange(k).expand(n, k),
        masks,
        valid,
        torch.zeros(n, queries),
        torch.ones(n, queries),
        torch.ones(n, 3, dtype=torch.long),
        torch.zeros(n, dtype=torch.long),
        torch.ones(n),
        torch.ones(n),
    )


def test_dice_loss_by_hand():
    a, b = square(0, 0, 8, 8), square(4, 0, 12, 8)
    assert dice_loss((a * 2 - 1) * 50, a).item() == pytest.approx(0.0, abs=1e-5)
    assert dice_loss((a * 2 - 1) * 50, b).item() == pytest.approx(1 - (2 * 32 + 1) / (64 + 64 + 1), abs=1e-5)


def test_boxes_of_masks():
    masks = torch.stack((square(4, 8, 12, 32), square(0, 0, 0, 0)))
    assert torch.equal(boxes_of(masks), torch.tensor([[4 / 32, 8 / 32, 12 / 32, 1.0], [0.0, 0.0, 0.0, 0.0]]))


def test_box_loss_orders_by_nearness():
    truth = torch.tensor([0.2, 0.2, 0.6, 0.6])
    near, far = torch.tensor([0.25, 0.2, 0.6, 0.6]), torch.tensor([0.7, 0.7, 0.9, 0.9])
    assert box_loss(truth, truth).item() == pytest.approx(0.0, abs=1e-5)
    assert box_loss(near, truth) < box_loss(far, truth)
    assert box_loss(far, truth) > 1.0  # disjoint boxes still get a direction from the hull


def test_every_level_counts_and_deep_supervision_can_be_switched_off():
    mask = square(4, 4, 20, 20)
    right, wrong = (mask * 2 - 1)[None, None] * 20, (1 - mask * 2)[None, None] * 20
    t = targets(mask[None, None], torch.ones(1, 1))
    coarse = lambda x: torch.nn.functional.avg_pool2d(x, 4)  # noqa: E731
    good = sum(mask_losses([coarse(right), right], t, 0.4))
    bad_coarse = sum(mask_losses([coarse(wrong), right], t, 0.4))
    bad_fine = sum(mask_losses([coarse(right), wrong], t, 0.4))
    assert good < bad_coarse < bad_fine
    assert sum(mask_losses([coarse(wrong), right], t, 0.0)) == pytest.approx(sum(mask_losses([right], t, 0.0)))


def test_padded_queries_do_not_count():
    mask = square(4, 4, 20, 20)
    logits = torch.stack(((mask * 2 - 1) * 20, torch.full_like(mask, 20.0)))[None]
    padded = targets(torch.stack((mask, torch.zeros_like(mask)))[None], torch.tensor([[1.0, 0.0]]))
    alone = targets(mask[None, None], torch.ones(1, 1))
    for a, b in zip(mask_losses([logits], padded, 0.4), mask_losses([logits[:, :1]], alone, 0.4)):
        torch.testing.assert_close(a, b)


def test_info_nce_wants_groups_together():
    group, use = torch.tensor([0, 0, 1, 1]), torch.ones(4)
    directions = torch.eye(2)[group]
    together = info_nce(directions, directions, torch.tensor(2.66), group, use)
    apart = info_nce(directions, directions.flip(0), torch.tensor(2.66), group, use)
    assert together < 0.8 < apart
    assert info_nce(directions, directions.flip(0), torch.tensor(2.66), group, torch.tensor([1.0, 0, 0, 0])) == 0


def test_rare_positives_weigh_as_much_as_common_negatives():
    losses = torch.tensor([[1.0, 0.0, 0.0, 0.0, 9.0]])
    positive, known = torch.tensor([[1.0, 0, 0, 0, 1]]), torch.tensor([[1.0, 1, 1, 1, 0]])
    assert balanced_mean(losses, positive, known) == 0.5
