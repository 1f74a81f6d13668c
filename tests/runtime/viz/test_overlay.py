"""Pictures: what is painted where, and labels that never leave the picture or cover each other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.viz import annotate, overlay
from mimo_runtime.viz.overlay import OKABE_ITO, draw_overlay, draw_panel


def finding(phrase: str, mask: np.ndarray, score: float = 0.93, present: bool = True, confident: bool = True) -> Any:
    contours = {"inner": None, "outer": None, "coverage": None}
    return SimpleNamespace(phrase=phrase, mask=mask, score=score, present=present, confident=confident, **contours)


def square(shape: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def near(pixel: np.ndarray, colour: tuple[int, ...], tolerance: int = 40) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() <= tolerance)


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Text and rectangle of every label that is drawn."""
    found: list[tuple[str, tuple[int, int, int, int]]] = []
    draw = annotate._draw_label

    def note(canvas: Any, text: str, colour: Any, rectangle: Any, size: int) -> None:
        found.append((text, rectangle))
        draw(canvas, text, colour, rectangle, size)

    monkeypatch.setattr(annotate, "_draw_label", note)
    return found


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((100, 60), (360, 600)),
        ((512, 512), (512, 512)),
        ((511, 8), (16, 1022)),
        ((700, 9), (9, 700)),
        ((3200, 800), (400, 1600)),
    ],
)
def test_small_images_grow_by_whole_factors_and_huge_ones_shrink(shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert draw_overlay(np.zeros((*shape, 3), np.uint8), []).size == size


def test_without_findings_the_image_is_as_it_was() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(draw_overlay(pixels, ())), pixels)


@pytest.mark.parametrize("background", [0, 128, 255])
def test_outline_fill_and_surroundings(background: int) -> None:
    pixels = np.full((600, 600, 3), background, np.uint8)
    before = pixels.copy()
    mask = square((600, 600), 200, 200, 400, 400)
    picture = np.asarray(draw_overlay(pixels, [finding("polyp", mask)]))
    for x, y in ((201, 300), (398, 300), (300, 201), (300, 398)):
        assert near(picture[y, x], OKABE_ITO[0])
    inside = picture[300, 300].astype(int)
    expected = 0.72 * background + 0.28 * np.array(OKABE_ITO[0])
    assert np.abs(inside - expected).max() <= 2
    np.testing.assert_array_equal(picture[450:], before[450:])  # the label lies above or below, nothing else changes
    np.testing.assert_array_equal(pixels, before)
    # A dark line outside the outline tells it from a bright background.
    if background:
        assert (picture[300, 196:200] < background).all(axis=1).any()


def test_outlines_close_at_the_border_of_the_image() -> None:
    mask = square((600, 600), 0, 0, 300, 600)
    picture = np.asarray(draw_overlay(np.zeros((600, 600, 3), np.uint8), [finding("x", mask)]))
    assert near(picture[500, 0], OKABE_ITO[0]) and near(picture[599, 150], OKABE_ITO[0])


def test_what_is_uncertain_has_a_dashed_outline_and_says_so(placed: list) -> None:
    mask = square((600, 600), 150, 200, 450, 400)
    pictures = [
        np.asarray(draw_overlay(np.zeros((600, 600, 3), np.uint8), [finding("polyp", mask, 0.31, confident=confident)]))
        for confident in (True, False)
    ]
    assert [text for text, _ in placed] == ["polyp 0.31", "polyp 0.31 uncertain"]
    # Along the lower side, away from its corners and from the label above.
    sure, doubted = (np.abs(picture[398, 160:440].astype(int) - OKABE_ITO[0]).max(-1) <= 60 for picture in pictures)
    assert sure.all() and 0.45 < doubted.mean() < 0.75
    assert 8 <= np.count_nonzero(np.diff(doubted.astype(int)) == 1) <= 40  # dashes
    assert pictures[1][300, 300].max() < pictures[0][300, 300].max()  # a weaker fill


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 12), st.integers(3, 12))
def test_outlines_go_once_around_everything(seed: int, height: int, width: int) -> None:
    mask = np.zeros((height, width), bool)
    mask[1:-1, 1:-1] = np.random.default_rng(seed).random((height - 2, width - 2)) < 0.5
    outlines = overlay._outlines(mask)
    sides = sum(np.count_nonzero(mask & ~np.roll(mask, step, axis)) for step in (1, -1) for axis in (0, 1))
    assert sum(map(len, outlines)) == sides
    area = 0.0
    for line in outlines:
        x, y = np.array(line).T
        following_x, following_y = np.roll(x, -1), np.roll(y, -1)
        assert (np.abs(following_x - x) + np.abs(following_y - y) == 1).all()  # closed, one step at a time
        area += (x * following_y - following_x * y).sum() / 2  # holes go the other way round
    assert area == mask.sum()


