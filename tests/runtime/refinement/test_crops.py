"""The crop pass: its geometry, its contrast, and what it changes in an answer."""

from __future__ import annotations

from dataclasses import replace

import fakes
import numpy as np
import pytest
from fakes import calls
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mimo_runtime.postprocessing.masks import box_of_mask
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.refinement.config import RefinementConfig
from mimo_runtime.refinement.crops import CropRequest, contrast_table, crop_around_target

CONFIG = RefinementConfig()
#: A model that was trained on crops.
REFINING = replace(fakes.CONFIG, crop_scale=3.0)
#: A small target: 6 x 4 pixels.
SMALL = (40.0, 20.0, 46.0, 24.0)


def rectangle(height: int, width: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def crop_for(prompt: Prompt, mask: np.ndarray, scale: float) -> CropRequest | None:
    return crop_around_target(prompt, box_of_mask(mask), *mask.shape, 64, replace(CONFIG, crop_scale=scale))


@st.composite
def targets(draw):
    """Size of an image, and a box in it."""
    height, width = draw(st.integers(24, 400)), draw(st.integers(24, 400))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return height, width, x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))


# -- geometry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "scale", "crop_box"),
    [
        ((60, 40, 70, 50), 3.0, (50, 30, 80, 60)),
        ((60, 40, 71, 50), 2.5, (51, 31, 80, 59)),  # whole pixels around a side of 27.5
        ((2, 3, 8, 9), 4.0, (0, 0, 17, 18)),  # at two edges of the image
        ((195, 90, 200, 100), 3.0, (182, 80, 200, 100)),
        ((60, 40, 64, 44), 3.0, (50, 30, 74, 54)),  # a side of 12 pixels would hold no context
        ((20, 20, 60, 50), 4.0, (0, 0, 120, 100)),  # 160 of 200 pixels: the largest crop
        ((20, 20, 61, 50), 4.0, None),
    ],
)
def test_crops_of_an_image_of_200_by_100_pixels_by_hand(target, scale, crop_box):
    crop = crop_for(Prompt("x"), rectangle(100, 200, *target), scale)
    assert (crop and crop.crop_box) == crop_box


@settings(deadline=None)
@given(targets(), st.floats(1.5, 6.0))
def test_the_crop_holds_the_target_and_lies_in_the_image(target, scale):
    height, width, x0, y0, x1, y1 = target
    crop = crop_for(Prompt("x"), rectangle(*target), scale)
    assume(crop is not None)
    left, top, right, bottom = crop.crop_box
    assert 0 <= left <= x0 and x1 <= right <= width
    assert 0 <= top <= y0 and y1 <= bottom <= height
    ((a, b, c, d),) = crop.prompt.boxes  # a request that only names its target gets the box of the full-image mask
    assert (a + left, b + top, c + left, d + top) == (x0, y0, x1, y1)
    assert (crop.letterbox.height, crop.letterbox.width) == (bottom - top, right - left)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    assert crop.pixels(pixels, CONFIG).shape == (bottom - top, right - left, 3)


def test_references_are_moved_into_the_crop():
    mask = rectangle(100, 200, 60, 40, 70, 50)
    rough = rectangle(100, 200, 62, 42, 74, 50)
    prompt = Prompt("a cyst", [(58.5, 38, 71, 52)], [(65, 45), (70, 41, 0), (190, 90, 0)], rough)
    crop = crop_for(prompt, mask, 3.0)
    left, top, right, bottom = crop.crop_box
    assert crop.prompt.boxes == ((58.5 - left, 38 - top, 71 - left, 52 - top),)
    assert crop.prompt.points == ((65 - left, 45 - top, 1), (70 - left, 41 - top, 0))  # the distant negative point is dropped
    assert crop.prompt.text == "a cyst"
    np.testing.assert_array_equal(crop.prompt.mask, rough[top:bottom, left:right])
    crop.prompt.validate(crop.letterbox.height, crop.letterbox.width, fakes.CONFIG)


