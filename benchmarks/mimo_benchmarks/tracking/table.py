"""The result of ``mimo-bench track`` for a person."""

from __future__ import annotations

from ..report.machine import warnings
from .measure import TrackResult
from .sequences import MOTIONS

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