def test_masks_that_shrink_do_not_vanish() -> None:
    mask = square((3200, 3200), 1000, 1000, 1001, 1001)
    picture = np.asarray(draw_overlay(np.zeros((3200, 3200, 3), np.uint8), [finding("x", mask)]))
    assert picture[495:506, 495:506].max() > 100


def test_colours_follow_the_findings_and_small_ones_are_on_top() -> None:
    shape = (600, 600)
    findings = [finding("small", square(shape, 250, 250, 350, 350)), finding("large", square(shape, 100, 100, 500, 500))]
    picture = np.asarray(draw_overlay(np.zeros((*shape, 3), np.uint8), findings))
    assert near(picture[300, 251], OKABE_ITO[0]) and near(picture[300, 101], OKABE_ITO[1])
    assert len(set(OKABE_ITO)) == 7


def test_what_is_not_there_is_only_noted(placed: list) -> None:
    pixels = np.zeros((600, 600, 3), np.uint8)
    picture = draw_overlay(pixels, [finding("polyp", np.zeros((600, 600), bool), 0.02, False)])
    assert [text for text, _ in placed] == ["polyp: not found"]
    left, top, _, bottom = placed[0][1]
    assert left < 20 and bottom > 580
    assert not np.asarray(picture)[: top - 1].any()


def test_answers_are_taken_too(placed: list) -> None:
    found = [finding("polyp", square((64, 64), 20, 20, 40, 40), 0.876)]
    draw_overlay(np.zeros((64, 64, 3), np.uint8), SimpleNamespace(findings=tuple(found)))
    assert [text for text, _ in placed] == ["polyp 0.88"]


def check_layout(placed: list, width: int, height: int) -> None:
    for index, (_, a) in enumerate(placed):
        assert 0 <= a[0] < a[2] <= width and 0 <= a[1] < a[3] <= height
        for _, b in placed[:index]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 14), st.integers(20, 700), st.integers(20, 700))
