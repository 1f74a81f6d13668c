"""Batches depend on seed and step alone; their targets agree with the masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.text.questions import corpus
from mimo_train.data.loader import Batches
from mimo_train.data.vocabulary import Vocabulary


def test_batches_depend_on_seed_and_step_alone(phantoms):
    datasets = read_datasets(phantoms)
    vocabulary = Vocabulary.of(datasets)
    tokenizer = Tokenizer.train(corpus(vocabulary.entities, ["ct"], ["abdomen"]), 512, 32)
    config = MimoConfig.from_preset("micro")
    make = lambda **o: Batches(datasets, vocabulary, tokenizer, config, batch=4, prompts=3, **{"seed": 1, **o})  # noqa: E731
    one, two, other = make()(5, 64), make()(5, 64), make(seed=2)(5, 64)
    assert np.array_equal(one.pixels, two.pixels) and np.array_equal(one.targets.masks, two.targets.masks)
    assert np.array_equal(one.prompts.token_ids, two.prompts.token_ids)
    assert not np.array_equal(one.pixels, other.pixels)
    halves = [make(rank=r, world=2)(5, 64).pixels for r in range(2)]
    assert np.array_equal(one.pixels[0::2], halves[0]) and np.array_equal(one.pixels[1::2], halves[1])


def test_entities_are_supervised_by_their_own_masks(phantoms):
    """Slots after the target hold present entities with their mask, or surely absent ones without a mask."""
    datasets = read_datasets(phantoms)
    vocabulary = Vocabulary.of(datasets)
    tokenizer = Tokenizer.train(corpus(vocabulary.entities, ["ct"], ["abdomen"]), 512, 32)
    batches = Batches(datasets, vocabulary, tokenizer, MimoConfig.from_preset("micro"), batch=6, prompts=4, seed=3)
    present = absent = 0
    for step in range(3):
        t = batches(step, 64).targets
        entity = (t.select > 0) & (t.presence_known > 0)
        assert (t.masks.amax((-2, -1)) > 0)[entity & (t.presence > 0)].all()
        assert not t.masks[entity & (t.presence == 0)].any()
        assert torch.equal(t.select_valid, t.presence * t.presence_known)
        wide = t.boxes[..., 2:] - t.boxes[..., :2]
        assert (wide[t.select_valid > 0] > 0).all() and not t.boxes[t.select_valid == 0].any()
        present, absent = present + int((entity & (t.presence > 0)).sum()), absent + int((entity & (t.presence == 0)).sum())
    assert present > absent > 0


def test_sampling_weights_change_the_share_of_a_set(phantoms):
    datasets = read_datasets(phantoms)
    vocabulary = Vocabulary.of(datasets)
    tokenizer = Tokenizer.train(corpus(vocabulary.entities, ["ct"], ["abdomen"]), 512, 32)
    twice = [*datasets, replace(datasets[0], name="copy")]

    def make(weights: dict[str, float]) -> Batches:
        config = MimoConfig.from_preset("micro")
        return Batches(twice, vocabulary, tokenizer, config, batch=2, prompts=1, seed=0, sampling_weights=weights)

    assert make({}).cumulative.tolist() == pytest.approx([0.5, 1.0])
    assert make({"copy": 3.0}).cumulative.tolist() == pytest.approx([0.25, 1.0])


def test_crop_views_supervise_masks_and_no_text(phantoms):
    datasets = read_datasets(phantoms)
    vocabulary = Vocabulary.of(datasets)
    tokenizer = Tokenizer.train(corpus(vocabulary.entities, ("ct",), ("abdomen",)), 400, 32)
    config = MimoConfig.from_preset("micro")
    make = lambda share: Batches(datasets, vocabulary, tokenizer, config, batch=6, prompts=2, seed=3, crop_views=share)  # noqa: E731
    plain, crops = make(0.0)(0, 64), make(1.0)(0, 64)
    assert (plain.targets.answer[:, 0] > 0).all()
    no_text = crops.targets.answer.sum(1) == 0
    assert no_text.any()  # a view of a large structure is an ordinary one
    assert (crops.targets.select[no_text] == 0).all() and crops.targets.select_valid[no_text, 0].all()
    assert not crops.targets.select_valid[no_text, 1:].any() and not crops.targets.presence_known[no_text, 1:].any()
    assert crops.targets.has_reference[no_text].all()
    again = make(1.0)(0, 64)
    assert torch.equal(crops.pixels, again.pixels) and torch.equal(crops.targets.masks, again.targets.masks)
