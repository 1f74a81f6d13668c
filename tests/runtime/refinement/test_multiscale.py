"""What a single point means: when it is in doubt, where the model looks, and which of the masks is taken."""

from __future__ import annotations

from dataclasses import replace

import fakes
import numpy as np
import pytest
from fakes import calls
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.refinement.crops import look_at
from mimo_runtime.refinement.multiscale import (
    DOUBT,
    SIDES,
    SMALLEST_SIDE,
    Candidate,
    _dice,
    choose,
    is_ambiguous,
    pixel_of,
    surroundings,
)

NEAR = replace(fakes.CONFIG, crop_scale=3.0)
SHAPE = (100, 200)


def rectangle(x0: int, y0: int, x1: int, y1: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def candidate(*box: int, iou: float = 0.6, **more) -> Candidate:
    return Candidate.of(rectangle(*box), iou, **more)


# -- when ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "ambiguous"),
    [
        (Prompt(points=[(5, 5)]), True),
        (Prompt("What is this?", points=[(5, 5), (9, 9, 0)]), True),
        (Prompt(points=[(5, 5), (6, 6)]), False),  # two points have an extent
        (Prompt("liver", points=[(5, 5)]), True),  # a name tells of which kind, but not which one
        (Prompt(boxes=[(1, 1, 9, 9)], points=[(5, 5)]), False),
        (Prompt(points=[(5, 5)], mask=rectangle(1, 1, 9, 9)), False),
        (Prompt("What do you see?"), False),
    ],
)
def test_one_point_is_ambiguous_without_an_extent(prompt, ambiguous):
    assert is_ambiguous(prompt) is ambiguous


# -- where ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.data(), st.integers(1, 400), st.integers(1, 400))
def test_surroundings_hold_the_point_and_grow(data, height, width):
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    looks = surroundings(Prompt(points=[(x, y)]), height, width, 64)
    assert len(looks) == sum(side * max(height, width) >= SMALLEST_SIDE for side in SIDES)
    for look in looks:
        assert 0 <= look.left <= x < look.right <= width and 0 <= look.top <= y < look.bottom <= height
        assert look.prompt.points == ((x - look.left, y - look.top, 1),) and look.prompt.boxes == ()
        look.prompt.validate(look.letterbox.height, look.letterbox.width, fakes.CONFIG)
    for near, far in zip(looks, looks[1:]):
        assert far.left <= near.left and near.right <= far.right and far.top <= near.top and near.bottom <= far.bottom


def test_a_point_beside_the_target_comes_along_where_it_can_be_seen():
    looks = surroundings(Prompt(points=[(100, 50), (112, 50, 0)]), *SHAPE, 64)
    assert [len(look.prompt.points) for look in looks] == [1, 2, 2]


# -- which ---------------------------------------------------------------------------------------------------------


def test_a_mask_keeps_its_place():
    mask = rectangle(60, 40, 70, 50)
    mask[45, 65] = False
    found = Candidate.of(mask, 0.5)
    assert found.box == (60, 40, 70, 50) and found.area == 99
    np.testing.assert_array_equal(found.whole(*SHAPE), mask)
    look = look_at(Prompt(points=[(65, 45)]), (), (65, 45), 40, *SHAPE, 64)
    seen = Candidate.of(mask[look.top : look.bottom, look.left : look.right], 0.5, look)
    np.testing.assert_array_equal(seen.whole(*SHAPE), mask)
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


def test_a_mask_is_cut_where_its_surroundings_end_inside_the_image():
    look = look_at(Prompt(points=[(10, 50)]), (), (10, 50), 60, *SHAPE, 64)  # to the left border of the image
    assert (look.left, look.top, look.right, look.bottom) == (0, 20, 40, 80)
    seen = lambda *box: Candidate(box, np.ones((box[3] - box[1], box[2] - box[0]), bool), 0.5, look)  # noqa: E731
    assert not seen(0, 30, 20, 60).cut(*SHAPE)
    for box in ((5, 20, 20, 60), (5, 30, 40, 60), (5, 30, 20, 80)):
        assert seen(*box).cut(*SHAPE)
    assert not candidate(0, 0, 200, 100).cut(*SHAPE)  # the whole image has no surroundings


def test_the_part_that_a_pixel_lies_on():
    whole = Candidate.of(rectangle(10, 10, 20, 20) | rectangle(50, 60, 90, 70), 0.5, query=3)
    part = whole.part_at(60, 65)
    assert part.box == (50, 60, 90, 70) and part.area == 400 and (part.iou, part.query) == (0.5, 3)
    np.testing.assert_array_equal(part.whole(*SHAPE), rectangle(50, 60, 90, 70))
    assert whole.part_at(30, 30) is None and whole.part_at(0, 0) is None
    for place in ((8, 15), (21, 21), (8, 8)):  # two pixels beside the other part
        assert whole.part_at(*place) is None and whole.part_at(*place, reach=2).box == (10, 10, 20, 20)
    close = Candidate.of(rectangle(10, 10, 20, 20) | rectangle(21, 10, 30, 20), 0.5)
    assert close.part_at(20, 15, reach=2).box[0] in (10, 21) and close.part_at(19, 15, reach=2).box == (10, 10, 20, 20)
    assert whole.part_at(199, 99, reach=2) is None


