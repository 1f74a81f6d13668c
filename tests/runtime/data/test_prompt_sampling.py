"""Prompts drawn from masks keep what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.data import prompt_sampling
from mimo_runtime.evaluation import metrics

SEEDS = st.integers(0, 2**32 - 1)


def disk(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    ys, xs = np.mgrid[:height, :width] + 0.5
    return (xs - x) ** 2 + (ys - y) ** 2 <= radius**2


def random_mask(seed: int) -> np.ndarray:
    """Not empty, any density, any small shape."""
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 20, 2)) < rng.random()
    mask[rng.integers(mask.shape[0]), rng.integers(mask.shape[1])] = True
    return mask


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_every_prompt_fits_the_mask(seed: int) -> None:
    mask, rng = random_mask(seed), np.random.default_rng(seed)
    height, width = mask.shape
    x0, y0, x1, y1 = prompt_sampling.mask_box(mask)
    assert mask[y0:y1, x0:x1].sum() == mask.sum()
    a, b, c, d = prompt_sampling.jitter_box(mask, rng)
    assert 0 <= a < c <= width and 0 <= b < d <= height
    for side, true, length in ((a, x0, x1 - x0), (c, x1, x1 - x0), (b, y0, y1 - y0), (d, y1, y1 - y0)):
        assert abs(side - true) <= 0.1 * length + 1e-9
    x, y = prompt_sampling.interior_point(mask, rng)
    assert mask[y, x]
    x, y = prompt_sampling.centre_point(mask)
    assert mask[y, x]
    outside = prompt_sampling.negative_point(mask, rng)
    assert mask.all() if outside is None else not mask[outside[1], outside[0]]
    rough = prompt_sampling.rough_mask(mask, rng)
    assert rough.dtype == bool and rough.shape == mask.shape and rough.any()


@pytest.mark.parametrize("function", [prompt_sampling.jitter_box, prompt_sampling.interior_point, prompt_sampling.rough_mask])
def test_empty_masks_are_refused(function) -> None:
    with pytest.raises(ValueError, match="empty"):
        function(np.zeros((8, 8), bool), np.random.default_rng(0))


def test_same_seed_same_prompts_and_other_seed_others() -> None:
    mask = disk(100, 120, 60, 50, 30)

    def draw(seed: int) -> tuple:
        rng = np.random.default_rng(seed)
        rough = prompt_sampling.rough_mask(mask, rng).tobytes()
        box, point = prompt_sampling.jitter_box(mask, rng), prompt_sampling.interior_point(mask, rng)
        return box, point, prompt_sampling.negative_point(mask, rng), rough

    assert draw(1) == draw(1)
    assert all(a != b for a, b in zip(draw(1), draw(2)))


def test_jitter_uses_its_whole_range() -> None:
    mask = disk(200, 200, 100, 100, 50)
    rng = np.random.default_rng(0)
    moved = np.array([prompt_sampling.jitter_box(mask, rng) for _ in range(500)]) - prompt_sampling.mask_box(mask)
    assert (moved.min(0) < -9).all() and (moved.max(0) > 9).all()


def test_interior_points_keep_away_from_the_edge() -> None:
    mask = disk(100, 100, 50, 50, 30)
    distance = prompt_sampling.city_block_distance(mask)
    rng = np.random.default_rng(0)
    drawn = [distance[y, x] for x, y in (prompt_sampling.interior_point(mask, rng) for _ in range(500))]
    assert np.mean(drawn) > 1.3 * distance[mask].mean()
    assert min(drawn) < distance.max() / 3  # but they are not all in the middle


def test_centre_point_of_a_disk_and_a_ring() -> None:
    assert prompt_sampling.centre_point(disk(60, 80, 40.5, 20.5, 15)) == (40, 20)
    ring = disk(60, 60, 30, 30, 25) & ~disk(60, 60, 30, 30, 10)
    x, y = prompt_sampling.centre_point(ring)
    assert ring[y, x] and prompt_sampling.city_block_distance(ring)[y, x] >= 7


def test_negative_points_are_often_near() -> None:
    mask, rng = disk(200, 200, 100, 100, 20), np.random.default_rng(0)
    near = [max(abs(x - 100), abs(y - 100)) <= 32 for x, y in (prompt_sampling.negative_point(mask, rng) for _ in range(300))]
    assert 0.4 < np.mean(near) < 0.7


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_city_block_distance_is_the_definition(seed: int) -> None:
    mask = random_mask(seed)
    ys, xs = np.nonzero(~np.pad(mask, 1))
    grid_y, grid_x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 1
    expected = (abs(grid_y[..., None] - ys) + abs(grid_x[..., None] - xs)).min(-1)
    np.testing.assert_array_equal(prompt_sampling.city_block_distance(mask), expected)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.floats(0.5, 25))
def test_dilation_is_the_definition(seed: int, radius: float) -> None:
    mask = random_mask(seed)
    ys, xs = np.nonzero(mask)
    grid_y, grid_x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    squared = ((grid_y[..., None] - ys) ** 2 + (grid_x[..., None] - xs) ** 2).min(-1)
    np.testing.assert_array_equal(prompt_sampling._dilate(mask, radius), squared <= radius * radius)


@pytest.mark.parametrize("many", [False, True])
def test_rough_masks_are_rough_in_proportion(many: bool) -> None:
    """One large disk or a field of small ones: the Dice with the truth is alike, because roughness follows thickness."""
    mask = disk(240, 240, 120, 120, 60)
    if many:
        mask = np.zeros((240, 240), bool)
        for y in range(20, 240, 40):
            for x in range(20, 240, 40):
                mask |= disk(240, 240, x, y, 12)
    rng = np.random.default_rng(0)
    found = [metrics.dice(prompt_sampling.rough_mask(mask, rng), mask) for _ in range(60)]
    assert 0.8 < np.mean(found) < 0.93 and min(found) > 0.65 and max(found) < 1
    larger = [prompt_sampling.rough_mask(mask, rng).sum() > mask.sum() for _ in range(60)]
    assert 10 < sum(larger) < 50  # eroded and dilated both happen


def test_thin_masks_survive_erosion() -> None:
    line, blocks = np.zeros((2, 50, 50), bool)
    line[20:22, 5:45] = True
    blocks[5:45].reshape(8, 5, 50)[:, :3] = (np.arange(50) % 6 < 4) & (np.arange(50) > 5)  # erosion leaves a sixth
    rng = np.random.default_rng(0)
    for mask in (line, blocks):
        assert all(prompt_sampling.rough_mask(mask, rng).sum() >= 0.3 * mask.sum() for _ in range(50))


def test_instances_without_crumbs_in_raster_order() -> None:
    labels = np.zeros((60, 60), np.int32)
    labels[40:50, 40:50] = 3
    labels[5:15, 5:15] = 3
    labels[30, 5:8] = 3  # 3 pixels: a crumb
    labels[5:15, 40:50] = 1
    found = prompt_sampling.instances(labels, 3)
    assert [prompt_sampling.mask_box(m) for m in found] == [(5, 5, 15, 15), (40, 40, 50, 50)]
    parts, areas = prompt_sampling.instance_labels(labels, 3)
    assert parts.max() == 2 and areas.tolist() == [100, 100] and parts[30, 6] == 0
    assert prompt_sampling.instances(labels, 7) == []
    tiny = np.zeros((5, 5), np.int32)
    tiny[2, 2] = 1
    assert len(prompt_sampling.instances(tiny, 1)) == 1  # the only pixel is no crumb


def test_instance_maps_split_what_touches() -> None:
    labels = np.ones((10, 10), np.int32)
    ids = np.repeat([[7, 9]], 10, 0).repeat(5, 1)
    found = prompt_sampling.instances(labels, 1, ids)
    assert len(found) == 2 and found[0][:, :5].all() and not found[0][:, 5:].any()
    assert len(prompt_sampling.instances(labels, 1)) == 1
    ids[0] = 0  # not part of any instance
    assert not prompt_sampling.instances(labels, 1, ids)[0][0].any()


def test_a_few_of_many_instances() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[1::4, 1::4] = 1
    labels[2::4, 1::4] = 1
    parts, areas = prompt_sampling.instance_labels(labels, 1)
    assert len(areas) == 100 and prompt_sampling.is_many(areas)
    few = prompt_sampling.instances(labels, 1, limit=5, rng=np.random.default_rng(0))
    assert len(few) == 5 and all(m.sum() == 2 for m in few)
    assert not prompt_sampling.is_many(areas[:4])
    with pytest.raises(ValueError, match="rng"):
        prompt_sampling.instances(labels, 1, limit=5)