def test_only_a_request_without_a_reference_gets_the_box_of_the_full_image_mask():
    mask = rectangle(100, 200, 60, 40, 70, 50)
    assert crop_for(Prompt("a cyst", points=[(65, 45)]), mask, 3.0).prompt.boxes == ()
    assert crop_for(Prompt(mask=mask), mask, 3.0).prompt.boxes == ()
    assert len(crop_for(Prompt("a cyst", points=[(190, 90, 0)]), mask, 3.0).prompt.boxes) == 1


def test_targets_without_a_crop_pass():
    small = rectangle(100, 200, 60, 40, 70, 50)
    assert crop_for(Prompt("x"), small, 0.0) is None
    assert crop_for(Prompt("x"), rectangle(100, 200, 10, 10, 80, 50), 3.0) is None  # large already
    assert crop_for(Prompt(points=[(150, 80)]), small, 3.0) is None  # the mask is elsewhere than the point
    assert crop_for(Prompt(mask=rectangle(100, 200, 150, 80, 160, 90)), small, 3.0) is None


def test_a_box_of_the_request_decides_the_crop():
    crop = crop_for(Prompt(boxes=[(60, 40, 70, 50)]), rectangle(100, 200, 10, 5, 160, 95), 3.0)
    assert crop.crop_box == (50, 30, 80, 60)


# -- contrast ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 255), st.integers(0, 255))
def test_contrast_fills_the_range_and_keeps_the_order(a, b):
    pixels = np.full((20, 20, 3), a, np.uint8)
    pixels[:10] = b
    table = contrast_table(pixels)
    assert table.dtype == np.uint8 and (np.diff(table.astype(int)) >= 0).all()
    assert np.diff(table.astype(int)).max() <= CONFIG.max_contrast_gain + 1
    dark, bright = sorted((a, b))
    assert table[dark] == 0
    if bright - dark >= 255 / CONFIG.max_contrast_gain:
        assert table[bright] == 255


def test_a_single_bright_pixel_does_not_decide_the_contrast():
    pixels = np.full((100, 100, 3), 50, np.uint8)
    pixels[:, :50] = 120
    expected = contrast_table(pixels)
    pixels[0, 0] = 255
    np.testing.assert_array_equal(contrast_table(pixels), expected)


# -- answers -------------------------------------------------------------------------------------------------------


def test_a_small_target_is_refined_by_a_crop_pass(pixels):
    truth = rectangle(60, 100, 40, 20, 46, 24)
    with fakes.fake_mimo(config=REFINING) as mimo:
        scan = mimo.open(pixels)
        (far,) = scan.ask(boxes=[SMALL], text_answer=False, refine=False).findings
        assert not far.refined and calls(mimo)["vision_encoder"] == calls(mimo)["mask_decoder"] == 1
        answer = scan.ask(boxes=[SMALL], text_answer=False)
        (near,) = answer.findings
        assert near.refined and near.present and near.to_dict()["refined"]
        assert calls(mimo)["vision_encoder"] == 2 and calls(mimo)["mask_decoder"] == 3
        assert answer.timings["refine"] > 0
    # The fake covers every cell that the box touches: the cells of the crop are smaller.
    assert near.mask[truth].all() and truth.sum() <= near.area_px < far.area_px
    assert near.presence == far.presence
    assert near.iou != far.iou


def test_the_features_of_a_crop_are_cached_with_its_image(pixels):
    with fakes.fake_mimo(config=REFINING) as mimo:
        for _ in range(3):
            mimo.open(pixels).ask(boxes=[SMALL], text_answer=False)
        assert calls(mimo)["vision_encoder"] == 2
        mimo.open(fakes.picture(value=90)).ask(boxes=[SMALL], text_answer=False)
        assert calls(mimo)["vision_encoder"] == 4


