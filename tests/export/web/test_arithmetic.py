"""What the page computes beside the graphs, in Chromium, against the runtime: equal to the bit where that is possible."""

from __future__ import annotations

import browser
import numpy as np
import pytest
from static_site import serving

pytest.importorskip("torch")
from page_modules import write_modules

from mimo_runtime.clinical.coco import encode_mask
from mimo_runtime.postprocessing.masks import MIN_CELLS, MIN_SHARE, box_of_mask, remove_small_parts
from mimo_runtime.preprocessing.letterbox import Letterbox

SIZES = [(60, 100), (150, 70), (17, 411), (64, 64), (131, 130), (128, 77), (255, 300)]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory):
    """An empty page beside the modules."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "index.html").write_text("<!DOCTYPE html><title>modules</title>")
    write_modules(folder)
    with serving(folder) as address, browser.chromium() as opened:
        tab = opened.new_page()
        tab.goto(address)
        yield tab


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def call(page, module: str, code: str, **values: object) -> object:
    """The result of an expression over the exports of a module and the values."""
    function = f"async (v) => {{ const m = await import('/{module}.js'); return Array.from({code}); }}"
    return page.evaluate(function, values)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_an_image_is_resized_as_pillow_does(page, height: int, width: int, rng):
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    code = f"new m.Letterbox({height}, {width}, 128).image(Uint8Array.from(v.pixels))"
    shown = np.array(call(page, "letterbox", code, pixels=pixels.reshape(-1).tolist()), np.float32)
    assert np.array_equal(shown, Letterbox(height, width, 128).image(pixels).reshape(-1))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_mask_is_encoded_as_the_runtime_does(page, height: int, width: int, rng):
    mask = np.zeros((height, width), bool)
    mask[height // 3 : height // 2 + 1, width // 4 : width // 2 + 1] = True
    mask |= rng.random((height, width)) > 0.999
    code = f"new m.Letterbox({height}, {width}, 128).mask(Uint8Array.from(v.mask))"
    shown = np.array(call(page, "letterbox", code, mask=mask.reshape(-1).astype(int).tolist()))
    assert np.allclose(shown, Letterbox(height, width, 128).mask(mask).reshape(-1), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_logits_become_the_mask_of_the_runtime(page, height: int, width: int, rng):
    logits = rng.normal(size=(64, 64)).astype(np.float32)
    code = f"new m.Letterbox({height}, {width}, 128).maskOf(Float32Array.from(v.logits), 64, 0.25)"
    shown = np.array(call(page, "letterbox", code, logits=logits.reshape(-1).astype(float).tolist()), bool)
    back = Letterbox(height, width, 128).unletterbox_masks(logits[None])[0] >= 0.25
    assert np.mean(shown != back.reshape(-1)) < 1e-4


def test_small_parts_go_and_boxes_are_tight(page, rng):
    for area in (0.2, 3.0):
        mask = rng.random((50, 70)) > 0.7
        mask[10:30, 20:60] = True
        values = mask.reshape(-1).astype(int).tolist()
        code = f"m.removeSmallParts(Uint8Array.from(v.mask), 70, 50, {area}, v.rules)"
        kept = call(page, "parts", code, mask=values, rules={"min_share": MIN_SHARE, "min_cells": MIN_CELLS})
        assert np.array_equal(np.array(kept, bool).reshape(50, 70), remove_small_parts(mask, cell_area=area))
    assert call(page, "parts", "m.boxOf(Uint8Array.from(v.mask), 70, 50)", mask=values) == list(box_of_mask(mask))


def test_run_lengths_are_those_of_the_runtime(page, rng):
    mask = rng.random((23, 31)) > 0.6
    values, runs = mask.reshape(-1).astype(int).tolist(), encode_mask(mask)
    assert call(page, "masks", "m.encodeMask(Uint8Array.from(v.mask), 31, 23).counts", mask=values) == runs["counts"]
    assert call(page, "masks", "m.decodeMask(v.runs)", runs=runs) == values


def test_dice_is_that_of_two_masks(page):
    shown = call(page, "masks", "[m.dice([1,1,0,0],[1,0,1,0]), m.dice([0],[0]), m.dice([1],[0])]")
    assert shown == [0.5, 1, 0]


def test_an_outline_is_filled_within_its_corners(page):
    code = "(() => { const k = new Uint8Array(100); m.fillPolygon(k, 10, 10, [[2, 3], [7, 3], [7, 8], [2, 8]]); return k; })()"
    filled = np.array(call(page, "masks", code)).reshape(10, 10)
    assert filled.sum() == 25 and filled[3:8, 2:7].all()
