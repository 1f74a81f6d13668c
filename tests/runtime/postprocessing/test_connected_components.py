"""label_components against a flood fill, on random masks and on the shapes that break union-find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.postprocessing.connected_components import find_components, label_components


def flood_fill(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The definition: 8-connected, numbered in raster order."""
    labels, count = np.zeros(mask.shape, np.int32), 0
    for start in zip(*np.nonzero(mask)):
        if labels[start]:
            continue
        count += 1
        stack = [start]
        while stack:
            y, x = stack.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not labels[y, x]:
                labels[y, x] = count
                stack += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return labels, count


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.floats(0.05, 0.95), st.integers(0, 2**32 - 1))
def test_equals_flood_fill(height: int, width: int, density: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    labels, count = label_components(mask)
    expected, expected_count = flood_fill(mask)
    assert count == expected_count
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_areas_and_painted_values_are_those_of_the_labels(height: int, width: int, density: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    parts, (labels, count) = find_components(mask), label_components(mask)
    np.testing.assert_array_equal(parts.areas, np.bincount(labels.reshape(-1), minlength=count + 1))
    is_odd = np.arange(count + 1) % 2 == 1
    painted = parts.painted(is_odd)
    assert painted.dtype == bool
    np.testing.assert_array_equal(painted, is_odd[labels])


def test_spiral_is_one_component() -> None:
    size = 101
    mask = np.zeros((size, size), bool)
    x0, y0, x1, y1 = 0, 0, size - 1, size - 1
    while x1 > x0 + 2:
        mask[y0, x0 : x1 + 1] = mask[y0 : y1 + 1, x1] = mask[y1, x0 : x1 + 1] = True
        mask[y0 + 2 : y1 + 1, x0] = mask[y0 + 2, x0 : x0 + 3] = True
        x0, y0, x1, y1 = x0 + 2, y0 + 2, x1 - 2, y1 - 2
    labels, count = label_components(mask)
    np.testing.assert_array_equal(labels, flood_fill(mask)[0])
    assert count == 1


def test_diagonals_touch_and_rows_do_not_wrap() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    labels, count = label_components(mask)
    assert count == 4
    assert labels.tolist() == [[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 3], [4, 0, 0, 0]]


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (3, 3)])
def test_nothing_to_label(shape: tuple[int, int]) -> None:
    labels, count = label_components(np.zeros(shape, bool))
    assert count == 0 and labels.shape == shape and not labels.any()


def test_full_and_strided_masks() -> None:
    assert label_components(np.ones((7, 5), bool))[1] == 1
    mask = np.random.default_rng(0).random((30, 40)) < 0.4
    np.testing.assert_array_equal(label_components(mask[::2, ::-1].T)[0], flood_fill(mask[::2, ::-1].T)[0])


def test_components_of_a_large_regular_pattern_are_counted() -> None:
    """Many runs and many rounds of hooking; the count of a checkerboard-like field is known."""
    mask = np.zeros((2048, 2048), bool)
    mask[::2, ::2] = True
    labels, count = label_components(mask)
    assert count == 1024 * 1024 and labels[-2, -2] == count
    mask[1::2, 1::2] = True  # joins everything diagonally
    assert label_components(mask)[1] == 1