def test_the_better_fit_is_taken():
    assert choose([candidate(10, 10, 20, 20, iou=0.5), candidate(50, 50, 60, 60, iou=0.7)], *SHAPE) == 1


def test_agreement_counts():
    odd, alike = candidate(10, 10, 90, 90, iou=0.65), [candidate(40, 40, 50 + i, 50, iou=0.6) for i in range(3)]
    assert choose([odd, *alike], *SHAPE) in (1, 2, 3)
    assert choose([odd], *SHAPE) == 0


def test_of_equals_the_smaller_is_taken():
    assert choose([candidate(0, 0, 80, 80), candidate(90, 10, 95, 15)], *SHAPE) == 1


def test_what_was_cut_is_never_taken_but_for_want_of_others():
    look = look_at(Prompt(points=[(50, 50)]), (), (50, 50), 20, *SHAPE, 64)
    cut = Candidate((40, 40, 60, 60), np.ones((20, 20), bool), 0.99, look)
    assert choose([candidate(10, 10, 20, 20, iou=0.1), cut], *SHAPE) == 0
    assert choose([cut, cut], *SHAPE) == 0


# -- answers -------------------------------------------------------------------------------------------------------


def test_a_point_in_doubt_is_looked_at_from_several_distances(pixels):
    with fakes.fake_mimo(config=NEAR) as mimo:
        scan = mimo.open(pixels)
        (finding,) = scan.ask(points=[(50, 30)], text_answer=False).findings
        # The fake draws a disc of a fixed share of what it sees: large in the whole image, small from near.
        assert calls(mimo)["vision_encoder"] > 3
        (first,) = scan.ask(points=[(50, 30)], text_answer=False, closer=False).findings
        assert first.iou < DOUBT  # the fakes doubt everything
        assert finding.closer and finding.mask[30, 50] and finding.area_px < first.area_px
        assert finding.presence == first.presence


def test_nothing_is_looked_at_again_without_doubt(pixels):
    with fakes.fake_mimo(config=NEAR) as mimo:
        engine = mimo.engines["mask_decoder"]
        inner = engine.run
        engine.run = lambda inputs: {**(out := inner(inputs)), "iou": np.full_like(out["iou"], DOUBT)}
        (finding,) = mimo.open(pixels).ask(points=[(50, 30)], text_answer=False).findings
        assert calls(mimo)["vision_encoder"] == 2 and finding.closer  # the one closer look at what was drawn


@pytest.mark.parametrize(
    ("request_", "looks"),
    [
        ({"points": [(50, 30)], "closer": False}, 0),
        ({"points": [(50, 30)], "masks": False}, 0),
        ({"text": "the absent polyp", "points": [(50, 30)]}, 0),
    ],
)
def test_when_a_point_is_not_in_doubt(pixels, request_, looks):
    with fakes.fake_mimo(config=NEAR) as mimo:
        mimo.open(pixels).ask(**request_)
        assert calls(mimo)["vision_encoder"] == 1 + looks


def drawing(mimo, change):
    """``change`` what the model draws, in place: the outputs of ``mask_decoder``, and which call it is."""
    engine = mimo.engines["mask_decoder"]
    inner, count = engine.run, iter(range(1000))

    def run(inputs):
        out = {name: value.copy() for name, value in inner(inputs).items()}
        change(out, next(count))
        return out

    engine.run = run


