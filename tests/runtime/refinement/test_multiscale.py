"""A single point: when it is ambiguous, which crops are segmented, and which mask is selected."""

from __future__ import annotations

from dataclasses import replace

import fakes
import numpy as np
import pytest
from fakes import calls
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.refinement.config import RefinementConfig
from mimo_runtime.refinement.crops import CropRequest, crop_around
from mimo_runtime.refinement.multiscale import (
    Candidate,
    _dice,
    has_single_point,
    pixel_of,
    point_crops,
    select_best_mask,
)

CONFIG = RefinementConfig()
#: A model that was trained on crops.
REFINING = replace(fakes.CONFIG, crop_scale=3.0)
SHAPE = (100, 200)


def rectangle(x0: int, y0: int, x1: int, y1: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def crop_at(x: float, y: float, side: float) -> CropRequest:
    return crop_around(Prompt(points=[(x, y)]), None, (x, y), side, *SHAPE, 64)


def select(candidates: list[Candidate], **more) -> int:
    return select_best_mask(candidates, *SHAPE, CONFIG, **more)


def candidate(*box: int, iou: float = 0.6, **more) -> Candidate:
    return Candidate.of(rectangle(*box), iou, **more)


# -- when ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "single"),
    [
        (Prompt(points=[(5, 5)]), True),
        (Prompt("What is this?", points=[(5, 5), (9, 9, 0)]), True),
        (Prompt(points=[(5, 5), (6, 6)]), False),  # two points have an extent
        (Prompt("liver", points=[(5, 5)]), True),  # a name gives the kind, not which one
        (Prompt(boxes=[(1, 1, 9, 9)], points=[(5, 5)]), False),
        (Prompt(points=[(5, 5)], mask=rectangle(1, 1, 9, 9)), False),
        (Prompt("What do you see?"), False),
    ],
)
def test_a_single_point_has_no_extent(prompt, single):
    assert has_single_point(prompt) is single


# -- where ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "height", "width", "boxes"),
    [
        ((128, 128), 256, 256, [(116, 116, 140, 140), (96, 96, 160, 160), (44, 44, 212, 212)]),
        ((0, 0), 256, 256, [(0, 0, 12, 12), (0, 0, 32, 32), (0, 0, 84, 84)]),
        ((100, 50), 100, 200, [(90, 40, 110, 60), (75, 25, 125, 75), (34, 0, 166, 100)]),
        ((32, 32), 64, 64, [(24, 24, 40, 40), (11, 11, 53, 53)]),  # the smallest would have 6 pixels
        ((10, 10), 20, 20, []),
    ],
)
def test_boxes_of_the_point_crops_by_hand(point, height, width, boxes):
    crops = point_crops(Prompt(points=[point]), height, width, 64, CONFIG)
    assert [crop.crop_box for crop in crops] == boxes


@settings(deadline=None)
@given(st.data(), st.integers(1, 400), st.integers(1, 400))
def test_point_crops_hold_the_point_and_grow(data, height, width):
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    crops = point_crops(Prompt(points=[(x, y)]), height, width, 64, CONFIG)
    for crop in crops:
        left, top, right, bottom = crop.crop_box
        assert 0 <= left <= x < right <= width and 0 <= top <= y < bottom <= height
        assert crop.prompt.points == ((x - left, y - top, 1),) and crop.prompt.boxes == ()
        crop.prompt.validate(crop.letterbox.height, crop.letterbox.width, fakes.CONFIG)
    for small, large in zip(crops, crops[1:]):
        (a0, b0, a1, b1), (x0, y0, x1, y1) = small.crop_box, large.crop_box
        assert x0 <= a0 and a1 <= x1 and y0 <= b0 and b1 <= y1


def test_a_negative_point_is_kept_in_the_crops_that_hold_it():
    crops = point_crops(Prompt(points=[(100, 50), (112, 50, 0)]), *SHAPE, 64, CONFIG)
    assert [len(crop.prompt.points) for crop in crops] == [1, 2, 2]


# -- which ---------------------------------------------------------------------------------------------------------


