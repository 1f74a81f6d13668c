"""Tracking of synthetic discs that move, deform, leave and come back."""

from __future__ import annotations

import numpy as np
import pytest
from bright_discs import GREEN, RED, SIZE, box_around, bright_mimo, disc
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mimo_runtime.errors import ImageError, PromptError
from mimo_runtime.evaluation.metrics import dice
from mimo_runtime.preprocessing.letterbox import Letterbox
from mimo_runtime.tracking.appearance import appearance_of
from mimo_runtime.tracking.config import TrackingConfig
from mimo_runtime.tracking.stream import track_frames


def truth(frame: np.ndarray) -> np.ndarray:
    return frame.max(axis=2) > 100


def states(results) -> list[str]:
    return [t.status for t in results]


def test_a_moving_disc_is_tracked_by_a_box_on_its_first_frame() -> None:
    frames = [disc(20 + i, 30 + i / 2) for i in range(20)]
    results = list(bright_mimo().track(frames, boxes=[box_around(20, 30)]))
    assert [t.frame for t in results] == list(range(20)) and set(states(results)) == {"tracked"}
    assert min(dice(t.mask, truth(frame)) for t, frame in zip(results, frames)) > 0.85
    assert all(t.box is not None and t.score > 0.5 and t.similarity > 0.9 for t in results)


@settings(max_examples=15, deadline=None)
@given(st.integers(16, 46), st.integers(16, 46), st.floats(-1.5, 1.5), st.floats(-1.5, 1.5), st.floats(0.8, 1.25))
def test_a_disc_stays_tracked_on_any_slow_way(x: int, y: int, dx: float, dy: float, stretch: float) -> None:
    steps = [min(i, 6) for i in range(9)]
    frames = [disc(x + dx * i, y + dy * i, stretch=1 + (stretch - 1) * i / 6) for i in steps]
    results = list(
        bright_mimo().track(frames, boxes=[box_around(x, y)] if 12 < min(x, y) < max(x, y) < 52 else [(0, 0, 64, 64)])
    )
    assert set(states(results)) == {"tracked"}
    assert dice(results[-1].mask, truth(frames[-1])) > 0.85


@pytest.mark.parametrize("text", ["", "polyp"])
def test_a_disc_that_leaves_is_lost_and_found_again_where_it_comes_back(text: str) -> None:
    frames = [*[disc(30, 30)] * 3, *[disc(200, 30)] * 3, *[disc(44, 40)] * 3]
    results = list(bright_mimo().track(frames, text, boxes=[box_around(30, 30)]))
    assert states(results) == ["tracked"] * 3 + ["lost"] * 3 + ["found again"] + ["tracked"] * 2
    assert results[6].reason == "where the frames match"
    lost = results[4]
    assert not lost.mask.any() and lost.mask.shape == (SIZE, SIZE) and lost.box is None and lost.score == 0
    assert "does not match" in lost.reason and dice(results[8].mask, truth(frames[8])) > 0.85


def test_another_object_at_the_same_place_is_not_the_target() -> None:
    frames = [*[disc(30, 30, colour=RED)] * 3, *[disc(30, 30, colour=GREEN)] * 2, disc(30, 30, colour=RED)]
    results = list(bright_mimo().track(frames, boxes=[box_around(30, 30)]))
    assert states(results) == ["tracked"] * 3 + ["lost"] * 2 + ["found again"]
    assert "the appearance differs" in results[3].reason


def test_a_jump_of_the_area_ends_the_track() -> None:
    frames = [disc(30, 30, 6), disc(30, 30, 6), np.full((SIZE, SIZE, 3), RED, np.uint8)]
    results = list(bright_mimo().track(frames, boxes=[box_around(30, 30, 8)]))
    assert states(results)[-1] == "lost" and results[-1].reason


def test_a_name_that_means_more_than_the_prompt_does_not_take_over() -> None:
    two = [np.maximum(disc(16, 30 + i), disc(48, 30 - i)) for i in range(6)]
    results = list(bright_mimo().track(two, "polyp", boxes=[box_around(16, 30)]))
    assert set(states(results)) == {"tracked"}
    assert min(dice(t.mask, truth(disc(16, 30 + i))) for i, t in enumerate(results)) > 0.85


def test_the_state_of_a_tracker_does_not_grow() -> None:
    tracker = bright_mimo().tracker(boxes=[box_around(30, 30)])
    shapes = set()
    for i in range(12):
        tracker.update(disc(30 + i % 3, 30))
        target = tracker.target
        shapes.add((target.mask.shape, target.appearance.mean.shape, target.appearance.spread.shape))
    assert len(shapes) == 1 and set(vars(tracker)) == set(vars(bright_mimo().tracker(boxes=[box_around(30, 30)])))


def test_answers_are_the_same_with_and_without_encoding_ahead() -> None:
    frames = [disc(20 + i, 30) for i in range(6)] + [disc(200, 0), disc(30, 30)]
    runs = [
        list(track_frames(bright_mimo(0.002).tracker(boxes=[box_around(20, 30)]), enumerate(frames), ahead=ahead))
        for ahead in (False, True)
    ]
    for alone, beside in zip(*runs, strict=True):
        assert (alone.status, alone.reason, alone.box, alone.similarity) == (
            beside.status, beside.reason, beside.box, beside.similarity,
        )  # fmt: skip
        assert np.array_equal(alone.mask, beside.mask)


