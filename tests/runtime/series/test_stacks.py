"""Series that hold the same positions several times, or several directions: stacks, which are no neighbours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_series import ball, ct_slice

from mimo_runtime.errors import ImageError
from mimo_runtime.series.image_series import ImageSeries, open_image_series

SLICES = 4
VALUES, _ = ball(SLICES)


def write(folder: Path, *stacks: Callable[[int], dict[str, object]], interleaved: bool = True) -> ImageSeries:
    """Stacks of the same slices; each function gives the elements of its slice ``k``."""
    folder.mkdir()
    numbers = [(k, t) for k in range(SLICES) for t in range(len(stacks))]
    if not interleaved:
        numbers.sort(key=lambda pair: pair[1])
    for number, (k, t) in enumerate(numbers, 1):
        elements = {"ImagePositionPatient": [0.0, 0.0, 2.0 * k], **stacks[t](k)}
        ct_slice(number, VALUES[k], (0, 0, 0), **elements).save_as(folder / f"{number:03d}", enforce_file_format=True)
    return open_image_series(folder)


def labels(series: ImageSeries) -> list[str]:
    return [stack.label for stack in series.layout.stacks]


@pytest.mark.parametrize(
    ("keyword", "values", "label"),
    [
        ("TemporalPositionIdentifier", [2, 1, 3], "time {}"),
        ("EchoNumbers", [1, 2], "echo {}"),
        ("DiffusionBValue", [0, 500, 1000], "b-value {}"),
        ("AcquisitionNumber", [4, 5], "acquisition {}"),
        ("FrameReferenceTime", [1500.0, 500.0], "frame time {}"),
    ],
)
def test_frames_at_one_position_are_reported_apart_by_their_header(keyword, values, label, tmp_path: Path) -> None:  # noqa: ANN001
    series = write(tmp_path / "s", *(lambda k, v=value: {keyword: v} for value in values))  # type: ignore[misc]
    assert labels(series) == [label.format(f"{v:g}") for v in sorted(values)]
    for stack in series.layout.stacks:
        heights = [series.geometry(k).position[2] for k in range(stack.start, stack.stop)]
        assert heights == [0, 2, 4, 6] and not stack.problem and stack.distance_mm == pytest.approx(2)
    assert not series.is_regular and f"{len(values)} stacks" in series.layout.problem
    assert series.layout.extents_mm() == pytest.approx([2.0] * SLICES * len(values))
    assert series.layout.starts == {SLICES * t for t in range(len(values))}


def test_trigger_times_that_differ_from_slice_to_slice_are_ordered_at_each_position(tmp_path: Path) -> None:
    series = write(tmp_path / "s", *(lambda k, t=t: {"TriggerTime": 100.0 * t + 3 * k} for t in (1, 0, 2)))  # type: ignore[misc]
    assert len(series.layout.stacks) == 3
    times = [float(series.frames[i].phase["trigger time"]) for i in range(len(series))]
    assert times == [100.0 * t + 3 * k for t in range(3) for k in range(SLICES)]


def test_echoes_at_several_times_are_stacks_of_both(tmp_path: Path) -> None:
    pairs = [(t, e) for t in (1, 2) for e in (1, 2)]
    series = write(
        tmp_path / "s", *(lambda k, p=p: {"TemporalPositionIdentifier": p[0], "EchoNumbers": p[1]} for p in pairs)  # type: ignore[misc]
    )  # fmt: skip
    assert labels(series) == [f"time {t} echo {e}" for t, e in pairs]


def test_directions_of_a_localizer_are_stacks(tmp_path: Path) -> None:
    def turned(k: int) -> dict[str, object]:
        return {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": [2.0 * k, 0.0, 0.0]}

    series = write(tmp_path / "s", lambda k: {}, turned)
    assert (
        labels(series) == ["direction 1", "direction 2"]
        and "directions of the frames differ: 2 stacks" in series.layout.problem
    )
    assert all(stack.distance_mm == pytest.approx(2) for stack in series.layout.stacks)


def test_two_runs_are_reported_apart_by_blocks_of_instance_numbers_and_copies_are_not(tmp_path: Path) -> None:
    runs = write(tmp_path / "runs", lambda k: {}, lambda k: {}, interleaved=False)
    assert labels(runs) == ["run 1", "run 2"]
    copies = write(tmp_path / "copies", lambda k: {}, lambda k: {})
    assert len(copies.layout.stacks) == 1 and "two frames lie at the same position" in copies.layout.problem
    assert copies.layout.extents_mm() == () and len(list(copies)) == 2 * SLICES


def test_a_time_with_a_missing_slice_has_no_volume_and_the_other_has_one(tmp_path: Path) -> None:
    write(tmp_path / "s", *(lambda k, t=t: {"TemporalPositionIdentifier": t} for t in (1, 2)))  # type: ignore[misc]
    (tmp_path / "s" / "003").unlink()  # the second slice of time 1
    series = open_image_series(tmp_path / "s")
    first, second = series.layout.stacks
    assert "a frame is missing" in first.problem and not first.has_volume and second.distance_mm == pytest.approx(2)
    assert series.layout.extents_mm() == pytest.approx([0.0] * 3 + [2.0] * 4)


def test_one_stack_is_chosen_and_is_a_volume(mimo, tmp_path: Path) -> None:  # noqa: ANN001
    series = write(tmp_path / "s", *(lambda k, t=t: {"TemporalPositionIdentifier": t} for t in (1, 2)))  # type: ignore[misc]
    part = series.stack(2)
    assert len(part) == SLICES and part.is_regular and {f.phase["time"] for f in part.frames} == {2.0}
    assert series[::-1].layout == series.layout and series[::-1].frames == series.frames
    assert len(mimo.open_series(tmp_path / "s", stack=1)) == SLICES
    for wrong in (0, 3, True):
        with pytest.raises(ImageError, match=r"has no stack .* \(1: time 1, 4 frames, 2: time 2, 4 frames\)"):
            series.stack(wrong)


def test_findings_end_with_their_stack(mimo, tmp_path: Path) -> None:  # noqa: ANN001
    write(tmp_path / "s", *(lambda k, t=t: {"TemporalPositionIdentifier": t} for t in (1, 2)))  # type: ignore[misc]
    answer = mimo.open_series(tmp_path / "s").ask("the polyp", boxes=[(5, 5, 20, 20)])
    assert sorted(f.frames for f in answer.findings) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    whole = mimo.open_series(tmp_path / "s", stack=1).ask("the polyp", boxes=[(5, 5, 20, 20)])
    assert [answer.volume_ml(f) for f in answer.findings] == [whole.volume_ml(whole.findings[0])] * 2


def test_a_structure_is_not_followed_into_another_time(mimo, tmp_path: Path) -> None:  # noqa: ANN001
    write(tmp_path / "s", *(lambda k, t=t: {"TemporalPositionIdentifier": t} for t in (1, 2)))  # type: ignore[misc]
    answer = mimo.segment_volume(mimo.open_series(tmp_path / "s"), frame=5, boxes=[(5, 5, 20, 20)])
    assert {f.frame for f in answer.frames} <= {4, 5, 6, 7} and answer.findings[0].frames == (4, 5, 6, 7)


def test_times_of_a_volume_file_are_stacks(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).integers(0, 900, (20, 24, 3, 2)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([0.8, 0.8, 2, 1])), tmp_path / "v.nii")
    series = open_image_series(tmp_path / "v.nii", modality="mri")
    assert labels(series) == ["time 0", "time 1"] and [f.index for f in series.frames] == list(range(6))
    assert series.layout.extents_mm() == pytest.approx([2.0] * 6)


def test_a_capture_without_position_is_a_stack_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "s", lambda k: {})
    missing = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    ct_slice(99, VALUES[0], (0, 0, 0), **missing).save_as(tmp_path / "s" / "0", enforce_file_format=True)
    series = open_image_series(tmp_path / "s")
    assert labels(series) == ["", "without position"] and series.layout.stacks[0].distance_mm == pytest.approx(2)
    assert "some frames have no position: 2 stacks" in series.layout.problem and series.layout.places_mm == ()
