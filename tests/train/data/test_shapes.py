"""Random shapes and how they are blended into an image."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.postprocessing.connected_components import label_components
from mimo_train.data.appearance import vary, vary_strongly
from mimo_train.data.shapes import blend, random_shape, shrunk, touching

SEEDS = st.integers(0, 10**6)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, height=st.integers(40, 128), width=st.integers(40, 128))
def test_a_shape_is_one_structure_of_a_limited_area(seed: int, height: int, width: int):
    shape = random_shape(height, width, np.random.default_rng(seed))
    assert shape.shape == (height, width) and shape.dtype == bool
    assert shape.mean() < 0.7
    parts, count = label_components(shape)
    if shape.sum() > 60 and count:  # a cut at the border may leave pieces
        assert np.bincount(parts.ravel())[1:].max() > 0.3 * shape.sum()


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_a_touching_shape_overlaps_nothing_and_is_adjacent(seed: int):
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:96, :96]
    shape, other = (xx - 48) ** 2 + (yy - 48) ** 2 < 200, (xx - 20) ** 2 + (yy - 20) ** 2 < 120
    moved = touching(shape, other, rng)
    assert moved.any() and not (moved & shape).any()
    assert label_components(shape | moved)[1] == 1


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, factor=st.floats(0.3, 0.9))
def test_a_shrunk_shape_lies_inside(seed: int, factor: float):
    yy, xx = np.mgrid[:96, :80]
    shape = (xx - 40) ** 2 + ((yy - 48) / 1.5) ** 2 < 300
    rows, columns = np.nonzero(shape)
    centre = int(np.random.default_rng(seed).integers(len(rows)))
    inner = shrunk(shape, factor, (int(columns[centre]), int(rows[centre])))
    assert inner.any() and not (inner & ~shape).any()
    assert inner.sum() < shape.sum() and abs(inner.sum() / shape.sum() - factor**2) < 0.12


def test_nothing_touches_an_empty_shape():
    empty, full = np.zeros((20, 20), bool), np.ones((20, 20), bool)
    assert not touching(empty, full, np.random.default_rng(0)).any()
    assert not touching(full, empty, np.random.default_rng(0)).any()


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, grey=st.booleans())
def test_blending_changes_the_shape_and_leaves_the_rest(seed: int, grey: bool):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (80, 90, 1 if grey else 3), np.uint8).repeat(3 if grey else 1, axis=2)
    yy, xx = np.mgrid[:80, :90]
    shape, far = (xx - 30) ** 2 + (yy - 30) ** 2 < 150, (xx - 30) ** 2 + (yy - 30) ** 2 > 900
    mixed = blend(pixels, [shape], rng.integers(0, 255, (33, 50, 3), np.uint8), rng)
    assert mixed.shape == pixels.shape and mixed.dtype == np.uint8
    assert (mixed[far] == pixels[far]).all() and (mixed[shape] != pixels[shape]).any()


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_changes_of_appearance_keep_structures_visible(seed: int):
    yy, xx = np.mgrid[:64, :64]
    disk = (xx - 30) ** 2 + (yy - 30) ** 2 < 200
    pixels = np.repeat(np.where(disk, 170, 80).astype(np.uint8)[..., None], 3, axis=2)
    for change in (vary, vary_strongly):
        changed = change(pixels, np.random.default_rng(seed))
        assert changed.shape == pixels.shape and changed.dtype == np.uint8
        inside, outside = changed[disk].mean(0), changed[~disk].mean(0)
        assert np.abs(inside - outside).max() > 12