def test_a_mask_keeps_its_place():
    mask = rectangle(60, 40, 70, 50)
    mask[45, 65] = False
    full = Candidate.of(mask, 0.5)
    assert full.box == (60, 40, 70, 50) and full.area == 99
    np.testing.assert_array_equal(full.full_mask(*SHAPE), mask)
    crop = crop_at(65, 45, 40)
    left, top, right, bottom = crop.crop_box
    cropped = Candidate.of(mask[top:bottom, left:right], 0.5, crop)
    np.testing.assert_array_equal(cropped.full_mask(*SHAPE), mask)
    assert Candidate.of(np.zeros(SHAPE, bool), 0.5) is None and Candidate.of(None, 0.5) is None


@given(st.data())
def test_dice_of_two_candidates_is_that_of_their_masks(data):
    masks = []
    for _ in range(2):
        x0, y0 = data.draw(st.integers(0, 28)), data.draw(st.integers(0, 18))
        masks.append(rectangle(x0, y0, data.draw(st.integers(x0 + 1, 29)), data.draw(st.integers(y0 + 1, 19)), (20, 30)))
    a, b = masks
    expected = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert _dice(Candidate.of(a, 1), Candidate.of(b, 1)) == pytest.approx(expected)


def test_an_edge_of_the_crop_inside_the_image_cuts_a_mask_off():
    crop = crop_at(10, 50, 60)  # up to the left border of the image
    assert crop.crop_box == (0, 20, 40, 80)
    of_crop = lambda *box: Candidate(box, np.ones((box[3] - box[1], box[2] - box[0]), bool), 0.5, crop)  # noqa: E731
    assert not of_crop(0, 30, 20, 60).is_cut_off(*SHAPE)
    for box in ((5, 20, 20, 60), (5, 30, 40, 60), (5, 30, 20, 80)):
        assert of_crop(*box).is_cut_off(*SHAPE)
    assert not candidate(0, 0, 200, 100).is_cut_off(*SHAPE)  # of the full image


def test_the_part_that_a_pixel_lies_on():
    whole = Candidate.of(rectangle(10, 10, 20, 20) | rectangle(50, 60, 90, 70), 0.5, query=3)
    part = whole.part_at(60, 65)
    assert part.box == (50, 60, 90, 70) and part.area == 400 and (part.iou, part.query) == (0.5, 3)
    np.testing.assert_array_equal(part.full_mask(*SHAPE), rectangle(50, 60, 90, 70))
    assert whole.part_at(30, 30) is None and whole.part_at(0, 0) is None
    for place in ((8, 15), (21, 21), (8, 8)):  # two pixels beside the other part
        assert whole.part_at(*place) is None and whole.part_at(*place, tolerance=2).box == (10, 10, 20, 20)
    close = Candidate.of(rectangle(10, 10, 20, 20) | rectangle(21, 10, 30, 20), 0.5)
    assert close.part_at(20, 15, tolerance=2).box[0] in (10, 21) and close.part_at(19, 15, tolerance=2).box == (10, 10, 20, 20)
    assert whole.part_at(199, 99, tolerance=2) is None


def test_the_higher_predicted_iou_is_selected():
    assert select([candidate(10, 10, 20, 20, iou=0.5), candidate(50, 50, 60, 60, iou=0.7)]) == 1


def test_a_candidate_that_others_agree_with_is_selected():
    odd, alike = candidate(10, 10, 90, 90, iou=0.65), [candidate(40, 40, 50 + i, 50, iou=0.6) for i in range(3)]
    assert select([odd, *alike]) in (1, 2, 3)
    assert select([odd]) == 0


def test_of_equals_the_smaller_is_selected():
    assert select([candidate(0, 0, 80, 80), candidate(90, 10, 95, 15)]) == 1


def test_a_mask_that_is_cut_off_is_selected_only_where_there_is_no_other():
    cut_off = Candidate((40, 40, 60, 60), np.ones((20, 20), bool), 0.99, crop_at(50, 50, 20))
    assert select([candidate(10, 10, 20, 20, iou=0.1), cut_off]) == 0
    assert select([cut_off, cut_off]) == 0


# -- answers -------------------------------------------------------------------------------------------------------


