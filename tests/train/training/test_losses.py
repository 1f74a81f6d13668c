"""Losses on small cases: low for right outputs, high for wrong ones, zero where the annotation is unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.text.questions import corpus
from mimo_train.data.loader import Batches
from mimo_train.data.targets import Targets
from mimo_train.data.vocabulary import Vocabulary
from mimo_train.model import Mimo
from mimo_train.training.click_simulation import simulate_clicks
from mimo_train.training.losses import LossWeights, Normalizers, box_loss, dice_loss, info_nce, mask_losses, mimo_loss


def square(x0: int, y0: int, x1: int, y1: int, side: int = 32) -> torch.Tensor:
    mask = torch.zeros(side, side)
    mask[y0:y1, x0:x1] = 1.0
    return mask


def targets(masks: torch.Tensor, valid: torch.Tensor) -> Targets:
    n, k = masks.shape[:2]
    return Targets(
        torch.arange(k).expand(n, k),
        masks,
        torch.zeros(n, k, 4),
        valid,
        valid,
        torch.ones(n, k),
        torch.ones(n, 3, dtype=torch.long),
        torch.zeros(n, dtype=torch.long),
        torch.ones(n),
        torch.ones(n),
        torch.zeros(n),
    )


def losses(levels: list[torch.Tensor], t: Targets, deep: float) -> tuple[torch.Tensor, torch.Tensor]:
    return mask_losses(levels, [deep] * (len(levels) - 1) + [1.0], t, Normalizers.of(t))


def test_dice_loss_by_hand():
    a, b = square(0, 0, 8, 8), square(4, 0, 12, 8)
    assert dice_loss((a * 2 - 1) * 50, a).item() == pytest.approx(0.0, abs=1e-5)
    assert dice_loss((a * 2 - 1) * 50, b).item() == pytest.approx(1 - (2 * 32 + 1) / (64 + 64 + 1), abs=1e-5)


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
    good = sum(losses([coarse(right), right], t, 0.4))
    bad_coarse = sum(losses([coarse(wrong), right], t, 0.4))
    bad_fine = sum(losses([coarse(right), wrong], t, 0.4))
    assert good < bad_coarse < bad_fine
    assert sum(losses([coarse(wrong), right], t, 0.0)) == pytest.approx(sum(losses([right], t, 0.0)))


def test_padded_queries_do_not_count():
    mask = square(4, 4, 20, 20)
    logits = torch.stack(((mask * 2 - 1) * 20, torch.full_like(mask, 20.0)))[None]
    padded = targets(torch.stack((mask, torch.zeros_like(mask)))[None], torch.tensor([[1.0, 0.0]]))
    single = targets(mask[None, None], torch.ones(1, 1))
    for a, b in zip(losses([logits], padded, 0.4), losses([logits[:, :1]], single, 0.4)):
        torch.testing.assert_close(a, b)


def test_info_nce_wants_groups_together():
    group, use = torch.tensor([0, 0, 1, 1]), torch.ones(4)
    directions = torch.eye(2)[group]
    together = info_nce(directions, directions, torch.tensor(2.66), group, use)
    apart = info_nce(directions, directions.flip(0), torch.tensor(2.66), group, use)
    assert together < 0.8 < apart
    assert info_nce(directions, directions.flip(0), torch.tensor(2.66), group, torch.tensor([1.0, 0, 0, 0])) == 0


def test_a_level_with_the_target_only_ignores_other_queries():
    mask = square(4, 4, 20, 20)
    t = targets(mask.expand(2, 2, 32, 32), torch.ones(2, 2))
    t.select = torch.tensor([[0, 3], [5, 3]])  # the second row has no target
    logits = torch.stack(((mask * 2 - 1) * 20, torch.full_like(mask, 20.0)))[:, None]
    assert sum(losses([logits], t, 0.4)) < 0.01


@pytest.fixture(scope="module")
def batch(phantoms):
    """A micro model in double precision and a batch of four images with three prompts each."""
    datasets = read_datasets(phantoms)
    vocabulary = Vocabulary.of(datasets)
    tokenizer = Tokenizer.train(corpus(vocabulary.entities, ["ct"], ["abdomen"]), 512, 32)
    config = MimoConfig.from_preset("micro", vocab_size=tokenizer.size, entities=vocabulary.entities)
    torch.manual_seed(0)
    model = Mimo(config).double()
    drawn = Batches(datasets, vocabulary, tokenizer, config, batch=4, prompts=3, seed=0)(0, 64)
    as_double = lambda x: x.double() if x.is_floating_point() else x  # noqa: E731
    return model, drawn.map(as_double)


def test_micro_batches_add_up_to_the_whole_batch(batch):
    model, drawn = batch
    weights = LossWeights(contrast=0.0)  # contrast compares within a micro-batch
    whole, parts = mimo_loss(model, model.ground(drawn.pixels, drawn.prompts), drawn.targets, weights)
    normalizers, sums, total = Normalizers.of(drawn.targets), {}, 0.0
    for part in drawn.micro_batches(4):
        loss, some = mimo_loss(model, model.ground(part.pixels, part.prompts), part.targets, weights, normalizers, 0.25)
        total += loss
        sums = {k: sums.get(k, 0.0) + v for k, v in some.items()}
    torch.testing.assert_close(total, whole)
    for name in parts.keys() - {"contrast"}:
        torch.testing.assert_close(sums[name], parts[name])


def test_every_loss_reaches_its_part_of_the_model(batch):
    model, drawn = batch
    for name, part in {
        "dice": "mask_decoder.fine", "presence": "mask_decoder.presence.0", "box": "mask_decoder.box.0",
        "iou": "mask_decoder.iou.0", "text": "text_decoder.word", "contrast": "contrast.image",
    }.items():  # fmt: skip
        weights = LossWeights(
            **{**dict.fromkeys(("bce", "dice", "presence", "box", "iou", "text", "contrast"), 0.0), name: 1.0}
        )
        model.zero_grad()
        mimo_loss(model, model.ground(drawn.pixels, drawn.prompts), drawn.targets, weights)[0].backward()
        gradient = model.get_parameter(f"{part}.weight").grad
        assert gradient is not None and gradient.abs().sum() > 0, name


def test_simulated_clicks_lie_on_errors(batch):
    model, drawn = batch
    targets_ = replace(drawn.targets, chance=torch.zeros_like(drawn.targets.chance))
    pyramid = model.vision_encoder(drawn.pixels)
    before = drawn.prompts
    after = simulate_clicks(model, pyramid, before, targets_)
    again = simulate_clicks(model, pyramid, before, targets_)
    assert torch.equal(after.points, again.points) and torch.equal(before.point_labels, drawn.prompts.point_labels)
    first = targets_.select[:, :1]
    drawn_masks = model.decode_masks(model.ground_features(pyramid, before), first)[0][-1][:, 0] > 0
    truth = targets_.masks[:, 0] > 0.5
    new = (before.point_labels < 0) & (after.point_labels >= 0)
    assert new.sum(1).max() == 1 and new.any()
    side = truth.shape[-1]
    for row, slot in torch.nonzero(new).tolist():
        assert first[row] == 0 and targets_.select_valid[row, 0] > 0
        x, y = (after.points[row, slot] * side).long().tolist()
        assert drawn_masks[row, y, x] != truth[row, y, x]
        assert after.point_labels[row, slot] == int(truth[row, y, x])
    # A name with a positive point means the one under it; a name alone means all, so such a click would change the question.
    labels = {}
    for has in (0.0, 1.0):
        referred = replace(targets_, has_reference=torch.full_like(targets_.has_reference, has))
        labels[has] = simulate_clicks(model, pyramid, before, referred).point_labels[before.point_labels < 0]
    assert 1 in labels[1.0] and 1 not in labels[0.0] and 0 in labels[0.0]
    nobody = simulate_clicks(model, pyramid, before, replace(targets_, chance=torch.ones_like(targets_.chance)))
    assert torch.equal(nobody.point_labels, before.point_labels)
