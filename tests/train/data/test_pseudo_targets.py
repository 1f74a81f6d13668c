"""Targets without a class: their prompts point at the target and name nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from views import VOCABULARY, fits, record, small_disks

from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.data.prompt_sampling import instance_labels
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.text.questions import corpus
from mimo_train.data import pseudo_targets
from mimo_train.data.augment import View
from mimo_train.data.loader import Batches
from mimo_train.data.prompts import MIN_PIXELS, PromptSampler, Sample
from mimo_train.data.pseudo_targets import PseudoTarget, PseudoTargets, referring_prompt
from mimo_train.data.vocabulary import Vocabulary

pytest.importorskip("skimage")


def check_prompt(sample: Sample, view: View) -> None:
    assert sample.answer == "" and sample.group == -1 and not sample.text_names
    assert not any(name in sample.text for name in VOCABULARY.entities)
    assert sample.boxes or sample.points or sample.rough is not None
    assert np.count_nonzero(sample.mask) >= MIN_PIXELS
    assert not sample.mask[view.height :].any() and not sample.mask[:, view.width :].any()
    for x, y, label in sample.points:
        assert sample.mask[int(y), int(x)] == bool(label)


@pytest.mark.parametrize("kind", list(pseudo_targets.KINDS))
@pytest.mark.parametrize("size", [64, 128])
def test_prompts_point_at_a_target_and_name_nothing(kind: str, size: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pseudo_targets, "KINDS", {kind: 1.0})
    pixels, labels = small_disks()
    source, targets = View(pixels, labels, *labels.shape), PseudoTargets(PromptSampler(VOCABULARY, fits))
    texture = np.random.default_rng(0).integers(0, 255, (50, 40, 3), np.uint8)
    for seed in range(25):
        rec, rngs = record(classes={1: "liver"}), [np.random.default_rng(seed) for _ in range(2)]
        (view, samples), (again, repeated) = (targets.draw(rec, source, texture, size, 4, rng) for rng in rngs)
        assert view.pixels.shape == (size, size, 3) and (view.pixels == again.pixels).all()
        assert view.target is not None and view.instances is None and len(samples) == 4
        for sample, second in zip(samples, repeated):
            check_prompt(sample, view)
            assert sample.points == second.points and sample.boxes == second.boxes and (sample.mask == second.mask).all()
    assert (source.pixels == small_disks()[0]).all() and (source.labels == small_disks()[1]).all()


@pytest.mark.parametrize("layout", list(pseudo_targets.LAYOUTS))
def test_shapes_of_every_layout_are_targets(layout: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pseudo_targets, "KINDS", {"shapes": 1.0})
    monkeypatch.setattr(pseudo_targets, "LAYOUTS", {layout: 1.0})
    source = View(np.full((90, 120, 3), 90, np.uint8), np.zeros((90, 120), np.int32), 90, 120)
    texture = np.random.default_rng(0).integers(0, 255, (50, 40, 3), np.uint8)
    targets, masks = PseudoTargets(PromptSampler(VOCABULARY, fits)), []
    for seed in range(20):
        view, samples = targets.draw(record(classes={}), source, texture, 96, 6, np.random.default_rng(seed))
        for sample in samples:
            check_prompt(sample, view)
            masks.append((seed, sample.mask))
    pairs = [(a, b) for i, (seed, a) in enumerate(masks) for other, b in masks[:i] if seed == other]
    contained = any((a & b == a).all() and a.sum() < b.sum() or (a & b == b).all() and b.sum() < a.sum() for a, b in pairs)
    assert contained == (layout in ("nested", "several"))


def test_a_box_around_all_parts_of_a_class_is_a_target_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pseudo_targets, "KINDS", {"annotated": 1.0})
    monkeypatch.setattr(pseudo_targets, "CROP_SHARE", 0.0)
    pixels, labels = small_disks()
    targets, whole = PseudoTargets(PromptSampler(VOCABULARY, fits)), 0
    for seed in range(30):
        source = View(pixels, labels, *labels.shape)
        view, samples = targets.draw(record(classes={1: "liver"}), source, pixels, 96, 4, np.random.default_rng(seed))
        for sample in samples:
            if (sample.mask == (view.labels == 1)).all() and len(instance_labels(view.labels, 1)[1]) == 2:
                whole += 1
                assert sample.boxes or sample.rough is not None
    assert 5 < whole < 60


def test_an_image_without_regions_or_structures_gets_shapes():
    source = View(np.full((90, 90, 3), 90, np.uint8), np.zeros((90, 90), np.int32), 90, 90)
    targets = PseudoTargets(PromptSampler(VOCABULARY, fits))
    for seed in range(12):
        view, samples = targets.draw(record(classes={}), source, source.pixels, 96, 2, np.random.default_rng(seed))
        for sample in samples:
            check_prompt(sample, view)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_point_excludes_the_neighbour_that_looks_the_same(seed: int):
    mask, neighbour = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    mask[10:30, 10:30], neighbour[10:30, 30:50] = True, True
    view = View(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.int32), 64, 64)
    sample = referring_prompt(PseudoTarget(mask, False, neighbour), view, np.random.default_rng(seed))
    check_prompt(sample, view)
    if sample.points:
        assert any(label == 0 and neighbour[int(y), int(x)] for x, y, label in sample.points)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_target_with_little_contrast_is_never_selected_by_a_point_alone(seed: int):
    mask = np.zeros((64, 64), bool)
    mask[10:30, 10:30] = True
    view = View(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.int32), 64, 64)
    sample = referring_prompt(PseudoTarget(mask, False), view, np.random.default_rng(seed))
    assert sample.boxes or sample.rough is not None


def test_batches_of_pseudo_targets_supervise_the_target_alone(phantoms):
    datasets = read_datasets(phantoms)
    vocabulary = Vocabulary.of(datasets)
    tokenizer = Tokenizer.train(corpus(vocabulary.entities, ("ct",), ("abdomen",)), 400, 32)

    def make(share: float, **options: float) -> Batches:
        config = MimoConfig.from_preset("micro")
        return Batches(datasets, vocabulary, tokenizer, config, batch=6, prompts=2, seed=3, pseudo_targets=share, **options)

    targets = make(1.0)(0, 64).targets
    assert (targets.select[:, 0] == 0).all() and targets.select_valid[:, 0].all() and targets.presence[:, 0].all()
    assert not targets.select_valid[:, 1:].any() and not targets.presence_known[:, 1:].any()
    assert not targets.answer.any() and (targets.group == -1).all()
    assert targets.has_reference.all() and not targets.text_names.any()
    assert torch.equal(make(1.0)(0, 64).pixels, make(1.0)(0, 64).pixels)
    some = make(0.5)(0, 64).targets.answer[:, 0] == 0
    assert some.any() and not some.all()
    assert not torch.equal(make(0.0)(0, 64).pixels, make(0.0, strong_augmentation=1.0)(0, 64).pixels)
    assert (make(0.0, strong_augmentation=1.0)(0, 64).targets.answer[:, 0] > 0).all()


def test_regions_are_searched_once_for_each_image(monkeypatch: pytest.MonkeyPatch):
    searched = []
    monkeypatch.setattr(pseudo_targets, "KINDS", {"regions": 1.0})
    monkeypatch.setattr(pseudo_targets, "image_regions", lambda pixels: searched.append(1) or [])
    pixels, labels = small_disks()
    targets = PseudoTargets(PromptSampler(VOCABULARY, fits))
    for image in ("one", "one", "other"):
        rec = replace(record(), image=image)
        targets.draw(rec, View(pixels, labels, *labels.shape), pixels, 64, 1, np.random.default_rng(0))
    assert len(searched) == 2
