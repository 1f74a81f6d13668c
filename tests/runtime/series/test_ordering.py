"""Order and regularity of slices, from their positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.imageio.geometry import ImageGeometry
from mimo_runtime.series.ordering import lay_out

SIZE = (20, 30)


def slices(places: list[float], tilt: float = 0.0, **changes: object) -> list[ImageGeometry]:
    fields = {"spacing_mm": (0.7, 0.7), "plane": "patient", "across": (1, 0, 0), "down": (0, 1, 0), "frame_of_reference": "1"}
    return [ImageGeometry(**{**fields, "position": (5, 6 + tilt * z, z), **changes}) for z in places]  # type: ignore[arg-type]


def problem(geometries: list[ImageGeometry]) -> str:
    return lay_out(geometries, [SIZE] * len(geometries)).problem


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(12)), st.floats(0.3, 8), st.floats(-100, 100), st.floats(0, 3))
def test_shuffled_slices_come_in_the_order_of_their_positions(order, step, start, angle) -> None:  # noqa: ANN001
    down = (0.0, float(np.cos(angle)), float(np.sin(angle)))
    normal = np.cross((1, 0, 0), down)
    frames = [
        ImageGeometry((1, 1), "patient", tuple(normal * (start + step * k)), (1, 0, 0), down, 99.0)  # type: ignore[arg-type]
        for k in order
    ]
    layout = lay_out(frames, [SIZE] * 12)
    assert [order[i] for i in layout.order] == list(range(12)) and layout.is_regular
    assert layout.distance_mm == pytest.approx(step) and sum(layout.extents_mm()) == pytest.approx(12 * step)


def test_jitter_is_regular_and_a_gap_a_duplicate_and_a_tilt_are_not() -> None:
    assert problem(slices([0, 2.52, 4.99, 7.5])) == ""
    assert "a frame is missing" in problem(slices([0, 2.5, 7.5, 10]))
    assert "slice distances differ (2 to 2.6 mm)" in problem(slices([0, 2, 4.6, 6.6]))
    assert "same position" in problem(slices([0, 2.5, 2.5, 5]))
    assert "gantry tilt" in problem(slices([0, 2.5, 5], tilt=0.2))


def test_frames_that_do_not_fit_each_other_are_no_volume() -> None:
    first = slices([0, 1])
    assert "directions" in problem([first[0], *slices([1], across=(0, 1, 0), down=(0, 0, 1))])
    assert "spacings" in problem([first[0], *slices([1], spacing_mm=(0.7, 0.9))])
    assert "frames of reference" in problem([first[0], *slices([1], frame_of_reference="2")])
    assert "sizes" in lay_out(first, [SIZE, (20, 31)]).problem
    assert "no position" in problem([ImageGeometry(), ImageGeometry()])


def test_extents_follow_the_true_distances_of_slices_without_a_gap() -> None:
    layout = lay_out(slices([0, 2, 4.6]), [SIZE] * 3)
    assert layout.extents_mm() == pytest.approx((2, 2.3, 2.6)) and "slice distances differ" in layout.problem
    assert lay_out(slices([0]), [SIZE]).extents_mm() == ()


@pytest.mark.parametrize(
    ("places", "tilt"), [([0, 2.5, 7.5, 10], 0.0), ([0, 2.5, 2.5, 5], 0.0), ([0, 2.5, 5], 0.2)], ids=["gap", "twice", "tilt"]
)
def test_a_gap_a_duplicate_and_a_tilt_have_no_volume(places: list[float], tilt: float) -> None:
    layout = lay_out(slices(places, tilt), [SIZE] * len(places))
    assert layout.extents_mm() == () and not layout.is_regular and layout.distance_mm is None
    assert not layout.stacks[0].has_volume and layout.places_mm == tuple(places)


def test_frames_of_two_frames_of_reference_are_two_stacks() -> None:
    layout = lay_out([*slices([0, 2]), *slices([4], frame_of_reference="2")], [SIZE] * 3)
    assert [(s.start, s.stop, s.label) for s in layout.stacks] == [
        (0, 2, "frame of reference 1"),
        (2, 3, "frame of reference 2"),
    ]
    assert layout.extents_mm() == (2, 2, 0) and layout.starts == {0, 2} and not layout.is_regular


def test_a_single_frame_without_position_has_no_problem() -> None:
    layout = lay_out([ImageGeometry()], [SIZE])
    assert layout.problem == "" and layout.places_mm == () and layout.extents_mm() == ()


def test_several_missing_frames_separate_neighbours_and_one_does_not() -> None:
    assert lay_out(slices([0, 2, 6, 8]), [SIZE] * 4).starts == {0}
    assert lay_out(slices([0, 2, 8, 10]), [SIZE] * 4).starts == {0, 2}