def test_a_buffer_that_the_camera_fills_again_is_copied() -> None:
    buffer = np.zeros((SIZE, SIZE, 3), np.uint8)

    def camera():
        for i in range(6):
            buffer[:] = disc(20 + 2 * i, 30)[..., ::-1]
            yield buffer
        buffer[:] = 0

    results = list(bright_mimo(0.002).track(camera(), boxes=[box_around(20, 30)], channels="bgr"))
    assert set(states(results)) == {"tracked"} and results[-1].box[0] - results[0].box[0] == pytest.approx(10, abs=2)


def test_frames_of_another_size_are_one_clear_error() -> None:
    frames = [disc(30, 30), np.zeros((48, 64, 3), np.uint8), disc(30, 30)]
    results = bright_mimo().track(frames, boxes=[box_around(30, 30)])
    assert next(results).status == "tracked"
    with pytest.raises(ImageError, match="frame 1 has 64 x 48 pixels, the frames before it 64 x 64. Scale all frames"):
        next(results)


def test_errors_of_the_frames_reach_the_caller_and_no_thread_takes_more(monkeypatch) -> None:
    taken = []

    def broken():
        for i in range(3):
            taken.append(i)
            yield disc(30, 30)
        raise OSError("the camera is gone")

    results = bright_mimo().track(broken(), boxes=[box_around(30, 30)])
    with pytest.raises(OSError, match="the camera is gone"):
        list(results)
    results = bright_mimo().track(iter([disc(30, 30)] * 9), boxes=[box_around(30, 30)])
    next(results)
    results.close()
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "the request is empty"),
        ({"boxes": [(0, 0, 999, 9)]}, "is outside"),
        ({"text": "What do you see?"}, "cannot be tracked"),
    ],
)
def test_a_prompt_about_no_single_target_is_refused(arguments: dict, error: str) -> None:
    with pytest.raises(PromptError, match=error):
        list(bright_mimo().track([disc(30, 30)], **arguments))
    with pytest.raises(TypeError):
        bright_mimo().track([], nothing=1)


def test_should_stop_ends_the_track() -> None:
    seen = []
    stream = bright_mimo().track([disc(30, 30)] * 9, boxes=[box_around(30, 30)], should_stop=lambda: len(seen) >= 3)
    for tracked in stream:
        seen.append(tracked)
    assert len(seen) == 3


def test_a_file_with_several_frames_is_tracked(tmp_path) -> None:
    first, *others = [Image.fromarray(disc(30 + i, 30)) for i in range(4)]
    first.save(tmp_path / "clip.tiff", save_all=True, append_images=others)
    results = list(bright_mimo().track(tmp_path / "clip.tiff", boxes=[box_around(30, 30)]))
    assert states(results) == ["tracked"] * 4


def test_a_target_that_moves_fast_and_deforms_is_tracked_without_a_name() -> None:
    rng = np.random.default_rng(5)
    texture = rng.integers(0, 60, (SIZE, SIZE, 1)).astype(np.uint8)
    frames = [np.maximum(disc(14 + 5 * i, 20 + 2 * i, stretch=1 + i / 20), texture) for i in range(8)]
    results = list(bright_mimo().track(frames, boxes=[box_around(14, 20)]))
    assert set(states(results)) == {"tracked"} and min(dice(t.mask, truth(f)) for t, f in zip(results, frames)) > 0.85


@pytest.mark.parametrize("text", ["", "polyp"])
def test_a_target_that_comes_back_in_another_view_is_searched_for_after_a_while(text: str) -> None:
    config = TrackingConfig(search_after=2, min_found_motion=1.1)
    frames = [*[disc(30, 30)] * 3, *[disc(200, 30)] * 3, *[disc(44, 40)] * 3]
    results = list(bright_mimo().track(frames, text, boxes=[box_around(30, 30)], config=config))
    assert states(results) == ["tracked"] * 3 + ["lost"] * 3 + ["found again"] + ["tracked"] * 2
    assert results[6].reason == ("by name" if text else "by its appearance") and "not present" in results[5].reason


def test_a_target_that_is_back_in_another_view_after_a_short_absence_is_found_by_the_third_frame() -> None:
    frames = [*[disc(30, 30)] * 3, *[disc(200, 30)] * 3, *[disc(44, 40)] * 3]
    config = TrackingConfig(min_found_motion=1.1)  # no frame matches
    results = list(bright_mimo().track(frames, boxes=[box_around(30, 30)], config=config))
    assert states(results) == ["tracked"] * 3 + ["lost"] * 3 + ["found again"] + ["tracked"] * 2


def test_a_mask_below_the_last_whole_cell_of_the_features_has_an_appearance() -> None:
    letterbox = Letterbox(35, 64, 64)  # the image fills 4.4 rows of 8 cells
    features = np.random.default_rng(2).normal(size=(1, 3, 8, 8)).astype(np.float32)
    mask = np.zeros((35, 64), bool)
    mask[33:, 10:20] = True
    appearance = appearance_of(features, letterbox, mask)
    assert np.isfinite(appearance.mean).all() and np.isfinite(appearance.spread).all()
    assert appearance.similarity(appearance) == pytest.approx(1)
    above = np.zeros((35, 64), bool)
    above[24:32, 10:20] = True
    assert np.allclose(appearance.mean, appearance_of(features, letterbox, above).mean, atol=0.1)


def test_should_stop_ends_a_track_whose_target_is_out_of_view() -> None:
    seen: list[int] = []
    frames = [disc(30, 30), *[disc(200, 30)] * 9]
    for tracked in bright_mimo().track(frames, boxes=[box_around(30, 30)], should_stop=lambda: len(seen) >= 4):
        seen.append(tracked.frame)
    assert seen == [0, 1, 2, 3]
