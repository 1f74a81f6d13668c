"""The result of ``mimo-bench track`` for a person."""

from __future__ import annotations

from ..report.machine import warnings
from .measure import TrackResult
from .sequences import MOTIONS
from .volumes import VolumeResult

#: Titles of ``measure.METHODS``.
TITLES = {
    "track": "track, by a box on the first frame",
    "track_name": "track, by box and name on the first frame",
    "by_name": "name asked about every frame",
    "by_true_box": "true box asked about every frame",
    "previous_box": "box of the previous mask",
}


def track_table(result: TrackResult) -> str:
    """Markdown."""
    lines = [f"| Dice | {' | '.join(MOTIONS)} | all |", f"|---|{'---|' * (len(MOTIONS) + 1)}"]
    for method, title in TITLES.items():
        scores = result["methods"][method]
        lines.append(f"| {title} | {' | '.join(f'{scores[motion]:.3f}' for motion in (*MOTIONS, 'all'))} |")
    distances = ", ".join(f"{distance}: {value:.3f}" for distance, value in result["dice_by_distance"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"Dice of track up to so many frames after the prompt: {distances}",
            f"{result['sequences']} sequences, {result['frames']} frames; of {result['absent_frames']} frames without target, "
            f"{result['false_tracks']} have a mask; {result['lost_frames']} frames with target are lost",
            f"{result['frames_per_s']} frames/s, p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms",
            *(f"warning: {warning}" for warning in warnings(result["machine"])),
        ]
    )


#: Titles of ``volumes.METHODS``.
VOLUME_TITLES = {
    "volume": "volume from a box on the middle slice",
    "volume_name": "volume from box and name on the middle slice",
    "volume_by_name": "volume by name",
    "previous_box": "box of the previous mask",
    "middle_box": "box of the middle slice asked about every slice",
    "true_box": "true box asked about every slice",
    "by_name": "name asked about every slice",
}


def volume_table(result: VolumeResult) -> str:
    """Markdown."""
    sets = [name for name in result["dice"]["volume"] if name != "all"]
    lines = [f"| Dice | {' | '.join(sets)} | all |", f"|---|{'---|' * (len(sets) + 1)}"]
    distances = list(result["by_distance"]["volume"])
    far = [f"| Dice by distance in slices | {' | '.join(distances)} |", f"|---|{'---|' * len(distances)}"]
    for method, title in VOLUME_TITLES.items():
        scores, by_distance = result["dice"][method], result["by_distance"][method]
        lines.append(f"| {title} | {' | '.join(f'{scores[name]:.3f}' for name in (*sets, 'all'))} |")
        far.append(f"| {title} | {' | '.join(f'{by_distance[distance]:.3f}' for distance in distances)} |")
    summary = (
        f"{result['volumes']} volumes, {result['slices']} slices, {result['seconds_per_slice']:.3f} s per slice; the volume "
        f"from a box gains {result['gain_over_previous_box']:+.3f} over the box of the previous mask"
    )
    warned = (f"warning: {warning}" for warning in warnings(result["machine"]))
    return "\n".join([*lines, "", *far, "", summary, *warned])
