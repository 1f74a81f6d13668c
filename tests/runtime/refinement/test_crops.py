"""The closer look: its geometry, its contrast, and what it changes in an answer."""

from __future__ import annotations

from dataclasses import replace

import fakes
import numpy as np
import pytest
from fakes import calls
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.refinement.crops import LARGEST_SHARE, MAX_GAIN, closer_look, contrast_table

NEAR = replace(fakes.CONFIG, crop_scale=3.0)
#: A small target: 6 x 4 pixels.
SMALL = (40.0, 20.0, 46.0, 24.0)


def rectangle(height: int, width: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    return mask


@st.composite
def targets(draw):
    """Size of an image, and a box in it."""
    height, width = draw(st.integers(24, 400)), draw(st.integers(24, 400))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return height, width, x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))


# -- geometry ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(targets(), st.floats(1.5, 6.0))
def test_the_surroundings_hold_the_target_and_lie_in_the_image(target, factor):
    height, width, x0, y0, x1, y1 = target
    look = closer_look(Prompt("x"), rectangle(*target), factor, 64)
    if look is None:
        assert max(24, factor * max(x1 - x0, y1 - y0)) > LARGEST_SHARE * max(height, width)
        return
    assert 0 <= look.left <= x0 and x1 <= look.right <= width
    assert 0 <= look.top <= y0 and y1 <= look.bottom <= height
    ((a, b, c, d),) = look.prompt.boxes  # a request that only names its target gets the box of the first mask
    assert (a + look.left, b + look.top, c + look.left, d + look.top) == (x0, y0, x1, y1)
    assert (look.letterbox.height, look.letterbox.width) == (look.bottom - look.top, look.right - look.left)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    assert look.pixels(pixels).shape == (look.bottom - look.top, look.right - look.left, 3)


def test_references_move_with_the_surroundings():
    mask = rectangle(100, 200, 60, 40, 70, 50)
    rough = rectangle(100, 200, 62, 42, 74, 50)
    prompt = Prompt("a cyst", [(58.5, 38, 71, 52)], [(65, 45), (70, 41, 0), (190, 90, 0)], rough)
    look = closer_look(prompt, mask, 3.0, 64)
    left, top = look.left, look.top
    assert look.prompt.boxes == ((58.5 - left, 38 - top, 71 - left, 52 - top),)
    assert look.prompt.points == ((65 - left, 45 - top, 1), (70 - left, 41 - top, 0))  # one beside it is too far to matter
    assert look.prompt.text == "a cyst"
    np.testing.assert_array_equal(look.prompt.mask, rough[top : look.bottom, left : look.right])
    look.prompt.validate(look.letterbox.height, look.letterbox.width, fakes.CONFIG)


def test_only_a_request_without_a_reference_gets_the_box_of_the_first_mask():
    mask = rectangle(100, 200, 60, 40, 70, 50)
    assert closer_look(Prompt("a cyst", points=[(65, 45)]), mask, 3.0, 64).prompt.boxes == ()
    assert closer_look(Prompt(mask=mask), mask, 3.0, 64).prompt.boxes == ()
    assert len(closer_look(Prompt("a cyst", points=[(190, 90, 0)]), mask, 3.0, 64).prompt.boxes) == 1


def test_no_closer_look():
    small = rectangle(100, 200, 60, 40, 70, 50)
    assert closer_look(Prompt("x"), small, 0.0, 64) is None
    assert closer_look(Prompt("x"), np.zeros((100, 200), bool), 3.0, 64) is None
    assert closer_look(Prompt("x"), rectangle(100, 200, 10, 10, 80, 50), 3.0, 64) is None  # large already
    assert closer_look(Prompt(points=[(150, 80)]), small, 3.0, 64) is None  # drawn elsewhere than pointed at
    assert closer_look(Prompt(mask=rectangle(100, 200, 150, 80, 160, 90)), small, 3.0, 64) is None


def test_a_box_decides_where_to_look():
    look = closer_look(Prompt(boxes=[(60, 40, 70, 50)]), rectangle(100, 200, 10, 5, 160, 95), 3.0, 64)
    assert (look.left, look.top, look.right, look.bottom) == (50, 30, 80, 60)


# -- contrast ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 255), st.integers(0, 255))
def test_contrast_fills_the_range_and_keeps_the_order(a, b):
    pixels = np.full((20, 20, 3), a, np.uint8)
    pixels[:10] = b
    table = contrast_table(pixels)
    assert table.dtype == np.uint8 and (np.diff(table.astype(int)) >= 0).all()
    assert np.diff(table.astype(int)).max() <= MAX_GAIN + 1
    dark, bright = sorted((a, b))
    assert table[dark] == 0
    if bright - dark >= 255 / MAX_GAIN:
        assert table[bright] == 255


def test_a_single_bright_pixel_does_not_decide_the_contrast():
    pixels = np.full((100, 100, 3), 50, np.uint8)
    pixels[:, :50] = 120
    expected = contrast_table(pixels)
    pixels[0, 0] = 255
    np.testing.assert_array_equal(contrast_table(pixels), expected)


# -- answers -------------------------------------------------------------------------------------------------------


