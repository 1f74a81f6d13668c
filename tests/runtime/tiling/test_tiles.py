"""Tiles of large images: where they lie, how they are stitched, and what is refused. The model segments what is bright."""

from __future__ import annotations

import numpy as np
import pytest
from bright_discs import RED, bright_mimo
from fakes import CONFIG
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.errors import PromptError, RequestError
from mimo_runtime.evaluation.metrics import dice
from mimo_runtime.postprocessing.connected_components import label_components
from mimo_runtime.preprocessing.letterbox import Letterbox
from mimo_runtime.tiling.grid import TileGrid, Tiles
from mimo_runtime.tiling.stitching import TiledLogits

SIDE = CONFIG.mask_size


def cells(height: int, width: int, step: int, radius: float) -> np.ndarray:
    """uint8 ``[H, W, 3]``: a mosaic of bright discs on dark ground."""
    rows, columns = np.mgrid[:height, :width]
    inside = (columns % step - step // 2) ** 2 + (rows % step - step // 2) ** 2 <= radius**2
    pixels = np.full((height, width, 3), 10, np.uint8)
    pixels[inside] = RED
    return pixels


def grid_of(height: int, width: int, side: int, overlap: int) -> TileGrid:
    grid = Tiles(side, overlap).fitted(height, width, 64)
    assert grid is not None
    return grid


@settings(max_examples=60, deadline=None)
@given(st.integers(64, 700), st.integers(64, 700), st.integers(32, 64), st.floats(0, 0.5))
def test_weights_sum_to_one_at_every_pixel_and_tiles_stay_in_the_image(h: int, w: int, side: int, share: float) -> None:
    grid = Tiles(side, int(share * side)).fitted(h, w, 64)
    if grid is None:
        assert max(h, w) <= side
        return
    total = np.zeros((h, w))
    for (x0, y0, x1, y1), (down, along) in zip(grid, grid.weights(), strict=True):
        assert 0 <= x0 < x1 <= w and 0 <= y0 < y1 <= h
        assert down.min() >= 0 and along.min() >= 0
        total[y0:y1, x0:x1] += np.outer(down, along)
    np.testing.assert_allclose(total, 1, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(100, 400), st.integers(100, 400), st.integers(40, 90), st.integers(8, 20))
def test_neighbouring_tiles_overlap_by_at_least_what_was_asked(h: int, w: int, side: int, overlap: int) -> None:
    for axis in (grid_of(h, w, side, overlap).columns, grid_of(h, w, side, overlap).rows):
        assert axis.starts[0] == 0 and axis.starts[-1] + axis.side == axis.extent
        assert all(a + axis.side - b >= overlap - 1 for a, b in zip(axis.starts, axis.starts[1:]))


@pytest.mark.parametrize("value", [-3.0, 0.0, 2.5])
def test_constant_logits_are_stitched_to_the_same_constant(value: float) -> None:
    logits = stitched(grid_of(150, 230, 64, 16), lambda x, y: np.full_like(x, value))
    np.testing.assert_allclose(logits, value, atol=1e-5)


def test_a_field_that_is_linear_in_the_image_comes_back_without_a_seam() -> None:
    grid = grid_of(200, 260, 64, 24)
    logits = stitched(grid, lambda x, y: 0.02 * x - 0.03 * y)
    x, y = np.meshgrid(np.arange(260) + 0.5, np.arange(200) + 0.5)
    inner = slice(2, -2)  # at the border of the image, the outermost cell counts
    np.testing.assert_allclose(logits[inner, inner], (0.02 * x - 0.03 * y)[inner, inner], atol=2e-3)


def test_a_window_has_the_logits_of_the_whole_image() -> None:
    rng = np.random.default_rng(3)
    grid = grid_of(150, 230, 64, 16)
    tiled = TiledLogits(grid, [rng.normal(size=(SIDE, SIDE)).astype(np.float32) for _ in range(len(grid))], 64, 0.3)
    np.testing.assert_allclose(tiled.above_threshold((30, 40, 190, 130)), tiled.above_threshold()[40:130, 30:190], atol=1e-6)
    np.testing.assert_array_equal(tiled.mask(), tiled.above_threshold() >= 0)


def stitched(grid: TileGrid, field) -> np.ndarray:
    """The stitched logits of tiles that each sample ``field(x, y)`` at the centres of their cells."""
    grids = []
    for x0, y0, x1, y1 in grid:
        fx, fy = Letterbox(y1 - y0, x1 - x0, 64).factors
        centres = (np.arange(SIDE) + 0.5) / SIDE
        x, y = np.meshgrid(x0 + centres / fx, y0 + centres / fy)
        grids.append(field(x, y).astype(np.float32))
    return TiledLogits(grid, grids, 64).above_threshold()


def test_small_structures_of_a_large_image_are_found_in_tiles_and_joined_across_them() -> None:
    pixels = cells(320, 384, 32, 3.5)
    truth = pixels.max(axis=2) > 100
    scan = bright_mimo().open(pixels)
    whole, tiled = scan.ask("polyp", refine=False), scan.ask("polyp", tiles=64)
    assert not whole.findings[0].present and dice(tiled.findings[0].mask, truth) > 0.7
    assert label_components(tiled.findings[0].mask)[1] == 120  # none is cut in two where tiles meet, none is lost
    finding = tiled.findings[0]
    assert finding.refined and finding.present and finding.confident and tiled.finish_reason == "stop"
    assert finding.presence > 0.9 and finding.iou == pytest.approx(0.9)


def test_a_structure_that_only_tiles_show_is_present() -> None:
    mimo = bright_mimo()
    decoder, count = mimo.engines["mask_decoder"], []
    run = decoder.run

    def blind_to_the_full_image(inputs):
        outputs = run(inputs)
        count.append(0)
        if len(count) == 1:
            outputs["presence"][:] = -4
        return outputs

    decoder.run = blind_to_the_full_image
    pixels = cells(256, 256, 256, 9)
    finding = mimo.open(pixels).ask("polyp", tiles=(64, 16)).findings[0]
    assert finding.present and finding.presence > 0.9
    assert finding.box is not None and abs(finding.box[0] + finding.box[2] - 256) < 6


def test_tiles_without_the_structure_add_nothing() -> None:
    pixels = np.full((256, 256, 3), 10, np.uint8)
    answer = bright_mimo().open(pixels).ask("polyp", tiles=64)
    assert not answer.findings[0].present and not answer.findings[0].mask.any()


@pytest.mark.parametrize("tiles", ["auto", 80])
def test_an_image_that_one_tile_shows_is_asked_once(tiles) -> None:
    mimo, pixels = bright_mimo(), cells(80, 80, 40, 9)
    counts = []
    run = mimo.engines["vision_encoder"].run
    mimo.engines["vision_encoder"].run = lambda inputs: counts.append(0) or run(inputs)
    tiled = mimo.open(pixels).ask("polyp", tiles=tiles)
    assert len(counts) == 1
    assert np.array_equal(tiled.findings[0].mask, mimo.open(pixels).ask("polyp", refine=False).findings[0].mask)


def test_auto_uses_tiles_of_the_models_input_where_the_image_is_much_larger() -> None:
    grid = Tiles.of("auto").fitted(200, 300, 64)
    assert grid is not None and grid.side == 64 and grid.columns.starts[1] <= 48
    assert Tiles.of("auto").fitted(96, 90, 64) is None


@pytest.mark.parametrize("stop", ["should_stop", "deadline"])
def test_a_stopped_answer_has_the_mask_of_the_full_image_and_says_so(stop: str, clock) -> None:
    mimo, pixels = bright_mimo(), cells(640, 640, 64, 20)
    scan = mimo.open(pixels)
    whole = scan.ask("polyp", refine=False, text_answer=False)
    encoder = mimo.engines["vision_encoder"]
    before = encoder.calls

    def after_five_tiles() -> bool:
        return encoder.calls >= before + 5

    limits = {"deadline": clock.deadline(after_five_tiles)} if stop == "deadline" else {"should_stop": after_five_tiles}
    answer = scan.ask("polyp", tiles=64, text_answer=False, **limits)
    assert answer.finish_reason == ("deadline" if stop == "deadline" else "cancelled")
    assert np.array_equal(answer.findings[0].mask, whole.findings[0].mask) and not answer.findings[0].refined
    assert encoder.calls <= before + 7  # of more than a hundred


@pytest.mark.parametrize(
    ("tiles", "error"),
    [
        (900, "a tile of 900 pixels is larger than the image of 320 x 256. Use a smaller one"),
        (16, "a tile of 16 pixels is too small. Use at least 32"),
        ((64, 60), "tiles of 64 pixels cannot overlap by 60. Use 0 to 32"),
        ((64, -1), "tiles of 64 pixels cannot overlap by -1"),
        ("often", "tiles is 'often'"),
        (True, "tiles is True"),
        ((64, 8, 8), "tiles is"),
    ],
)
def test_senseless_tiles_are_refused_before_any_work(tiles, error: str) -> None:
    with pytest.raises(PromptError, match=error.replace("(", r"\(")):
        bright_mimo().open(np.zeros((256, 320, 3), np.uint8)).ask("polyp", tiles=tiles)


def test_tiles_that_would_be_too_many_are_refused() -> None:
    with pytest.raises(PromptError, match=r"the image has \d+ tiles of 32 pixels. Use larger ones: at most 1024"):
        Tiles.of(32).fitted(2000, 2000, 64)


@pytest.mark.parametrize(
    ("text", "arguments", "error"),
    [
        ("polyp", {"boxes": [(0, 0, 9, 9)]}, "tiles are for a name alone"),
        ("What do you see?", {}, "tiles need the name of one structure"),
        ("polyp", {"masks": False}, "tiles have no effect without masks"),
    ],
)
def test_tiles_with_what_they_cannot_answer_are_refused(text: str, arguments: dict, error: str) -> None:
    with pytest.raises((PromptError, RequestError), match=error):
        bright_mimo().open(cells(256, 256, 64, 9)).ask(text, tiles=64, **arguments)
