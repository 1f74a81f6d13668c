"""Findings joined over slices, and their volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_series import ball, write_ct_series
from fakes import BOX
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_runtime.errors import ImageError
from mimo_runtime.request import AskRequest
from mimo_runtime.series.image_series import open_image_series
from mimo_runtime.series.joined import FindingJoiner
from mimo_runtime.series.scans import SeriesAnswer


def test_a_ball_is_one_structure_whose_volume_is_that_of_its_voxels(tmp_path: Path) -> None:
    _, inside = ball(12, radius=8, distance=2.0)
    joiner = FindingJoiner()
    for frame, mask in enumerate(inside):
        joiner.add(frame, "cyst", mask, 0.8)
    (finding,) = joiner.findings()
    assert finding.frames == tuple(np.flatnonzero(inside.any((1, 2)))) and finding.confident
    assert finding.score == pytest.approx(0.8)
    assert all(np.array_equal(finding.mask(k, 40, 40), inside[k]) for k in range(12))
    write_ct_series(tmp_path, 12)
    answer = SeriesAnswer(open_image_series(tmp_path), (), (finding,))
    assert answer.volume_ml(finding) == pytest.approx(inside.sum() * 0.8 * 0.8 * 2 / 1000, rel=1e-9)


def test_two_branches_meet_and_a_gap_separates() -> None:
    left, right, both = (np.zeros((20, 30), bool) for _ in range(3))
    left[5:9, 2:8], right[5:9, 15:22], both[6:8, 4:20] = True, True, True
    joiner = FindingJoiner()
    for frame, mask in enumerate((left | right, both, np.zeros((20, 30), bool), right)):
        joiner.add(frame, "vessel", mask)
    joiner.add(3, "other", left)
    vessel, rest, other = joiner.findings()
    assert (vessel.phrase, vessel.frames, len(vessel.parts)) == ("vessel", (0, 1), 3)
    assert (rest.frames, other.phrase) == ((3,), "other")


def test_a_structure_goes_on_behind_one_unread_frame_and_not_behind_two_or_a_start() -> None:
    mask = np.ones((4, 4), bool)

    def frames(skipped: tuple[int, ...], starts: tuple[int, ...] = (0,)) -> list[tuple[int, ...]]:
        joiner = FindingJoiner(starts)
        for frame in range(6):
            if frame in skipped:
                joiner.skip(frame)
            else:
                joiner.add(frame, "liver", mask)
        return sorted(finding.frames for finding in joiner.findings())

    assert frames((2,)) == [(0, 1, 3, 4, 5)]
    assert frames((2, 3)) == [(0, 1), (4, 5)]
    assert frames((2,), starts=(0, 3)) == [(0, 1), (3, 4, 5)] and frames((2,), starts=(0, 2)) == [(0, 1), (3, 4, 5)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.6))
def test_structures_are_the_connected_components_of_the_volume(seed, density) -> None:  # noqa: ANN001
    """8-connected within a slice, pixel over pixel between slices."""
    volume = np.random.default_rng(seed).random((4, 7, 8)) < density
    joiner = FindingJoiner()
    for frame, mask in enumerate(volume):
        joiner.add(frame, "x", mask)
    labels = np.where(volume, np.arange(volume.size).reshape(volume.shape) + 1, 0)
    while True:  # spread the largest number of each neighbourhood
        grown = labels.copy()
        padded = np.pad(labels, ((1, 1), (1, 1), (1, 1)))
        for dz, dy, dx in [(0, y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)] + [(1, 0, 0), (-1, 0, 0)]:
            grown = np.maximum(grown, padded[1 + dz : 5 + dz, 1 + dy : 8 + dy, 1 + dx : 9 + dx])
        grown = np.where(volume, grown, 0)
        if np.array_equal(grown, labels):
            break
        labels = grown
    joined = joiner.findings()
    assert len(joined) == len(np.unique(labels[volume]))
    for finding in joined:
        mask = np.stack([finding.mask(k, 7, 8) for k in range(4)])
        assert len(np.unique(labels[mask])) == 1 and np.array_equal(labels == labels[mask][0], mask)


def test_a_series_is_asked_frame_by_frame_and_stops_within_one(mimo, tmp_path: Path) -> None:
    write_ct_series(tmp_path / "a")
    scans = mimo.open_series(tmp_path / "a")
    asked = []
    answer = scans.ask("the polyp", boxes=[(5, 5, 20, 20)])
    assert answer.is_complete and [f.frame for f in answer.frames] == list(range(8)) and len(scans) == 8
    (finding,) = answer.findings
    assert finding.phrase == "polyp" and finding.frames == tuple(range(8)) and answer.volume_ml(finding) > 0
    assert all(not f.answer.findings and f.answer.text for f in answer.frames)

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 60

    partial = scans.ask("the polyp", boxes=[BOX[:2] + (30.0, 30.0)], should_stop=stop)
    assert not partial.is_complete and len(partial.frames) < 8


def test_a_damaged_frame_does_not_end_a_series_and_leaves_it_without_a_volume(mimo, tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path / "a", 5)
    paths[2].write_bytes(paths[2].read_bytes()[:-900])
    steps: list[tuple[int, int]] = []
    scans = mimo.open_series(tmp_path / "a")
    answer = scans.ask_request(AskRequest.of("the polyp", boxes=[(5, 5, 20, 20)]), lambda *step: steps.append(step))
    assert [f.frame for f in answer.frames] == [0, 1, 3, 4] and not answer.is_complete and steps[-1] == (5, 5)
    (failure,), (finding,) = answer.failures, answer.findings
    assert failure.frame == 2 and failure.reason.startswith("file 3 of 5 ") and str(tmp_path) not in failure.reason
    assert finding.frames == (0, 1, 3, 4) and answer.volume_ml(finding) is None and answer.extents_mm() == ()
    followed = mimo.segment_volume(scans, frame=0, boxes=[(5, 5, 20, 20)])
    assert [f.frame for f in followed.failures] == [2] and [f.frame for f in followed.frames] == [0, 1]
    named = mimo.segment_volume(scans, "polyp")
    assert [f.frame for f in named.frames] == [0, 1, 3, 4] and [f.frame for f in named.failures] == [2]
    assert not (followed.is_complete or named.is_complete)


def test_a_prompt_about_one_frame_is_answered_there(mimo, tmp_path: Path) -> None:
    write_ct_series(tmp_path / "a", 5)
    scans = mimo.open_series(tmp_path / "a")
    request = AskRequest.of("the polyp", boxes=[(5, 5, 20, 20)])
    answer = scans.ask_request(request, frames=[3])
    assert [f.frame for f in answer.frames] == [3] and answer.asked == (3,) and answer.is_complete
    (finding,) = answer.findings
    expected = scans[3].ask_request(request).findings[0].mask
    assert np.array_equal(finding.mask(3, 40, 40), expected) and answer.volume_ml(finding) is None
    for wrong in (5, -1, True, 1.5):
        with pytest.raises(ImageError, match="has no frame"):
            scans.ask_request(request, frames=[wrong])


def test_volume_needs_positions(mimo, tmp_path: Path) -> None:
    from PIL import Image

    for k in range(3):
        Image.fromarray(np.full((40, 40), 50, np.uint8)).save(tmp_path / f"{k}.png")
    answer = mimo.open_series(tmp_path).ask("the polyp", boxes=[(5, 5, 20, 20)])
    assert answer.volume_ml(answer.findings[0]) is None
