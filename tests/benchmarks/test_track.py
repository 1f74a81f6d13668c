"""``mimo-bench track``: synthetic sequences with exact masks, and what is measured on them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from bright_discs import bright_mimo, disc

from mimo_benchmarks.tracking.measure import METHODS, measure_tracking
from mimo_benchmarks.tracking.sequences import MOTIONS, Still, frames_of
from mimo_benchmarks.tracking.table import track_table
from mimo_runtime.evaluation.metrics import dice

PIXELS = disc(26, 30)
STILL = Still("polyp", PIXELS, PIXELS.max(axis=2) > 100, None, "discs 0")


@pytest.mark.parametrize("motion", MOTIONS)
def test_masks_follow_the_pixels(motion: str) -> None:
    frames = list(frames_of(STILL, motion, 13))
    assert dice(frames[0][1], STILL.mask) > 0.95
    assert min(dice(pixels.max(axis=2) > 130, mask) for pixels, mask in frames) > 0.9
    assert any(not mask.any() for _, mask in frames) == (motion == "leaving")
    again = list(frames_of(STILL, motion, 13))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(frames, again, strict=True))


def test_tracking_is_measured_beside_answers_about_every_frame() -> None:
    done = []
    result = measure_tracking(bright_mimo(), [STILL], frames=25, progress=lambda *p: done.append(p))
    assert done == [(i, 3) for i in range(3)] and result["sequences"] == 3 and result["frames"] == 75
    assert set(result["methods"]) == set(METHODS)
    # At the border of the frame, a part of a disc matches no frame, because it has no texture, and its area is not the usual
    # one: four of the 24 frames are lost.
    by_motion = result["methods"]["track_name"]
    assert min(by_motion["moving"], by_motion["deforming"]) > 0.85 and by_motion["leaving"] > 0.75
    assert result["dice"] == result["methods"]["track"]["all"] > 0.8
    assert list(result["dice_by_distance"]) == ["1", "2", "5", "10", "20", "24"]
    assert result["absent_frames"] >= 3 and result["false_tracks"] == 0 and result["p99_ms"] >= result["p50_ms"] > 0
    assert result["by_source"]["discs"].keys() == set(METHODS)
    table = track_table(result)
    assert all(motion in table for motion in MOTIONS) and f"{result['frames_per_s']} frames/s" in table
    assert len(list(itertools.takewhile(lambda line: line.startswith("|"), table.splitlines()))) == 2 + len(METHODS)
