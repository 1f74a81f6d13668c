"""Views: labels stay on their pixels, sides are kept, and copies and crops show what they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from views import VOCABULARY, fits, record, small_disks

from mimo_runtime.data.prompt_sampling import instance_labels
from mimo_train.data.augment import View, any_turn, copy_paste, crop_view, may_mirror, plain_view, random_view
from mimo_train.data.prompts import PromptSampler


def test_sides_are_never_mirrored():
    assert not may_mirror(record(region="brain", classes={1: "left ventricle"}))
    assert not may_mirror(record(region="brain", classes={1: "Left Ventricle"}))
    assert not may_mirror(record(region="breast", classes={1: "lesion"}), ["lesion", "Lt. nipple"])
    assert not may_mirror(record(region="colon", classes={1: "polyp"}), ["left flexure"])
    for region in ("abdomen", "Abdomen", "upper abdomen", "chest", "thorax", "pelvis"):
        assert not may_mirror(record(region=region, classes={1: "lesion"}))
    assert may_mirror(record(region="colon", classes={1: "polyp"}), ["polyp", "cleft"])


def test_structures_with_a_side_are_not_mirrored_in_endoscopy():
    """A vertical flip and a turn are a mirror as well."""
    labels = np.zeros((60, 60), np.int32)
    labels[5:25, 5:25], labels[5:25, 35:55], labels[35:55, 5:25] = 1, 2, 3  # the order of three corners tells a mirror
    bronchi = {1: "carina", 2: "left main bronchus", 3: "right main bronchus"}
    orientations = {"sided": set(), "free": set()}
    for seed in range(40):
        for kind, classes in (("sided", bronchi), ("free", {1: "a", 2: "b", 3: "c"})):
            rec = record(modality="endoscopy", region="bronchi", classes=classes)
            view = random_view(np.zeros((60, 60, 3), np.uint8), labels, rec, 96, np.random.default_rng(seed))
            if {1, 2, 3} <= set(np.unique(view.labels)):
                one, two, three = (np.argwhere(view.labels == i).mean(0) for i in (1, 2, 3))
                a, b = two - one, three - one
                orientations[kind].add(bool(a[0] * b[1] > a[1] * b[0]))
    assert len(orientations["sided"]) == 1 and len(orientations["free"]) == 2


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


def test_class_ids_beyond_8_bits_survive_the_warp():
    labels = np.zeros((60, 60), np.int32)
    labels[10:40, 10:40] = 300
    view = random_view(np.zeros((60, 60, 3), np.uint8), labels, record(classes={300: "liver"}), 64, np.random.default_rng(0))
    assert set(np.unique(view.labels)) == {0, 300}


def test_copy_paste_adds_a_second_instance_with_the_same_appearance():
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
    # No structure of a fit size, or no room: the view stays as it is.
    for whole in (np.full((64, 64), 4, np.int32), np.zeros((64, 64), np.int32)):
        view = plain_view(np.zeros((64, 64, 3), np.uint8), whole, 64)
        assert not copy_paste(view, np.random.default_rng(0)) and (view.labels == whole).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([64, 128]))
def test_a_crop_view_shows_its_target_large_and_with_contrast(seed: int, size: int):
    pixels, labels = small_disks()
    rng = np.random.default_rng(seed)
    sampler = PromptSampler(VOCABULARY, fits)
    class_id, target = sampler.focus(View(pixels, labels, *labels.shape), record(classes={1: "liver"}), rng)
    view = crop_view(pixels, labels, target, record(classes={1: "liver"}), size, rng)
    if view is None:  # both of them
        assert (target == (labels == 1)).all()
        return
    assert view.pixels.shape == (size, size, 3) and max(view.height, view.width) == size
    assert view.target.mean() > 2 * target.mean()  # at least; the view may be turned, and is cut at the border of the image
    assert (view.labels[view.target] == 1).mean() > 0.95 and not view.target[view.height :].any()
    area = np.s_[: view.height, : view.width]
    inside, around = view.pixels[view.target], view.pixels[area][~view.target[area]]
    assert inside.mean() - np.median(around) > 30  # the difference in the image; darkening can take back a part of the gain
    for sample in sampler.draw_crop(view, record(classes={1: "liver"}), class_id, 6, rng):
        assert sample.answer == "" and (sample.mask == view.target).all()
        assert sample.boxes or sample.points or sample.rough is not None
        for x, y, label in sample.points:
            assert view.target[int(y), int(x)] == bool(label)


def test_a_large_structure_has_no_crop_view():
    labels = np.zeros((100, 100), np.int32)
    labels[20:70, 20:70] = 1
    pixels = np.zeros((100, 100, 3), np.uint8)
    assert crop_view(pixels, labels, labels == 1, record(), 64, np.random.default_rng(0)) is None
    assert PromptSampler(VOCABULARY, fits).focus(View(pixels, 0 * labels, 100, 100), record(), np.random.default_rng(0)) is None


def test_every_turn_and_mirror_occurs_and_keeps_labels_on_their_pixels():
    labels = np.zeros((20, 32), np.int32)
    labels[2:8, 3:9], labels[12:16, 20:30] = 1, 2
    pixels = np.repeat((labels * 100).astype(np.uint8)[..., None], 3, axis=2)
    seen = set()
    for seed in range(80):
        view = any_turn(View(pixels, labels, 20, 32, labels + 5), np.random.default_rng(seed))
        assert (view.height, view.width) == view.labels.shape == view.pixels.shape[:2]
        assert (view.pixels[..., 0] == view.labels * 100).all() and (view.instances == view.labels + 5).all()
        seen.add(view.labels.tobytes() + bytes(view.labels.shape))
    assert len(seen) == 8
