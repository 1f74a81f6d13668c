"""Views and prompts: what the model is asked and told must agree with the masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.config import MimoConfig
from mimo_runtime.evaluation.dataset import Record, read_datasets
from mimo_runtime.evaluation.grammar import corpus, parse
from mimo_runtime.tokenizer import Tokenizer
from mimo_train.augment import View, may_mirror, plain_view, random_view
from mimo_train.batches import Batches
from mimo_train.questions import Questioner, Vocabulary


def record(**changes) -> Record:
    values = dict(
        set_name="phantoms",
        image=Path("x"),
        mask=None,
        case="1",
        split="train",
        modality="ct",
        region="abdomen",
        classes={1: "liver", 2: "spleen"},
    )
    return Record(**{**values, **changes})


VOCABULARY = Vocabulary(
    ("liver", "spleen", "polyp", "kidney cyst"),
    {"phantoms": frozenset({"liver", "spleen", "kidney cyst"}), "colon": frozenset({"polyp"})},
    {
        "liver": frozenset({"abdomen"}),
        "spleen": frozenset({"abdomen"}),
        "kidney cyst": frozenset({"abdomen"}),
        "polyp": frozenset({"colon"}),
    },
)


def scene(seed: int = 0) -> View:
    labels = np.zeros((128, 128), np.int32)
    labels[10:60, 10:50], labels[70:90, 60:100] = 1, 2
    pixels = np.random.default_rng(seed).integers(0, 255, (128, 128, 3), np.uint8)
    return View(pixels, labels, 100, 128)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_prompt_agrees_with_its_answer(seed):
    view, rec = scene(), record()
    for sample in Questioner(VOCABULARY).draw(view, rec, 4, np.random.default_rng(seed)):
        said = parse(sample.answer)
        assert said.modality == "ct" and said.region == "abdomen"
        if sample.asks_all:
            assert {p.query for p in said.phrases} == {1, 2} and set(sample.entity_masks) == {0, 1}
        elif sample.mask is None:
            assert said.absent in ("kidney cyst", "polyp") and said.absent in sample.text.lower()
        else:
            phrase = said.phrases[0]
            assert phrase.query == 0 and (view.labels[sample.mask] == {"liver": 1, "spleen": 2}[phrase.name]).all()
            assert sample.text_names == (phrase.name in sample.text)
            ys, xs = np.nonzero(sample.mask)
            for x0, y0, x1, y1 in sample.boxes:
                inside = np.mean((xs >= x0 - 1) & (xs < x1 + 1) & (ys >= y0 - 1) & (ys < y1 + 1))
                assert inside > 0.5
            for x, y, label in sample.points:
                assert sample.mask[int(y), int(x)] == bool(label)
            if sample.rough is not None:
                assert sample.rough.shape == (view.height, view.width)


def test_an_image_without_findings_is_only_asked_for_what_is_not_there():
    empty = View(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.int32), 64, 64)
    for seed in range(20):
        for sample in Questioner(VOCABULARY).draw(empty, record(classes={}), 4, np.random.default_rng(seed)):
            assert sample.mask is None and not parse(sample.answer).phrases


def test_a_name_of_the_same_region_is_never_claimed_absent_by_another_set():
    other = record(set_name="colon", region="abdomen", classes={})
    assert VOCABULARY.absent(other, "polyp") and not VOCABULARY.absent(other, "liver")
    assert VOCABULARY.absent(record(), "polyp") and not VOCABULARY.absent(record(), "liver")


def test_vocabulary_keeps_the_queries_of_known_entities(phantoms):
    vocabulary = Vocabulary.of(read_datasets(phantoms), known=("polyp", "liver"))
    assert vocabulary.entities[:2] == ("polyp", "liver") and len(set(vocabulary.entities)) == len(vocabulary.entities)


def test_sides_are_never_mirrored():
    assert not may_mirror(record(region="brain", classes={1: "left ventricle"}))
    assert not may_mirror(record(classes={1: "liver"}))
    assert may_mirror(record(region="colon", classes={1: "polyp"}))


@pytest.mark.parametrize(("height", "width"), [(50, 200), (200, 50), (256, 256), (31, 33)])
def test_views_keep_labels_on_their_pixels(height, width):
    """A bright structure stays under its label through every warp."""
    labels = np.zeros((height, width), np.int32)
    labels[height // 4 : height // 2, width // 4 : width // 2] = 1
    pixels = np.repeat((labels * 200 + 20).astype(np.uint8)[..., None], 3, axis=2)
    plain = plain_view(pixels, labels, 128)
    assert max(plain.height, plain.width) == 128 and plain.pixels.shape == (128, 128, 3)
    assert (plain.pixels[plain.labels == 1] > 110).mean() > 0.9
    for seed in range(10):
        view = random_view(pixels, labels, record(), 128, np.random.default_rng(seed))
        assert (
            view.pixels.shape == (128, 128, 3)
            and not view.labels[view.height :].any()
            and not view.labels[:, view.width :].any()
        )
        inside = view.labels == 1
        if inside.sum() > 50:
            shown = view.pixels[: view.height, : view.width, 0].astype(float)
            mask = inside[: view.height, : view.width]
            assert shown[mask].mean() > shown[~mask].mean() + 40


def test_batches_depend_on_seed_and_step_alone(phantoms):
    datasets = read_datasets(phantoms)
    vocabulary = Vocabulary.of(datasets)
    tokenizer = Tokenizer.train(corpus(vocabulary.entities, ["ct"], ["abdomen"]), 512, 32)
    config = MimoConfig.from_preset("micro")
    make = lambda **o: Batches(datasets, vocabulary, tokenizer, config, batch=4, prompts=3, **{"seed": 1, **o})  # noqa: E731
    one, two, other = make()(5, 64), make()(5, 64), make(seed=2)(5, 64)
    assert np.array_equal(one.pixels, two.pixels) and np.array_equal(one.targets.masks, two.targets.masks)
    assert np.array_equal(one.question.token_ids, two.question.token_ids)
    assert not np.array_equal(one.pixels, other.pixels)
    halves = [make(rank=r, world=2)(5, 64).pixels for r in range(2)]
    assert np.array_equal(one.pixels[0::2], halves[0]) and np.array_equal(one.pixels[1::2], halves[1])


def test_class_ids_beyond_8_bits_survive_the_warp():
    labels = np.zeros((60, 60), np.int32)
    labels[10:40, 10:40] = 300
    view = random_view(np.zeros((60, 60, 3), np.uint8), labels, record(classes={300: "liver"}), 64, np.random.default_rng(0))
    assert set(np.unique(view.labels)) == {0, 300}