def test_an_ambiguous_point_is_segmented_at_several_scales(pixels):
    with fakes.fake_mimo(config=REFINING) as mimo:
        scan = mimo.open(pixels)
        (finding,) = scan.ask(points=[(50, 30)], text_answer=False).findings
        # The fake segments a disc of a fixed share of its input: large in the full image, small in a crop.
        assert calls(mimo)["vision_encoder"] > 3
        (first,) = scan.ask(points=[(50, 30)], text_answer=False, refine=False).findings
        assert first.iou < CONFIG.refine_below_iou
        assert finding.refined and finding.mask[30, 50] and finding.area_px < first.area_px
        assert finding.presence == first.presence


def test_a_confident_point_takes_the_crop_pass_alone(pixels):
    with fakes.fake_mimo(config=REFINING) as mimo:
        engine = mimo.engines["mask_decoder"]
        inner = engine.run
        engine.run = lambda inputs: {**(out := inner(inputs)), "iou": np.full_like(out["iou"], CONFIG.refine_below_iou)}
        (finding,) = mimo.open(pixels).ask(points=[(50, 30)], text_answer=False).findings
        assert calls(mimo)["vision_encoder"] == 2 and finding.refined  # the crop pass


@pytest.mark.parametrize(
    ("request_", "crops"),
    [
        ({"points": [(50, 30)], "refine": False}, 0),
        ({"points": [(50, 30)], "masks": False}, 0),
        ({"text": "the absent polyp", "points": [(50, 30)]}, 0),
    ],
)
def test_requests_without_further_passes(pixels, request_, crops):
    with fakes.fake_mimo(config=REFINING) as mimo:
        mimo.open(pixels).ask(**request_)
        assert calls(mimo)["vision_encoder"] == 1 + crops


def changing(mimo, change):
    """``change`` the outputs of ``mask_decoder`` in place; it also gets the number of the call."""
    engine = mimo.engines["mask_decoder"]
    inner, count = engine.run, iter(range(1000))

    def run(inputs):
        out = {name: value.copy() for name, value in inner(inputs).items()}
        change(out, next(count))
        return out

    engine.run = run