def test_a_small_target_is_drawn_again_from_near(pixels):
    truth = rectangle(60, 100, 40, 20, 46, 24)
    with fakes.fake_mimo(config=NEAR) as mimo:
        scan = mimo.open(pixels)
        (far,) = scan.ask(boxes=[SMALL], text_answer=False, closer=False).findings
        assert not far.closer and calls(mimo)["vision_encoder"] == calls(mimo)["mask_decoder"] == 1
        answer = scan.ask(boxes=[SMALL], text_answer=False)
        (near,) = answer.findings
        assert near.closer and near.present and near.to_dict()["closer"]
        assert calls(mimo)["vision_encoder"] == 2 and calls(mimo)["mask_decoder"] == 3
        assert answer.timings["closer"] > 0
    # The fake covers every cell that the box touches: from near, its cells are smaller.
    assert near.mask[truth].all() and truth.sum() <= near.area_px < far.area_px
    assert near.presence == far.presence
    assert near.iou != far.iou  # of the mask that was drawn


def test_the_second_look_is_remembered_with_its_image(pixels):
    with fakes.fake_mimo(config=NEAR) as mimo:
        for _ in range(3):
            mimo.open(pixels).ask(boxes=[SMALL], text_answer=False)
        assert calls(mimo)["vision_encoder"] == 2
        mimo.open(fakes.picture(value=90)).ask(boxes=[SMALL], text_answer=False)
        assert calls(mimo)["vision_encoder"] == 4


@pytest.mark.parametrize(
    ("request_", "looks"),
    [
        ({"text": "polyp"}, 0),  # the fake draws the whole image: too large
        ({"text": "What do you see?"}, 0),  # asks for nothing
        ({"text": "the absent polyp", "boxes": [SMALL]}, 0),  # is not there
        ({"boxes": [SMALL], "masks": False}, 0),
        ({"points": [(50, 30)], "closer": False}, 0),
        ({"text": "polyp", "boxes": [SMALL]}, 1),
        ({"text": "Where is the polyp?", "boxes": [SMALL]}, 1),
    ],
)
def test_when_it_looks_again(pixels, request_, looks):
    with fakes.fake_mimo(config=NEAR) as mimo:
        answer = mimo.open(pixels).ask(**request_)
        assert calls(mimo)["vision_encoder"] == 1 + looks
        assert [f.closer for f in answer.findings if f.query == 0] == [bool(looks)] * sum(f.query == 0 for f in answer.findings)


def test_nothing_drawn_from_near_leaves_the_first_mask(pixels):
    with fakes.fake_mimo(config=NEAR) as mimo:
        engine = mimo.engines["mask_decoder"]
        inner, results = engine.run, []

        def run(inputs):
            out = inner(inputs)
            results.append(out)
            return {**out, "masks": np.full_like(out["masks"], -8)} if len(results) == 2 else out

        engine.run = run
        (finding,) = mimo.open(pixels).ask(boxes=[SMALL], text_answer=False).findings
        assert len(results) == 2 and finding.present and not finding.closer
        (first,) = mimo.open(pixels).ask(boxes=[SMALL], text_answer=False, closer=False).findings
        np.testing.assert_array_equal(finding.mask, first.mask)


@pytest.mark.parametrize(
    ("far", "near", "drawn"), [(1.0, -1.0, False), (-1.0, 1.0, True), (4.0, -1.0, True), (-4.0, 1.0, False)]
)
def test_the_mask_is_drawn_from_both_looks_and_more_from_near(pixels, far, near, drawn):
    """Logits of both looks in the target's box: together they count 0.3 and 0.7."""
    with fakes.fake_mimo(config=replace(NEAR, full_image_weight=0.3)) as mimo:
        engine = mimo.engines["mask_decoder"]
        inner, results = engine.run, []

        def run(inputs):
            out = inner(inputs)
            results.append(out)
            told = far if len(results) == 1 else near
            # The first look draws something elsewhere, or there would be no second one.
            masks = np.where(out["masks"] > 0, told, out["masks"])
            masks[..., 0, 0] = 8.0 if len(results) == 1 else masks[..., 0, 0]
            return {**out, "masks": masks.astype(np.float32)}

        engine.run = run
        (finding,) = mimo.open(pixels).ask(boxes=[SMALL], text_answer=False).findings
    assert len(results) == 2 and finding.closer is drawn
    assert bool(finding.mask[21:23, 41:45].all()) is (drawn if finding.closer else far > 0)


def test_words_are_measured_on_the_mask_from_near(pixels):
    small = (70.0, 40.0, 76.0, 44.0)
    with fakes.fake_mimo(config=NEAR) as mimo:
        answer = mimo.open(pixels).ask("Where is the polyp?", boxes=[small])
        assert answer.findings[0].closer
        assert answer.text == "Endoscopy of the colon: one small oval <p>polyp</p><seg> in the lower right."


def test_the_expected_fit_is_the_mean_of_both_looks(pixels):
    with fakes.fake_mimo(config=NEAR) as mimo:
        engine, seen = mimo.engines["mask_decoder"], []
        inner = engine.run
        engine.run = lambda inputs: seen.append(inner(inputs)) or seen[-1]
        (finding,) = mimo.open(pixels).ask(boxes=[SMALL], text_answer=False).findings
    far, near = (float(out["iou"][0, 0]) for out in seen)
    assert far != near and finding.iou == pytest.approx((far + near) / 2)
