"""From marks to masks: the model segments a marked slice, and follows the object to the slices around it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from ...errors import CancelledError, DeadlineError
from ...pipeline import Mimo
from ...request import AskRequest
from ...series.scans import SeriesAnswer
from ..jobs import Job
from ..volumes import SliceSeries
from .marks import Bounds, SliceMarks
from .segmentation import Segmentation, union


def predict(mimo: Mimo, segmentation: Segmentation, job: Job, *, follows: bool = True) -> Bounds | None:
    """Segment the slices with new marks, and the slices that follow them; within ``Segmentation.step``.

    At the deadline of the job, the slices that are complete count.

    Args:
        follows: whether other slices than the marked ones are segmented.

    Returns:
        The bounds of the voxels that changed; None for none.

    Raises:
        PromptError, ImageError: the marks do not fit their slice, or the slice is no image.
        DeadlineError, CancelledError: not one slice is complete, or the client left.
    """
    changed = []
    for index in sorted(segmentation.pending):
        bounds = _predict_from(mimo, segmentation, index, job, follows)
        changed += [bounds] if bounds else []
    segmentation.pending = frozenset()
    return union(changed)


def refine(mimo: Mimo, segmentation: Segmentation, job: Job) -> Bounds | None:
    """Segment every slice of the object again, with its mask as a rough one; within ``Segmentation.step``.

    Returns and raises as :func:`predict`.
    """
    plane, stops, changed = segmentation.plane, stop_check(job), []
    if plane is None:
        return None
    series = segmentation.volume.series(plane, mimo.windows)
    for index in sorted(segmentation.fixed):
        if stops():
            break
        request = AskRequest.of(mask=segmentation.slice_mask(index), text_answer=False, should_stop=stops)
        answer = mimo.open(series[index]).ask_request(request)
        masks = [finding.mask for finding in answer.findings if finding.present]
        if masks and not stops():
            mask = _upright(np.logical_or.reduce(masks), plane.rows > plane.columns)
            changed.append(segmentation.replace(plane, range(index, index + 1), mask[None]))
    _check(job)
    return union([bounds for bounds in changed if bounds])


def _predict_from(mimo: Mimo, segmentation: Segmentation, index: int, job: Job, follows: bool) -> Bounds | None:
    plane, marks = segmentation.plane, segmentation.marks[index]
    assert plane is not None
    slices = segmentation.territory(index) if follows and marks.is_new else range(index, index + 1)
    if marks.has_object:
        series = segmentation.volume.series(plane, mimo.windows)
        masks = _follow(mimo, series, slices, index, marks, job)
    else:
        masks = {index: segmentation.slice_mask(index).copy()}
        slices = range(index, index + 1)
    for number in masks:
        cut = segmentation.marks[number].cut if number in segmentation.marks else None
        if cut is not None:
            masks[number] &= ~cut
    order = plane.rows > plane.columns
    slab = [_upright(masks[number] if number in masks else segmentation.slice_mask(number), order) for number in slices]
    return segmentation.replace(plane, slices, np.stack(slab))


def _follow(mimo: Mimo, series: SliceSeries, slices: range, index: int, marks: SliceMarks, job: Job) -> dict[int, np.ndarray]:
    """The object by slice, bool ``[H, W]``; slices that a deadline left out are missing."""
    part, stops, limits = series[slices.start : slices.stop], stop_check(job), mimo.config.prompts
    answer = mimo.segment_volume(
        part, frame=index - slices.start, boxes=marks.boxes[-limits.max_boxes :],
        points=marks.latest_points(limits.max_points), mask=marks.rough, should_stop=stops,
    )  # fmt: skip
    _check(job)
    asked = {frame.frame for frame in answer.frames}
    if index - slices.start not in asked:
        raise DeadlineError("the deadline passed before the marked slice was complete", "Try again when fewer callers wait")
    size, is_late = series.frames[index].size, stops()
    return {
        number: _mask_of(answer, number - slices.start, size)
        for number in slices if not is_late or number - slices.start in asked
    }  # fmt: skip


def _mask_of(answer: SeriesAnswer, frame: int, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    for finding in answer.findings:
        mask |= finding.mask(frame, *size)
    return mask


def stop_check(job: Job) -> Callable[[], bool]:
    """Whether the client left or the deadline passed."""
    return lambda: job.is_stopped() or job.deadline is not None and time.monotonic() >= job.deadline


def _check(job: Job) -> None:
    """Raises CancelledError: nobody waits for the result."""
    if job.is_stopped():
        raise CancelledError("the client ended the request", "Send it again")


def _upright(mask: np.ndarray, is_swapped: bool) -> np.ndarray:
    """A slice in the order of the axes of the array."""
    return mask.T if is_swapped else mask