def disc_and_another(out, call):
    """The model is confident; in the full image (``call`` 0) it segments a second object, in the lower right corner."""
    out["iou"][:] = 0.95
    if call == 0:
        side = out["masks"].shape[-1]
        out["masks"][0, 0, -side // 8 :, -side // 8 :] = 8


@pytest.mark.parametrize(
    ("text", "is_one"), [("polyp", True), ("Where is the polyp?", True), ("", False), ("What is this?", False)]
)
def test_a_name_and_a_point_select_the_object_under_the_point(text, is_one):
    pixels = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    with fakes.fake_mimo(config=REFINING) as mimo:
        changing(mimo, disc_and_another)
        finding = next(f for f in mimo.open(pixels).ask(text, points=[(50, 30)]).findings if f.query == 0)
        assert finding.mask[30, 50]
        assert finding.mask[-1, -1] != is_one
        # Without a name, a confident mask may be one object in two parts.
        assert (calls(mimo)["vision_encoder"] > 2) == is_one


def test_a_name_and_a_point_on_the_only_object_are_not_ambiguous(pixels):
    with fakes.fake_mimo(config=REFINING) as mimo:
        changing(mimo, lambda out, _: out["iou"].fill(0.95))
        (finding,) = mimo.open(pixels).ask("polyp", points=[(50, 30)], text_answer=False).findings
        assert calls(mimo)["vision_encoder"] == 2 and finding.refined  # the crop pass


def test_a_named_mask_elsewhere_does_not_override_the_point():
    """A click on a polyp that the full-image mask misses: the mask of the crops is selected, not the other polyp."""

    def elsewhere(out, call):
        out["iou"][:] = 0.5
        if call == 0:
            out["iou"][:] = 0.7
            side = out["masks"].shape[-1]
            out["masks"][0, 0] = -8
            out["masks"][0, 0, -side // 8 :, -side // 8 :] = 8

    pixels = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    with fakes.fake_mimo(config=REFINING) as mimo:
        changing(mimo, elsewhere)
        (finding,) = mimo.open(pixels).ask("polyp", points=[(50, 30)], text_answer=False).findings
        assert finding.mask[30, 50] and not finding.mask[-1, -1]


@pytest.mark.parametrize(("off", "ambiguous"), [(0, False), (2, False), (3, True), (20, True)])
def test_a_click_just_beside_the_only_object_refers_to_it(off, ambiguous):
    """Farther away, it may refer to another object of that name."""
    pixels = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)

    def square(out, call):
        out["iou"][:] = 0.95
        if call == 0:
            side = out["masks"].shape[-1]
            out["masks"][0, 0] = -8
            out["masks"][0, 0, side // 2 :, side // 2 :] = 8

    with fakes.fake_mimo(config=REFINING) as mimo:
        changing(mimo, square)
        scan = mimo.open(pixels)
        (first,) = scan.ask("polyp", points=[(100, 100)], text_answer=False, refine=False).findings
    left, top, *_ = map(int, first.box)
    with fakes.fake_mimo(config=REFINING) as mimo:
        changing(mimo, square)
        mimo.open(pixels).ask("polyp", points=[(left - off, top + 20)], text_answer=False)
        assert (calls(mimo)["vision_encoder"] > 2) == ambiguous


def test_the_crops_of_a_named_point_are_segmented_without_the_name():
    pixels = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    with fakes.fake_mimo(config=REFINING) as mimo:
        changing(mimo, disc_and_another)
        engine = mimo.engines["text_encoder"]
        inner, texts = engine.run, []
        engine.run = lambda inputs: texts.append(inputs["token_ids"].copy()) or inner(inputs)
        mimo.open(pixels).ask("polyp", points=[(50, 30), (90, 90, 0)], text_answer=False)
        expected = [mimo.tokenizer.encode_query(text, mimo.config.text.max_length) for text in ("polyp", "")]
        assert len(texts) == 2 and all((a[0] == b).all() for a, b in zip(texts, expected))  # each once: embeddings are cached


@pytest.mark.parametrize(("place", "pixel"), [((0, 0), (0, 0)), ((49.4, 10.5), (49, 11)), ((199.7, 99.9), (199, 99))])
def test_whole_numbers_are_the_middle_of_a_pixel(place, pixel):
    assert pixel_of(Prompt(points=[(*place, 1), (5, 5, 0)]), *SHAPE) == pixel


def test_a_candidate_within_the_named_mask_is_preferred():
    inside, outside = candidate(10, 10, 20, 20, iou=0.6), candidate(50, 50, 60, 60, iou=0.7)
    assert select([inside, outside]) == 1
    assert select([inside, outside], named_part=candidate(5, 5, 30, 30)) == 0


def test_a_model_that_was_not_trained_on_crops_runs_no_further_pass(pixels):
    with fakes.fake_mimo() as mimo:
        mimo.open(pixels).ask(points=[(50, 30)], text_answer=False)
        assert calls(mimo)["vision_encoder"] == 1


def test_a_part_of_an_entity_is_a_candidate(pixels):
    """Where the target's mask is wrong, the point still lies on a structure with a query of its own."""
    with fakes.fake_mimo(config=REFINING) as mimo:
        engine = mimo.engines["mask_decoder"]
        inner = engine.run

        def run(inputs):
            out = inner(inputs)
            out["iou"][0, 0] = 0.1
            out["iou"][0, 1] = 0.9
            side = out["masks"].shape[-1]
            out["masks"][0, 1] = -8
            out["masks"][0, 1, : side // 8, : side // 8] = 8  # liver: two parts, the point on one of them
            out["masks"][0, 1, : side // 8, -side // 4 :] = 8
            return out

        engine.run = run
        (finding,) = mimo.open(pixels).ask(points=[(4, 4)], text_answer=False).findings
    assert finding.query == 0 and finding.present and finding.mask[4, 4] and not finding.mask[:, 50:].any()
    assert finding.iou > 0.3


def test_what_is_not_believed_in_is_no_candidate(pixels):
    """Also where a calibration lowers every threshold to see all answers: it would choose on other masks than are delivered."""
    seen = []
    for threshold in (0.0, 0.7):
        config = replace(REFINING, entity_threshold=threshold, presence_threshold=threshold)
        with fakes.fake_mimo(config=config) as mimo:
            (finding,) = mimo.open(pixels).ask(points=[(50, 30)], text_answer=False).findings
            seen.append((calls(mimo)["vision_encoder"], finding.area_px))
    assert seen[0] == seen[1]
