"""Dice and speed of tracking on synthetic sequences, beside answers about every frame by itself."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np

from mimo_runtime.evaluation.metrics import dice
from mimo_runtime.pipeline import Mimo, Scan
from mimo_runtime.postprocessing.masks import box_of_mask
from mimo_runtime.request import AskRequest
from mimo_runtime.tracking.results import TrackedFrame
from mimo_runtime.tracking.tracker import target_of

from ..report.machine import Machine, describe, finish
from ..report.percentiles import percentiles
from .sequences import MOTIONS, Still, frames_of

#: Upper ends of the ranges of frames since the prompt, for ``dice_by_distance``.
DISTANCES = (1, 2, 5, 10, 20, 40, 80, 160)
#: How the sequences are followed. ``track``: by a box on the first frame. ``track_name``: by box and name. ``by_name`` and
#: ``by_true_box``: every frame is asked. ``previous_box``: every frame is asked with the box of the mask before.
METHODS = ("track", "track_name", "by_name", "by_true_box", "previous_box")
Progress = Callable[[int, int], None]
Frames = list[tuple[np.ndarray, np.ndarray]]


class TrackResult(TypedDict):
    """The JSON of ``mimo-bench track``."""

    machine: Machine
    sequences: int
    frames: int
    frames_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    dice: float
    methods: dict[str, dict[str, float]]
    dice_by_distance: dict[str, float]
    by_source: dict[str, dict[str, float]]
    absent_frames: int
    false_tracks: int
    lost_frames: int


def measure_tracking(
    mimo: Mimo, stills: Sequence[Still], *, frames: int = 40, seed: int = 0, progress: Progress | None = None
) -> TrackResult:
    """Follow every still through every motion.

    Dice of a frame without target is 1 for an empty mask, else 0. The first frame, which has the prompt, does not count.
    A frame's time is that between two results of ``Mimo.track`` with a box, reading and encoding included.
    """
    machine, tally, times_ms = describe(), _Tally(frames), list[float]()
    mimo.warmup()
    for number, (still, motion) in enumerate(itertools.product(stills, MOTIONS)):
        if progress:
            progress(number, len(stills) * len(MOTIONS))
        sequence = list(frames_of(still, motion, frames, seed))
        tracked, elapsed = _track(mimo, still, sequence)
        times_ms += elapsed[1:]
        tally.add(still, motion, [truth for _, truth in sequence], tracked, _others(mimo, still, sequence))
    finish(machine)
    methods = tally.methods()
    sequences = len(stills) * len(MOTIONS)
    return {
        "machine": machine,
        "sequences": sequences,
        "frames": sequences * frames,
        "frames_per_s": round(1000 * len(times_ms) / max(1e-9, sum(times_ms)), 2),
        **percentiles(times_ms),
        "dice": methods["track"]["all"],
        "methods": methods,
        "dice_by_distance": {str(d): mean_dice(values) for d, values in sorted(tally.distances.items())},
        "by_source": {s: {m: mean_dice(v) for m, v in of.items()} for s, of in tally.sources.items()},
        "absent_frames": tally.absent,
        "false_tracks": tally.false,
        "lost_frames": tally.lost,
    }


class _Tally:
    """Dice of all frames, by method and motion, by distance from the prompt, and by source."""

    def __init__(self, frames: int) -> None:
        self._ends = (*(d for d in DISTANCES if d < frames - 1), frames - 1)
        self._scores: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in METHODS}
        self.sources: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.distances: dict[int, list[float]] = defaultdict(list)
        self.absent = self.false = self.lost = 0

    def add(
        self,
        still: Still,
        motion: str,
        truths: Sequence[np.ndarray],
        tracked: Sequence[TrackedFrame],
        others: dict[str, list[np.ndarray]],
    ) -> None:
        masks = {"track": [t.mask for t in tracked], **others}
        source = still.source.rpartition(" ")[0]
        for index, truth in enumerate(truths[1:], 1):
            for method, of_method in masks.items():
                score = dice(of_method[index], truth)
                self._scores[method][motion].append(score)
                self.sources[source][method].append(score)
            self.distances[next(d for d in self._ends if d >= index)].append(self._scores["track"][motion][-1])
            has_target, is_lost = bool(truth.any()), tracked[index].status == "lost"
            self.absent += not has_target
            self.false += not has_target and not is_lost
            self.lost += has_target and is_lost

    def methods(self) -> dict[str, dict[str, float]]:
        """Mean Dice by method and motion, and of all frames."""
        return {
            method: {
                **{motion: mean_dice(of[motion]) for motion in MOTIONS},
                "all": mean_dice([s for v in of.values() for s in v]),
            }
            for method, of in self._scores.items()
        }


def mean_dice(values: Sequence[float]) -> float:
    """The mean, rounded to four decimals; 0 where there is no value."""
    return round(float(np.mean(values)), 4) if len(values) else 0.0


def _track(mimo: Mimo, still: Still, sequence: Frames, text: str = "") -> tuple[list[TrackedFrame], list[float]]:
    box = box_of_mask(sequence[0][1])
    assert box is not None
    result, elapsed, last = list[TrackedFrame](), list[float](), time.perf_counter()
    for tracked in mimo.track([pixels for pixels, _ in sequence], text, boxes=[box], modality=still.modality):
        now = time.perf_counter()
        elapsed.append(1000 * (now - last))
        last = now
        result.append(tracked)
    return result, elapsed


def _others(mimo: Mimo, still: Still, sequence: Frames) -> dict[str, list[np.ndarray]]:
    """Masks of the other methods, all about the same encoded frames."""
    first = box_of_mask(sequence[0][1])
    assert first is not None
    tracker = mimo.tracker(still.name, boxes=[first], modality=still.modality)
    masks: dict[str, list[np.ndarray]] = {method: [] for method in METHODS[1:]}
    last: tuple[float, ...] = first
    for pixels, truth in sequence:
        scan = mimo.open(pixels, modality=still.modality)
        masks["track_name"].append(tracker.step(scan).mask)
        masks["by_name"].append(_mask(scan, still.name))
        box = box_of_mask(truth)
        masks["by_true_box"].append(np.zeros_like(truth) if box is None else _mask(scan, "", box))
        previous = _mask(scan, "", last)
        masks["previous_box"].append(previous)
        last = box_of_mask(previous) or last
    return masks


def _mask(scan: Scan, text: str, box: Sequence[float] | None = None) -> np.ndarray:
    answer = scan.ask_request(AskRequest.of(text, [box] if box is not None else (), refine=False, text_answer=False))
    finding = target_of(answer)
    return np.zeros((scan.height, scan.width), bool) if finding is None else finding.mask
