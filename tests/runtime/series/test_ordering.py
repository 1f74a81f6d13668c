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


def test_extents_follow_the_true_distances() -> None:
    assert lay_out(slices([0, 2, 6]), [SIZE] * 3).extents_mm() == (2, 3, 4)
    assert lay_out(slices([0]), [SIZE]).extents_mm() == ()


def test_frames_of_two_times_or_two_frames_of_reference_have_no_extents() -> None:
    assert lay_out(slices([0, 2, 0, 2]), [SIZE] * 4).extents_mm() == ()
    assert lay_out([*slices([0, 2]), *slices([4], frame_of_reference="2")], [SIZE] * 3).extents_mm() == ()
