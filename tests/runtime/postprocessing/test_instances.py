"""touching_objects and count_instances: touching objects of any size, place and orientation count one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mimo_runtime.postprocessing.connected_components import label_components
from mimo_runtime.postprocessing.instances import count_instances, instance_components, squared_distance, touching_objects


def count_objects(mask: np.ndarray) -> int:
    """The number of objects in a mask, bool ``[H, W]``, with every touching one."""
    labels, count = label_components(mask)
    areas = np.bincount(labels.reshape(-1), minlength=count + 1)
    return int(touching_objects(labels, instance_components(areas)).sum())


def discs(centres: list[tuple[float, float]], radii: list[float], height: int, width: int) -> np.ndarray:
    """The union of discs with centres (x, y) in pixels."""
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for (x, y), radius in zip(centres, radii):
        mask |= (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return mask


def chain(number: int, radius: float, gap: float, angle: float) -> np.ndarray:
    """Discs in a row whose centres are ``gap`` radii apart."""
    steps = (np.arange(number) - (number - 1) / 2) * gap * radius
    side = int(2 * radius * (number + 1)) + 8
    centres = [(side / 2 + s * np.cos(angle), side / 2 + s * np.sin(angle)) for s in steps]
    return discs(centres, [radius] * number, side, side)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.floats(12, 30), st.floats(1.97, 2.6), st.floats(0, np.pi))
def test_discs_that_overlap_little_are_counted(number: int, radius: float, gap: float, angle: float) -> None:
    assert count_objects(chain(number, radius, gap, angle)) == number


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_scattered_discs_are_counted(data: st.DataObject) -> None:
    places = data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20, unique=True))
    radii = [data.draw(st.floats(9, 14)) for _ in places]
    centres = [(16 + 28 * x, 16 + 28 * y) for x, y in places]  # neighbours of radius 14 touch
    assert count_objects(discs(centres, radii, 180, 180)) == len(places)


@settings(max_examples=40, deadline=None)
@given(st.floats(5, 60), st.floats(0.1, 1.0), st.floats(0, np.pi))
def test_an_ellipse_is_one(longer: float, ratio: float, angle: float) -> None:
    assume(longer * ratio >= 2)
    rows, columns = np.mgrid[:140, :140] - 70.0
    along, across = columns * np.cos(angle) + rows * np.sin(angle), rows * np.cos(angle) - columns * np.sin(angle)
    assert count_objects((along / longer) ** 2 + (across / (longer * ratio)) ** 2 <= 1) == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.floats(12, 20), st.floats(0, np.pi), st.integers(2, 4))
def test_turns_mirrors_and_enlargements_change_nothing(number: int, radius: float, angle: float, factor: int) -> None:
    mask = chain(number, radius, 2.0, angle)
    variants = [np.rot90(mask), mask[:, ::-1], mask[::-1], mask.T, mask.repeat(factor, 0).repeat(factor, 1)]
    assert {count_objects(variant) for variant in variants} == {count_objects(mask)}


def counted(mask: np.ndarray) -> int:
    """What ``count_instances`` says of a mask."""
    labels, count = label_components(mask)
    return count_instances(labels, np.bincount(labels.reshape(-1), minlength=count + 1))


def test_touching_objects_count_one_by_one_where_there_are_many() -> None:
    places = [(20 + 40 * (i % 5), 20 + 40 * (i // 5)) for i in range(10)]
    mask = discs(places, [9.0] * 10, 100, 220)
    assert counted(mask) == 10
    touching = [(x + 18, y) for x, y in places[:3]]
    assert counted(mask | discs(touching, [9.0] * 3, 100, 220)) == 13


def test_touching_objects_do_not_matter_where_the_components_are_enough() -> None:
    mask = discs([(20 + 40 * (i % 5), 20 + 40 * (i // 5)) for i in range(10)] + [(38, 20)], [9.0] * 11, 100, 220)
    labels, count = label_components(mask)
    areas = np.bincount(labels.reshape(-1), minlength=count + 1)
    assert [count_instances(labels, areas, enough) for enough in (None, 11, 10)] == [11, 11, 10]


def test_a_few_components_are_not_split_and_only_comparable_ones_count() -> None:
    pair = discs([(30, 30), (60, 30)], [15.5, 15.5], 120, 120)
    assert (count_objects(pair), counted(pair)) == (2, 1)
    large = discs([(30, 30)], [20], 120, 120)
    assert counted(large | discs([(90, 90)], [10], 120, 120)) == 1  # a quarter of the larger area
    assert counted(large | discs([(90, 90)], [13], 120, 120)) == 2
    assert counted(np.zeros((9, 9), bool)) == 0


def test_small_parts_beside_a_large_one_do_not_count() -> None:
    assert count_objects(discs([(40, 40), (80, 80)], [20, 4], 100, 100)) == 1
    assert count_objects(np.zeros((20, 20), bool)) == 0


def test_a_bent_bar_and_a_ring_are_one() -> None:
    rows, columns = np.mgrid[:100, :100] - 50.0
    ring = abs(np.hypot(rows, columns) - 30) <= 6
    assert count_objects(ring) == 1
    assert count_objects(ring & (rows > 0)) == 1


def test_a_network_of_vessels_is_not_split() -> None:
    lattice = np.zeros((250, 250), bool)
    lattice[::8] = lattice[:, ::8] = True
    assert count_objects(lattice) == 1


def test_only_kept_components_are_looked_at() -> None:
    labels = np.zeros((20, 40), np.int32)
    labels[2:8, 2:8], labels[12:18, 20:30] = 1, 2
    assert touching_objects(labels, np.array([False, False, True])).tolist() == [0, 0, 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.floats(0.2, 1.0), st.integers(0, 2**32 - 1))
def test_distances_are_those_to_the_nearest_background(height: int, width: int, density: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    outside = np.argwhere(~np.pad(mask, 1)) - 1
    expected = [[((outside - (y, x)) ** 2).sum(1).min() for x in range(width)] for y in range(height)]
    np.testing.assert_array_equal(squared_distance(mask), expected)
