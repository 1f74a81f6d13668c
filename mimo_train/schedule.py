"""What changes in the course of a run: learning rate and image size, as functions of its progress."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, cosine decay, and small images first.

    Attributes:
        learning_rate: the peak.
        warmup_steps: steps of linear warm-up.
        final_share: learning rate at the end as a share of the peak.
        size: image size of the second part; small_size: of the first; small_share: how much of the run is the first part.
    """

    learning_rate: float
    size: int
    small_size: int
    small_share: float = 0.5
    warmup_steps: int = 250
    final_share: float = 0.01

    def rate(self, step: int, progress: float) -> float:
        """Learning rate at ``step`` when ``progress`` in [0, 1] of the run is over."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        decayed = self.final_share + (1.0 - self.final_share) * cosine
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps)) * decayed

    def image_size(self, progress: float) -> int:
        return self.small_size if progress < self.small_share else self.size
