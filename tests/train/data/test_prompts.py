"""Views and prompts: what the model is asked and told must agree with the masks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.data.dataset import Dataset, Record, read_datasets
from mimo_runtime.data.prompt_sampling import instance_labels
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.text.grammar import parse
from mimo_runtime.text.observe import relation_word
from mimo_runtime.text.questions import corpus, neighbours_asked, relation_asked, subject_of
from mimo_train.data.augment import View, copy_paste, crop_view, may_mirror, plain_view, random_view
from mimo_train.data.loader import Batches
from mimo_train.data.prompts import PromptSampler, Vocabulary


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


def fits(_text: str) -> bool:
    return True


def scene(seed: int = 0) -> View:
    labels = np.zeros((128, 128), np.int32)
    labels[10:60, 10:50], labels[70:90, 60:100] = 1, 2
    pixels = np.random.default_rng(seed).integers(0, 255, (128, 128, 3), np.uint8)
    return View(pixels, labels, 100, 128)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_prompt_agrees_with_its_answer(seed):
    view, rec = scene(), record()
    for sample in PromptSampler(VOCABULARY, fits).draw(view, rec, 4, np.random.default_rng(seed)):
        said = parse(sample.answer)
        assert said.modality == "ct" and said.region == "abdomen"
        if sample.several and said.relation:
            # The liver lies up and to the left of the spleen, farther up than to the left or the other way round.
            lower = relation_word(view.labels == 2, view.labels == 1)
            upper = relation_word(view.labels == 1, view.labels == 2)
            true = {("liver", upper, "spleen"), ("spleen", lower, "liver")}
            assert {(p.name, said.relation, said.other.name) for p in said.phrases} <= true
            if not said.phrases:
                assert ({"liver": "spleen", "spleen": "liver"}[said.other.name], said.relation, said.other.name) not in true
            assert {p.query for p in (*said.phrases, said.other)} <= {1, 2} and subject_of(sample.text) is None
        elif sample.several and said.absent:
            assert said.absent == "kidney cyst" and said.absent in sample.text and sample.mask is None
        elif sample.several:
            assert {p.query for p in said.phrases} == {1, 2} and sample.mask is None
        elif sample.mask is None:
            assert said.absent in ("kidney cyst", "polyp") and sample.text_names
        else:
            phrase = said.phrases[0]
            assert phrase.query == 0 and (view.labels[sample.mask] == {"liver": 1, "spleen": 2}[phrase.name]).all()
            if phrase.name in sample.text:
                assert sample.text_names
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
        for sample in PromptSampler(VOCABULARY, fits).draw(empty, record(classes={}), 4, np.random.default_rng(seed)):
            assert sample.mask is None and not parse(sample.answer).phrases


def test_a_name_of_the_same_region_is_never_claimed_absent_by_another_set():
    other = record(set_name="colon", region="abdomen", classes={})
    assert VOCABULARY.absent(other, "polyp") and not VOCABULARY.absent(other, "liver")
    assert VOCABULARY.absent(record(), "polyp") and not VOCABULARY.absent(record(), "liver")
    assert VOCABULARY.absent(record(region="Abdomen"), "polyp") and not VOCABULARY.absent(other, "liver")
    assert not VOCABULARY.absent(record(set_name="colon", region="Abdomen", classes={}), "liver")


def test_vocabulary_keeps_the_queries_of_known_entities(phantoms):
    vocabulary = Vocabulary.of(read_datasets(phantoms), known=("polyp", "liver"))
    assert vocabulary.entities[:2] == ("polyp", "liver") and len(set(vocabulary.entities)) == len(vocabulary.entities)


@pytest.fixture
def liver_set() -> list[Dataset]:
    """Own data that names one organ, and writes it and its region in another case than a checkpoint does."""
    return [Dataset("mine", Path("mine"), (record(set_name="mine", region="Abdomen", classes={1: "Liver"}),))]


def test_fine_tuning_claims_nothing_absent_that_nobody_looked_for(liver_set):
    """Own liver images show spleens that nobody drew: they must not teach "no spleen is visible"."""
    mine = liver_set[0].records[0]
    known, regions = ("spleen", "liver", "polyp"), (("abdomen",), ("abdomen",), ("colon",))
    vocabulary = Vocabulary.of(liver_set, known, regions)
    assert vocabulary.entities == known and vocabulary.classes(mine) == {1: "liver"}
    assert not vocabulary.absent(mine, "spleen") and vocabulary.absent(mine, "polyp") and not vocabulary.absent(mine, "liver")
    assert vocabulary.regions == regions
    # Without regions (a checkpoint that does not know them) nothing is claimed at all.
    assert not any(Vocabulary.of(liver_set, known).absent(mine, name) for name in known)


def test_one_name_in_two_spellings_is_one_entity(liver_set):
    vocabulary = Vocabulary.of(liver_set)
    assert vocabulary.entities == ("Liver",) and vocabulary.regions == (("abdomen",),)
    both = Vocabulary.of(liver_set, ("LIVER", "spleen"), (("abdomen",), ("abdomen",)))
    assert both.entities == ("LIVER", "spleen") and both.of_set == {"mine": frozenset({"LIVER"})}
    view = View(np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), np.int32), 64, 64)
    for sample in PromptSampler(both, fits).draw(view, liver_set[0].records[0], 8, np.random.default_rng(0)):
        assert sample.mask is not None or sample.several


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_every_number_of_prompts_serves_every_kind(count):
    """With fewer than four prompts some kinds never came, with more the first came too often."""
    asker, found, total = PromptSampler(VOCABULARY, fits), Counter(), 0
    for seed in range(400):
        drawn = asker.draw(scene(), record(), count, np.random.default_rng(seed))
        total += len(drawn)
        for s in drawn:
            pointed = "box" if s.boxes and not s.points else "mixed" if s.boxes else "point" if s.points else "rough"
            has_reference = s.boxes or s.points or s.rough is not None
            found[pointed if has_reference else "several" if s.several else "absent" if s.mask is None else "text"] += 1
    shares = {kind: number / total for kind, number in found.items()}
    wanted = {"point": 0.125, "rough": 0.0875, "mixed": 0.0375, "text": 0.25, "box": 0.25, "absent": 0.1, "several": 0.15}
    assert shares.keys() == wanted.keys()
    assert all(abs(shares[kind] - share) < 0.05 for kind, share in wanted.items()), shares


def test_relations_to_what_is_not_there_are_refused():
    """Otherwise the model learns that whatever is named in such a question is there."""
    view, asker, found = scene(), PromptSampler(VOCABULARY, fits), {1: "liver", 2: "spleen"}
    drawn = [asker._relation(view, record(), found, np.random.default_rng(seed)) for seed in range(200)]
    absent = [s for s in drawn if parse(s.answer).absent]
    assert 20 < len(absent) < 60
    for s in absent:
        assert parse(s.answer).absent == "kidney cyst" and "kidney cyst" in s.text and not parse(s.answer).phrases
        assert s.several and s.mask is None
        assert relation_asked(s.text) or neighbours_asked(s.text)[1] == "kidney cyst"
    assert not any("kidney cyst" in s.text for s in drawn if s not in absent)


def test_own_words_for_own_classes_are_practised():
    asker = PromptSampler(VOCABULARY, fits, words={"liver": ("jecur",)})
    texts = [asker._ask("liver", np.random.default_rng(seed)) for seed in range(300)]
    assert sum("jecur" in text for text in texts) > 5
    assert not any("jecur" in asker._ask("spleen", np.random.default_rng(seed)) for seed in range(100))


def test_sides_are_never_mirrored():
    assert not may_mirror(record(region="brain", classes={1: "left ventricle"}))
    assert not may_mirror(record(region="brain", classes={1: "Left Ventricle"}))
    assert not may_mirror(record(region="breast", classes={1: "lesion"}), ["lesion", "Lt. nipple"])
    assert not may_mirror(record(region="colon", classes={1: "polyp"}), ["left flexure"])
    for region in ("abdomen", "Abdomen", "upper abdomen", "chest", "thorax", "pelvis"):
        assert not may_mirror(record(region=region, classes={1: "lesion"}))
    assert may_mirror(record(region="colon", classes={1: "polyp"}), ["polyp", "cleft"])


def test_what_has_a_side_keeps_it_in_endoscopy_too():
    """A vertical flip and a turn are a mirror as well."""
    labels = np.zeros((60, 60), np.int32)
    labels[5:25, 5:25], labels[5:25, 35:55], labels[35:55, 5:25] = 1, 2, 3  # the order of three corners tells a mirror
    bronchi = {1: "carina", 2: "left main bronchus", 3: "right main bronchus"}
    turned = {"sided": set(), "free": set()}
    for seed in range(40):
        for kind, classes in (("sided", bronchi), ("free", {1: "a", 2: "b", 3: "c"})):
            rec = record(modality="endoscopy", region="bronchi", classes=classes)
            view = random_view(np.zeros((60, 60, 3), np.uint8), labels, rec, 96, np.random.default_rng(seed))
            if {1, 2, 3} <= set(np.unique(view.labels)):
                one, two, three = (np.argwhere(view.labels == i).mean(0) for i in (1, 2, 3))
                a, b = two - one, three - one
                turned[kind].add(bool(a[0] * b[1] > a[1] * b[0]))
    assert len(turned["sided"]) == 1 and len(turned["free"]) == 2


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


def test_touching_instances_are_told_apart_by_their_map():
    """Two polyps that touch are one component; the instance map says that they are two, through every warp."""
    labels, parts = np.zeros((90, 120), np.int32), np.zeros((90, 120), np.int32)
    labels[20:60, 20:100] = 1
    parts[20:60, 20:60], parts[20:60, 60:100] = 7, 300
    rec = record(region="colon", classes={1: "polyp"})
    for seed in range(12):
        view = random_view(np.zeros((90, 120, 3), np.uint8), labels, rec, 128, np.random.default_rng(seed), parts)
        assert set(np.unique(view.instances)) <= {0, 7, 300} and not (view.instances[view.labels == 0]).any()
        mask, count = PromptSampler._target(view, 1, np.random.default_rng(seed), 1.0)
        if len(np.unique(view.instances)) == 3:
            assert count == 1 and len(np.unique(view.instances[mask])) == 1
        whole, number = PromptSampler._target(view, 1, np.random.default_rng(seed), 0.0)
        assert number == len(np.unique(view.instances)) - 1 and np.array_equal(whole, view.labels == 1)


def test_sentences_count_instances_by_their_map():
    view, rec = scene(), record(classes={1: "liver"})
    view.labels[view.labels == 2] = 0
    view.instances = np.zeros_like(view.labels)
    view.instances[10:60, 10:30], view.instances[10:60, 30:50] = 1, 2  # touching: one component
    for kind in ("_text", "_all"):
        sample = getattr(PromptSampler(VOCABULARY, fits), kind)(view, rec, {1: "liver"}, np.random.default_rng(0))
        assert parse(sample.answer).phrases[0].count == "two"


def test_what_is_too_small_to_name_is_not_denied():
    """Eleven pixels of spleen: neither "no finding" nor a list without it may be taught."""
    for with_liver in (True, False):
        view = scene()
        view.labels[view.labels == 2] = 0
        view.labels[80, 60:71] = 2
        if not with_liver:
            view.labels[view.labels == 1] = 0
        for seed in range(40):
            for sample in PromptSampler(VOCABULARY, fits).draw(view, record(), 4, np.random.default_rng(seed)):
                assert not sample.several


def test_questions_that_are_too_long_are_not_asked():
    short = lambda text: len(text) <= len("kidney cyst")  # noqa: E731
    for seed in range(60):
        for sample in PromptSampler(VOCABULARY, short).draw(scene(), record(), 4, np.random.default_rng(seed)):
            assert not parse(sample.answer).relation
            assert not sample.text_names or short(sample.text)


def test_entities_are_supervised_by_their_own_masks(phantoms):
    """Slots beside the target hold entities that are there with their mask, or that are surely absent without one."""
    datasets = read_datasets(phantoms)
    vocabulary = Vocabulary.of(datasets)
    tokenizer = Tokenizer.train(corpus(vocabulary.entities, ["ct"], ["abdomen"]), 512, 32)
    batches = Batches(datasets, vocabulary, tokenizer, MimoConfig.from_preset("micro"), batch=6, prompts=4, seed=3)
    there = absent = 0
    for step in range(3):
        t = batches(step, 64).targets
        entity = (t.select > 0) & (t.presence_known > 0)
        assert (t.masks.amax((-2, -1)) > 0)[entity & (t.presence > 0)].all()
        assert not t.masks[entity & (t.presence == 0)].any()
        assert torch.equal(t.select_valid, t.presence * t.presence_known)
        wide = t.boxes[..., 2:] - t.boxes[..., :2]
        assert (wide[t.select_valid > 0] > 0).all() and not t.boxes[t.select_valid == 0].any()
        there, absent = there + int((entity & (t.presence > 0)).sum()), absent + int((entity & (t.presence == 0)).sum())
    assert there > absent > 0


def test_the_emphasis_of_a_set_changes_how_often_it_is_drawn(phantoms):
    datasets = read_datasets(phantoms)
    vocabulary = Vocabulary.of(datasets)
    tokenizer = Tokenizer.train(corpus(vocabulary.entities, ["ct"], ["abdomen"]), 512, 32)
    twice = [*datasets, replace(datasets[0], name="copy")]

    def make(emphasis: dict[str, float]) -> Batches:
        config = MimoConfig.from_preset("micro")
        return Batches(twice, vocabulary, tokenizer, config, batch=2, prompts=1, seed=0, emphasis=emphasis)

    assert make({}).cumulative.tolist() == pytest.approx([0.5, 1.0])
    assert make({"copy": 3.0}).cumulative.tolist() == pytest.approx([0.25, 1.0])


def test_a_pasted_copy_is_a_second_instance_that_looks_like_the_first():
    yy, xx = np.mgrid[:96, :128]
    labels = ((xx - 30) ** 2 + (yy - 40) ** 2 < 100).astype(np.int32) * 4
    pixels = np.repeat(np.where(labels, 200, 40).astype(np.uint8)[..., None], 3, axis=2)
    for parts in (None, (labels > 0).astype(np.int32)):
        view = plain_view(pixels, labels, 128, parts)
        before = view.labels.copy()
        assert copy_paste(view, np.random.default_rng(1))
        assert (view.labels[before == 4] == 4).all() and set(np.unique(view.labels)) == {0, 4}
        maps, areas = instance_labels(view.labels, 4, view.instances)
        assert len(areas) == 2 and abs(areas[0] - areas[1]) <= 0.05 * areas[0]
        assert view.pixels[view.labels == 4].min() > 150 and not view.labels[view.height :].any()
    # Nothing of a fit size, or no room: the view stays as it is.
    for whole in (np.full((64, 64), 4, np.int32), np.zeros((64, 64), np.int32)):
        view = plain_view(np.zeros((64, 64, 3), np.uint8), whole, 64)
        assert not copy_paste(view, np.random.default_rng(0)) and (view.labels == whole).all()


def test_several_of_a_kind_are_pointed_at_more_often():
    labels = np.zeros((64, 64), np.int32)
    labels[4:14, 4:14] = labels[40:50, 40:50] = 1
    labels[4:14, 40:50] = 2
    view = View(np.zeros((64, 64, 3), np.uint8), labels, 64, 64)
    found, rng = {1: "polyp", 2: "ulcer"}, np.random.default_rng(0)
    picked = [PromptSampler._pick_one(view, found, rng)[0] for _ in range(400)]
    assert 0.68 < np.mean(np.array(picked) == 1) < 0.82  # half of the time surely, else one of two


def small_things() -> tuple[np.ndarray, np.ndarray]:
    """A dim image with two small bright disks of class 1."""
    yy, xx = np.mgrid[:150, :200]
    labels = (((xx - 60) ** 2 + (yy - 40) ** 2 < 50) | ((xx - 150) ** 2 + (yy - 110) ** 2 < 90)).astype(np.int32)
    return np.repeat(np.where(labels, 90, 60).astype(np.uint8)[..., None], 3, axis=2), labels


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([64, 128]))
def test_a_closer_view_shows_its_target_large_and_clear(seed: int, size: int):
    pixels, labels = small_things()
    rng = np.random.default_rng(seed)
    asker = PromptSampler(VOCABULARY, fits)
    class_id, target = asker.focus(View(pixels, labels, *labels.shape), record(classes={1: "liver"}), rng)
    view = crop_view(pixels, labels, target, record(classes={1: "liver"}), size, rng)
    if view is None:  # both of them
        assert (target == (labels == 1)).all()
        return
    assert view.pixels.shape == (size, size, 3) and max(view.height, view.width) == size
    assert view.target.mean() > 2 * target.mean()  # at least; the view may be turned, and is cut at the border of the image
    assert (view.labels[view.target] == 1).mean() > 0.95 and not view.target[view.height :].any()
    area = np.s_[: view.height, : view.width]
    inside, around = view.pixels[view.target], view.pixels[area][~view.target[area]]
    assert inside.mean() - np.median(around) > 45  # of 30 grey values between the two
    for sample in asker.draw_crop(view, record(classes={1: "liver"}), class_id, 6, rng):
        assert sample.answer == "" and (sample.mask == view.target).all()
        assert sample.boxes or sample.points or sample.rough is not None
        for x, y, label in sample.points:
            assert view.target[int(y), int(x)] == bool(label)


def test_what_is_large_already_has_no_closer_view():
    labels = np.zeros((100, 100), np.int32)
    labels[20:70, 20:70] = 1
    pixels = np.zeros((100, 100, 3), np.uint8)
    assert crop_view(pixels, labels, labels == 1, record(), 64, np.random.default_rng(0)) is None
    assert PromptSampler(VOCABULARY, fits).focus(View(pixels, 0 * labels, 100, 100), record(), np.random.default_rng(0)) is None


def test_batches_of_closer_views_teach_masks_and_no_text(phantoms):
    datasets = read_datasets(phantoms)
    vocabulary = Vocabulary.of(datasets)
    tokenizer = Tokenizer.train(corpus(vocabulary.entities, ("ct",), ("abdomen",)), 400, 32)
    config = MimoConfig.from_preset("micro")
    make = lambda share: Batches(datasets, vocabulary, tokenizer, config, batch=6, prompts=2, seed=3, closer=share)  # noqa: E731
    plain, near = make(0.0)(0, 64), make(1.0)(0, 64)
    assert (plain.targets.answer[:, 0] > 0).all()
    silent = near.targets.answer.sum(1) == 0
    assert silent.any()  # a view of something large is as ever
    assert (near.targets.select[silent] == 0).all() and near.targets.select_valid[silent, 0].all()
    assert not near.targets.select_valid[silent, 1:].any() and not near.targets.presence_known[silent, 1:].any()
    assert near.targets.has_reference[silent].all()
    again = make(1.0)(0, 64)
    assert torch.equal(near.pixels, again.pixels) and torch.equal(near.targets.masks, again.targets.masks)


def test_more_of_the_questions_can_point_at_something():
    """By itself half of the questions have a reference; ``references`` turns so many of the others into ones that have."""

    def share(references: float) -> float:
        asker, drawn = PromptSampler(VOCABULARY, fits, references), []
        for seed in range(200):
            drawn += asker.draw(scene(), record(), 4, np.random.default_rng(seed))
        return float(np.mean([bool(s.boxes or s.points or s.rough is not None) for s in drawn]))

    assert share(0.0) == pytest.approx(0.5, abs=0.02)
    assert share(0.6) == pytest.approx(0.8, abs=0.04)
    assert share(1.0) == 1.0
    empty = View(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.int32), 64, 64)
    for sample in PromptSampler(VOCABULARY, fits, 1.0).draw(empty, record(classes={}), 4, np.random.default_rng(0)):
        assert sample.mask is None and not (sample.boxes or sample.points)