@pytest.mark.parametrize(
    ("request_", "crops"),
    [
        ({"text": "polyp"}, 0),  # the fake segments the whole image: too large
        ({"text": "What do you see?"}, 0),  # has no target
        ({"text": "the absent polyp", "boxes": [SMALL]}, 0),  # is absent
        ({"boxes": [SMALL], "masks": False}, 0),
        ({"points": [(50, 30)], "refine": False}, 0),
        ({"text": "polyp", "boxes": [SMALL]}, 1),
        ({"text": "Where is the polyp?", "boxes": [SMALL]}, 1),
    ],
)
def test_requests_with_and_without_a_crop_pass(pixels, request_, crops):
    with fakes.fake_mimo(config=REFINING) as mimo:
        answer = mimo.open(pixels).ask(**request_)
        assert calls(mimo)["vision_encoder"] == 1 + crops
        assert [f.refined for f in answer.findings if f.query == 0] == [bool(crops)] * sum(
            f.query == 0 for f in answer.findings
        )


def test_an_empty_mask_of_the_crop_keeps_the_full_image_mask(pixels):
    with fakes.fake_mimo(config=REFINING) as mimo:
        engine = mimo.engines["mask_decoder"]
        inner, results = engine.run, []

        def run(inputs):
            out = inner(inputs)
            results.append(out)
            return {**out, "masks": np.full_like(out["masks"], -8)} if len(results) == 2 else out

        engine.run = run
        (finding,) = mimo.open(pixels).ask(boxes=[SMALL], text_answer=False).findings
        assert len(results) == 2 and finding.present and not finding.refined
        (first,) = mimo.open(pixels).ask(boxes=[SMALL], text_answer=False, refine=False).findings
        np.testing.assert_array_equal(finding.mask, first.mask)


@pytest.mark.parametrize(
    ("full", "crop", "present"), [(1.0, -1.0, False), (-1.0, 1.0, True), (4.0, -1.0, True), (-4.0, 1.0, False)]
)
def test_the_logits_of_both_passes_are_weighted(pixels, full, crop, present):
    """Logits in the target's box: the full image has the weight 0.3, the crop 0.7."""
    with fakes.fake_mimo(config=replace(REFINING, full_image_weight=0.3)) as mimo:
        engine = mimo.engines["mask_decoder"]
        inner, results = engine.run, []

        def run(inputs):
            out = inner(inputs)
            results.append(out)
            logit = full if len(results) == 1 else crop
            # The full-image mask needs a pixel elsewhere, or there would be no crop pass.
            masks = np.where(out["masks"] > 0, logit, out["masks"])
            masks[..., 0, 0] = 8.0 if len(results) == 1 else masks[..., 0, 0]
            return {**out, "masks": masks.astype(np.float32)}

        engine.run = run
        (finding,) = mimo.open(pixels).ask(boxes=[SMALL], text_answer=False).findings
    assert len(results) == 2 and finding.refined is present
    assert bool(finding.mask[21:23, 41:45].all()) is (present if finding.refined else full > 0)


def test_the_words_follow_the_refined_mask(pixels):
    small = (70.0, 40.0, 76.0, 44.0)
    with fakes.fake_mimo(config=REFINING) as mimo:
        answer = mimo.open(pixels).ask("Where is the polyp?", boxes=[small])
        assert answer.findings[0].refined
        assert answer.text == "Endoscopy of the colon: one small round <p>polyp</p><seg> in the lower right of the image."


def test_the_predicted_iou_is_the_mean_of_both_passes(pixels):
    with fakes.fake_mimo(config=REFINING) as mimo:
        engine, outputs = mimo.engines["mask_decoder"], []
        inner = engine.run
        engine.run = lambda inputs: outputs.append(inner(inputs)) or outputs[-1]
        (finding,) = mimo.open(pixels).ask(boxes=[SMALL], text_answer=False).findings
    full, crop = (float(out["iou"][0, 0]) for out in outputs)
    assert full != crop and finding.iou == pytest.approx((full + crop) / 2)