def disc_and_another(out, call):
    """The model is sure, and at first (``call`` 0) draws a second thing of the same name in the lower right corner."""
    out["iou"][:] = 0.95
    if call == 0:
        side = out["masks"].shape[-1]
        out["masks"][0, 0, -side // 8 :, -side // 8 :] = 8


@pytest.mark.parametrize(
    ("text", "sees_one"), [("polyp", True), ("Where is the polyp?", True), ("", False), ("What is this?", False)]
)
def test_a_name_and_a_point_mean_the_one_under_the_point(text, sees_one):
    pixels = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    with fakes.fake_mimo(config=NEAR) as mimo:
        drawing(mimo, disc_and_another)
        finding = next(f for f in mimo.open(pixels).ask(text, points=[(50, 30)]).findings if f.query == 0)
        assert finding.mask[30, 50]
        assert finding.mask[-1, -1] != sees_one
        # Without a name nobody said that both are of one kind: a model that is sure of its mask is believed.
        assert (calls(mimo)["vision_encoder"] > 2) == sees_one


def test_a_name_and_a_point_on_all_there_is_are_not_in_doubt(pixels):
    with fakes.fake_mimo(config=NEAR) as mimo:
        drawing(mimo, lambda out, _: out["iou"].fill(0.95))
        (finding,) = mimo.open(pixels).ask("polyp", points=[(50, 30)], text_answer=False).findings
        assert calls(mimo)["vision_encoder"] == 2 and finding.closer  # the one closer look at what was drawn


def test_a_name_drawn_elsewhere_says_nothing_about_the_point():
    """A click on the polyp that the model forgot, with its name: what the looks draw there is meant, not the other polyp."""

    def elsewhere(out, call):
        out["iou"][:] = 0.5
        if call == 0:
            out["iou"][:] = 0.7
            side = out["masks"].shape[-1]
            out["masks"][0, 0] = -8
            out["masks"][0, 0, -side // 8 :, -side // 8 :] = 8

    pixels = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    with fakes.fake_mimo(config=NEAR) as mimo:
        drawing(mimo, elsewhere)
        (finding,) = mimo.open(pixels).ask("polyp", points=[(50, 30)], text_answer=False).findings
        assert finding.mask[30, 50] and not finding.mask[-1, -1]


@pytest.mark.parametrize(("off", "in_doubt"), [(0, False), (2, False), (3, True), (20, True)])
def test_a_click_just_beside_the_only_thing_means_it(off, in_doubt):
    """Farther away something else of that name may be meant."""
    pixels = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)

    def square(out, call):
        out["iou"][:] = 0.95
        if call == 0:
            side = out["masks"].shape[-1]
            out["masks"][0, 0] = -8
            out["masks"][0, 0, side // 2 :, side // 2 :] = 8

    with fakes.fake_mimo(config=NEAR) as mimo:
        drawing(mimo, square)
        scan = mimo.open(pixels)
        (first,) = scan.ask("polyp", points=[(100, 100)], text_answer=False, closer=False).findings
    left, top, *_ = map(int, first.box)
    with fakes.fake_mimo(config=NEAR) as mimo:
        drawing(mimo, square)
        mimo.open(pixels).ask("polyp", points=[(left - off, top + 20)], text_answer=False)
        assert (calls(mimo)["vision_encoder"] > 2) == in_doubt


def test_the_looks_of_a_named_point_leave_the_name_out():
    pixels = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    with fakes.fake_mimo(config=NEAR) as mimo:
        drawing(mimo, disc_and_another)
        engine = mimo.engines["text_encoder"]
        inner, seen = engine.run, []
        engine.run = lambda inputs: seen.append(inputs["token_ids"].copy()) or inner(inputs)
        mimo.open(pixels).ask("polyp", points=[(50, 30), (90, 90, 0)], text_answer=False)
        expected = [mimo.tokenizer.encode_query(text, mimo.config.text.max_length) for text in ("polyp", "")]
        assert len(seen) == 2 and all((a[0] == b).all() for a, b in zip(seen, expected))  # each once: embeddings are kept


@pytest.mark.parametrize(("place", "pixel"), [((0, 0), (0, 0)), ((49.4, 10.5), (49, 11)), ((199.7, 99.9), (199, 99))])
def test_whole_numbers_are_the_middle_of_a_pixel(place, pixel):
    assert pixel_of(Prompt(points=[(*place, 1), (5, 5, 0)]), *SHAPE) == pixel


def test_what_lies_within_the_named_mask_is_preferred():
    inside, outside = candidate(10, 10, 20, 20, iou=0.6), candidate(50, 50, 60, 60, iou=0.7)
    assert choose([inside, outside], *SHAPE) == 1
    assert choose([inside, outside], *SHAPE, named=candidate(5, 5, 30, 30)) == 0


def test_a_model_that_was_not_trained_for_near_views_takes_its_first_answer(pixels):
    with fakes.fake_mimo() as mimo:
        mimo.open(pixels).ask(points=[(50, 30)], text_answer=False)
        assert calls(mimo)["vision_encoder"] == 1


def test_a_part_of_an_entity_is_a_candidate(pixels):
    """Where the referred mask is worthless, the point still lies on a structure that has a query of its own."""
    with fakes.fake_mimo(config=NEAR) as mimo:
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
        config = replace(NEAR, entity_threshold=threshold, presence_threshold=threshold)
        with fakes.fake_mimo(config=config) as mimo:
            (finding,) = mimo.open(pixels).ask(points=[(50, 30)], text_answer=False).findings
            seen.append((calls(mimo)["vision_encoder"], finding.area_px))
    assert seen[0] == seen[1]