def test_labels_stay_inside_and_apart(seed: int, count: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    findings = []
    for k in range(count):
        (x0, x1), (y0, y1) = np.sort(rng.integers(0, width + 1, 2)), np.sort(rng.integers(0, height + 1, 2))
        name = "right adrenal gland and more"[: 3 + int(rng.integers(25))]
        findings.append(finding(f"{k} {name}", square((height, width), x0, y0, x1, y1), rng.random(), bool(rng.integers(5))))
    found: list = []
    draw = annotate._draw_label
    annotate._draw_label = lambda c, text, colour, rectangle, size: found.append((text, rectangle))
    try:
        picture = draw_overlay(np.zeros((height, width, 3), np.uint8), findings)
    finally:
        annotate._draw_label = draw
    assert len(found) == count  # none is lost
    check_layout(found, *picture.size)


def test_labels_without_room_go_below(placed: list) -> None:
    shape = (20, 400)
    findings = [finding(f"a rather long name {k}", square(shape, 5 * k, 0, 5 * k + 5, 20)) for k in range(30)]
    picture = draw_overlay(np.zeros((*shape, 3), np.uint8), findings)
    assert picture.width == 800 and picture.height > 40 and len(placed) == 30
    assert any(rectangle[1] >= 40 for _, rectangle in placed)
    check_layout(placed, *picture.size)


def test_labels_are_near_their_targets(placed: list) -> None:
    boxes = ((50, 50, 150, 150), (450, 60, 560, 140), (60, 450, 140, 560), (430, 430, 570, 570))
    draw_overlay(np.zeros((600, 600, 3), np.uint8), [finding(f"{k}", square((600, 600), *b)) for k, b in enumerate(boxes)])
    for text, (left, top, right, bottom) in placed:
        x0, y0, x1, y1 = boxes[int(text[0])]
        assert max(x0 - right, left - x1, y0 - bottom, top - y1) <= 10


@pytest.mark.parametrize("seed", range(20))
def test_labels_do_not_cover_small_findings(seed: int, placed: list) -> None:
    """A large finding, and small ones around the places where its label would go."""
    rng, shape = np.random.default_rng(seed), (600, 600)
    masks = [square(shape, 150, 150, 450, 450)]
    for _ in range(6):
        x, y = rng.integers(100, 480, 2)
        masks.append(square(shape, x, y, x + 8, y + 8))
    draw_overlay(np.zeros((*shape, 3), np.uint8), [finding(f"finding {k}", mask) for k, mask in enumerate(masks)])
    for _, (left, top, right, bottom) in placed:
        assert all(mask[top:bottom, left:right].sum() < 0.3 * mask.sum() for mask in masks[1:])


@pytest.mark.parametrize("background", [0, 255])
def test_labels_can_be_read_on_black_and_white(background: int, placed: list) -> None:
    pixels = np.full((600, 600, 3), background, np.uint8)
    picture = np.asarray(draw_overlay(pixels, [finding("polyp", square((600, 600), 200, 200, 400, 400))])).astype(int)
    left, top, right, bottom = placed[0][1]
    plate = picture[top:bottom, left + 6 : right].mean(axis=2)
    assert np.median(plate) < 70 and plate.max() > 240  # white on dark: contrast of more than 9 to 1


def test_long_and_odd_names(placed: list) -> None:
    mask = square((600, 600), 200, 200, 400, 400)
    names = ("word " * 80, "a\nb\tc", "", "Läsion 病变")
    draw_overlay(np.zeros((600, 600, 3), np.uint8), [finding(name, mask) for name in names])
    texts = sorted(text for text, _ in placed)
    assert any(text.endswith("…") for text in texts) and "a b c 0.93" in texts
    check_layout(placed, 600, 600)


# -- the panel -------------------------------------------------------------------------------------------------------


def test_panel_shows_image_prompt_and_result() -> None:
    pixels = np.full((256, 256, 3), 90, np.uint8)
    mask = square((256, 256), 150, 150, 200, 200)
    prompt = Prompt("Where is the polyp?", [(20, 40, 100, 120)], [(60, 80), (10, 200, 0)], mask)
    answer = SimpleNamespace(text="One <p>polyp</p><seg>.", findings=[finding("polyp", mask)])
    panel = np.asarray(draw_panel(pixels, prompt, answer))
    gap = 18
    top = round(2.2 * gap)
    image, asked, result = (panel[top : top + 512, gap + k * (512 + gap) :][:, :512] for k in range(3))
    assert (image == 90).all()
    for x, y in ((40, 160), (198, 160), (120, 81), (120, 238)):  # the box's sides, twice as large
        assert near(asked[y, x], OKABE_ITO[1])
    assert near(asked[161 - 5, 121 - 5], OKABE_ITO[2]) and near(asked[401 - 6, 21 - 6], OKABE_ITO[4])
    assert near(asked[350, 301], OKABE_ITO[5]) and near(result[350, 301], OKABE_ITO[0])
    assert (panel[:top] == 255).any() and (panel[top + 512 :] == 255).any()  # titles and captions


def test_the_caption_lists_question_and_references() -> None:
    mask = np.ones((64, 64), bool)
    prompt = Prompt(" What  is this? ", [(0, 0, 1, 1)] * 2, [(1, 1), (2, 2, 0)], mask)
    lines = ["".join(w for w, _ in line) for line in overlay._asked(prompt, 14, 2000)]
    assert lines == ['"What is this?"', "2 boxes, 1 point, 1 negative point, mask"]
    assert overlay._asked(Prompt(points=[(1, 1)]), 14, 2000) == [[("1 point", overlay._SOFT)]]

    found = [finding("liver", mask), finding("aorta", mask), finding("spleen", mask, present=False)]
    text = "CT: <p>liver</p><seg>, <p>spleen</p><seg> and <p>aorta</p><seg>. Odd </p> <seg> rest"
    (line,) = overlay._answered(SimpleNamespace(text=text), found, 14, 5000)
    assert "".join(w for w, _ in line).strip() == "CT: liver, spleen and aorta. Odd rest"
    colours = {word.strip(): colour for word, colour in line}
    assert colours["liver"] == OKABE_ITO[0] and colours["aorta"] == OKABE_ITO[1]
    assert colours["spleen"] == colours[","] == colours["CT:"] == (255, 255, 255)


@pytest.mark.parametrize("width", [40, 100, 300])
def test_captions_fit_their_column(width: int) -> None:
    text = "A sentence with averyveryverylongwordthatdoesnotfit, and <p>more than one</p><seg>."
    for lines in (overlay._answered(SimpleNamespace(text=text), [], 14, width), overlay._asked(Prompt(text), 14, width)):
        for line in lines:
            assert annotate.text_width("".join(w for w, _ in line).rstrip(), 14) <= width + 6


@pytest.mark.parametrize("shape", [(8, 8), (16, 700), (700, 16), (1200, 900)])
def test_panels_of_any_shape(shape: tuple[int, int]) -> None:
    mask = np.ones(shape, bool)
    answer = SimpleNamespace(text="", findings=[finding("polyp", mask)])
    panel = draw_panel(np.zeros((*shape, 3), np.uint8), Prompt(points=[(0, 0)], boxes=[(0, 0, 1, 1)], mask=mask), answer)
    assert panel.width > panel.height and panel.width >= 3 * 256
