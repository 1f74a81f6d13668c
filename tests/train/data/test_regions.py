"""Regions are closed structures with a visible boundary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_train.data.regions import POINT_CONTRAST, boundary_contrast, image_regions, merge_tree, solidity

pytest.importorskip("skimage")


def disks(seed: int = 0, noise: float = 4.0) -> tuple[np.ndarray, list[np.ndarray]]:
    """A noisy grey image with two disks."""
    yy, xx = np.mgrid[:120, :150]
    masks = [(xx - 45) ** 2 + (yy - 50) ** 2 < 400, (xx - 110) ** 2 + (yy - 70) ** 2 < 500]
    grey = 90.0 + 70 * masks[0] - 50 * masks[1] + np.random.default_rng(seed).normal(0, noise, yy.shape)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2), masks


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def test_structures_with_a_visible_boundary_are_regions():
    pixels, masks = disks()
    regions = [region.mask(120, 150) for region in image_regions(pixels)]
    assert all(max(iou(mask, region) for region in regions) > 0.85 for mask in masks)


@pytest.mark.parametrize("noise", [0.0, 12.0])
def test_noise_has_hardly_a_region_and_none_for_a_point(noise: float):
    grey = np.clip(np.random.default_rng(1).normal(100, noise, (90, 90)), 0, 255).astype(np.uint8)
    regions = image_regions(np.repeat(grey[..., None], 3, axis=2))
    assert len(regions) <= 2 and all(region.contrast < POINT_CONTRAST for region in regions)


def test_a_tiny_image_is_no_error():
    for side in (1, 2, 7):
        image_regions(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8))


def test_regions_of_a_large_image_have_its_size():
    pixels, masks = disks()
    large = pixels.repeat(4, axis=0).repeat(4, axis=1)
    regions = [region.mask(480, 600) for region in image_regions(large)]
    assert all(max(iou(mask.repeat(4, 0).repeat(4, 1), region) for region in regions) > 0.85 for mask in masks)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), blocks=st.integers(1, 5))
def test_the_tree_of_merges_is_complete(seed: int, blocks: int):
    superpixels = np.arange(blocks * blocks).reshape(blocks, blocks).repeat(6, 0).repeat(6, 1)
    pixels = np.random.default_rng(seed).integers(0, 255, (*superpixels.shape, 3), np.uint8)
    nodes = merge_tree(superpixels, pixels)
    assert len(nodes) == 2 * blocks**2 - 1
    assert sorted(nodes[-1].leaves) == list(range(blocks**2)) and nodes[-1].area == superpixels.size
    assert np.allclose(nodes[-1].mean, pixels.reshape(-1, 3).mean(0))
    for node in nodes:
        rows, columns = np.nonzero(np.isin(superpixels, node.leaves))
        assert node.area == len(rows)
        assert node.box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), quarters=st.integers(0, 3), mirrored=st.booleans())
def test_contrast_does_not_depend_on_the_orientation(seed: int, quarters: int, mirrored: bool):
    pixels, masks = disks(seed)
    before = boundary_contrast(masks[0], pixels)
    mask, image = (np.rot90(a[:, ::-1] if mirrored else a, quarters) for a in (masks[0], pixels))
    after = boundary_contrast(mask, image)
    assert after[0] == pytest.approx(before[0], rel=1e-3) and after[1] == pytest.approx(before[1], abs=0.2)
    inverted = boundary_contrast(masks[0], 255 - pixels)
    assert inverted == pytest.approx(before, rel=1e-3)


def test_a_boundary_that_is_open_on_one_side_is_not_closed():
    pixels, masks = disks(noise=2.0)
    assert boundary_contrast(masks[0], pixels)[1] == 1.0
    half = pixels.copy()
    half[:, 45:] = np.where(pixels[:, 45:] > 120, pixels[:, 45:], 160)  # the right side has the level of the disk
    assert boundary_contrast(masks[0], half)[1] < 0.75


def test_solidity_is_the_share_of_the_convex_hull():
    square = np.zeros((30, 30), bool)
    square[5:25, 5:25] = True
    cross = np.zeros((30, 30), bool)
    cross[13:17, 2:28] = cross[2:28, 13:17] = True
    assert solidity(square) == pytest.approx(1.0) and solidity(cross) < 0.6
