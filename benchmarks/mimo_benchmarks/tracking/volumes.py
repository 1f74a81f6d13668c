"""Dice of a structure in the slices of volumes, from one box on the middle slice and by name."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np

from mimo_runtime.evaluation.metrics import dice
from mimo_runtime.pipeline import Mimo
from mimo_runtime.postprocessing.masks import box_of_mask
from mimo_runtime.request import AskRequest
from mimo_runtime.scan import Scan
from mimo_runtime.series.scans import SeriesAnswer
from mimo_runtime.tracking.tracker import target_of

from ..report.machine import Machine, describe, finish
from .measure import mean_dice
from .slices import Stack

#: ``volume`` and ``volume_name``: ``Mimo.segment_volume`` from a box on the middle slice, and from box and name.
#: ``volume_by_name``: by name over all slices. The others ask every slice by itself: with the box of the mask before, that of
#: the middle slice, the true box, or the name.
METHODS = ("volume", "volume_name", "volume_by_name", "previous_box", "middle_box", "true_box", "by_name")
Progress = Callable[[int, int], None]


class VolumeResult(TypedDict):
    """The JSON of ``mimo-bench volumes``; ``dice`` is the mean over slices but the middle one, by method and set."""

    machine: Machine
    volumes: int
    slices: int
    seconds_per_slice: float
    dice: dict[str, dict[str, float]]
    by_distance: dict[str, dict[str, float]]
    gain_over_previous_box: float


def measure_volumes(mimo: Mimo, stacks: Sequence[Stack], *, progress: Progress | None = None) -> VolumeResult:
    """Segment every stack by every method. A slice without the structure counts 1 for an empty mask, else 0."""
    machine, slices, seconds = describe(), 0, 0.0
    scores: dict[str, dict[str, list[float]]] = {method: defaultdict(list) for method in METHODS}
    distances: dict[str, dict[int, list[float]]] = {method: defaultdict(list) for method in METHODS}
    for number, stack in enumerate(stacks):
        if progress:
            progress(number, len(stacks))
        masks, spent = _segment(mimo, stack)
        seconds += spent
        for method, of_method in masks.items():
            for index, (mask, truth) in enumerate(zip(of_method, stack.masks, strict=True)):
                if index != stack.middle:
                    value = dice(mask, truth)
                    scores[method][stack.set_name].append(value)
                    scores[method]["all"].append(value)
                    distances[method][abs(index - stack.middle)].append(value)
        slices += len(stack.masks)
    finish(machine)
    result = {method: {name: mean_dice(values) for name, values in of.items()} for method, of in scores.items()}
    return {
        "machine": machine,
        "volumes": len(stacks),
        "slices": slices,
        "seconds_per_slice": round(seconds / max(1, slices), 4),
        "dice": result,
        "by_distance": {m: {str(d): mean_dice(v) for d, v in sorted(of.items())} for m, of in distances.items()},
        "gain_over_previous_box": round(result["volume"]["all"] - result["previous_box"]["all"], 4),
    }


def _segment(mimo: Mimo, stack: Stack) -> tuple[dict[str, list[np.ndarray]], float]:
    """Masks by method, and the seconds that ``segment_volume`` took from a box."""
    series, box = stack.series(), box_of_mask(stack.masks[stack.middle])
    assert box is not None
    started = time.perf_counter()
    volume = mimo.segment_volume(series, frame=stack.middle, boxes=[box], any_domain=True)
    spent = time.perf_counter() - started
    named = mimo.segment_volume(series, stack.name, frame=stack.middle, boxes=[box], any_domain=True)
    masks = {
        "volume": _masks_of(volume, stack),
        "volume_name": _masks_of(named, stack),
        "volume_by_name": _masks_of(mimo.segment_volume(series, stack.name, any_domain=True), stack),
    }
    scans = [mimo.open(image) for image in series]
    masks["previous_box"] = _propagated(scans, stack.middle, box)
    masks["middle_box"] = [_mask(scan, "", box) for scan in scans]
    true_boxes = [box_of_mask(mask) for mask in stack.masks]
    masks["true_box"] = [np.zeros_like(stack.masks[0]) if b is None else _mask(s, "", b) for s, b in zip(scans, true_boxes)]
    masks["by_name"] = [_mask(scan, stack.name) for scan in scans]
    return masks, spent


def _masks_of(answer: SeriesAnswer, stack: Stack) -> list[np.ndarray]:
    masks = [np.zeros_like(mask) for mask in stack.masks]
    for finding in answer.findings:
        for frame in finding.frames:
            masks[frame] |= finding.mask(frame, *masks[frame].shape)
    return masks


def _propagated(scans: Sequence[Scan], middle: int, first: Sequence[float]) -> list[np.ndarray]:
    """Every slice asked with the box of the mask before, from the middle up and down."""
    masks: dict[int, np.ndarray] = {}
    for step in (1, -1):
        box: Sequence[float] = first
        for index in range(middle, len(scans) if step > 0 else -1, step):
            masks[index] = _mask(scans[index], "", box)
            box = box_of_mask(masks[index]) or box
    return [masks[index] for index in range(len(scans))]


def _mask(scan: Scan, text: str, box: Sequence[float] | None = None) -> np.ndarray:
    boxes = () if box is None else [box]
    finding = target_of(scan.ask_request(AskRequest.of(text, boxes, text_answer=False, any_domain=True)))
    return np.zeros((scan.height, scan.width), bool) if finding is None else finding.mask
