"""What is kept of the activations of a calibration run: a histogram per tensor, never the tensors themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

BINS = 2048
#: Values of one tensor of one run that enter the histogram; the extremes are those of all of them.
SAMPLED = 1 << 16
#: The first limit is at least this: a bin of nothing has no width.
SMALLEST = 1e-12


@dataclass
class HistogramObserver:
    """Of one tensor: |x| in :data:`BINS` equal bins up to ``limit``, its largest |x| per run, and per channel (last axis).

    Values are added run by run; the memory needed does not grow with their number. A value beyond ``limit`` doubles it, as
    often as needed, by joining pairs of bins: earlier counts stay exact.
    """

    limit: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.float64))
    largest: list[float] = field(default_factory=list)
    channels: np.ndarray | None = None
    #: Sum of squares and number of values, for signal-to-noise ratios.
    energy: float = 0.0
    seen: int = 0

    def add(self, values: np.ndarray) -> None:
        """Add a tensor of any shape.

        Raises:
            FloatingPointError: it holds NaN or infinity.
        """
        if values.size == 0:
            return
        magnitude = np.abs(values, dtype=np.float32)
        top = float(magnitude.max())
        if not np.isfinite(top):
            raise FloatingPointError("NaN or infinity")
        self.largest.append(top)
        if values.ndim > 1:
            per_channel = magnitude.reshape(-1, values.shape[-1]).max(0)
            if self.channels is None or self.channels.shape == per_channel.shape:
                self.channels = per_channel if self.channels is None else np.maximum(self.channels, per_channel)
        if self.limit == 0.0:
            self.limit = max(top, SMALLEST)
        while top > self.limit:
            self.counts = np.concatenate((self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2)))
            self.limit *= 2.0
        flat = magnitude.reshape(-1)
        if flat.size > SAMPLED:
            # A stride without a common divisor with any axis, so that it does not fall in step with channels or columns;
            # weighted, so that every run counts by its size.
            stride = flat.size // SAMPLED
            while math.gcd(stride, flat.size) > 1:
                stride += 1
            flat = flat[::stride]
        found = np.bincount(np.minimum((flat * (BINS / self.limit)).astype(np.int64), BINS - 1), minlength=BINS)
        self.counts += found * (values.size / flat.size)
        self.energy += float(np.square(flat, dtype=np.float64).sum()) * (values.size / flat.size)
        self.seen += values.size

    @property
    def maximum(self) -> float:
        return max(self.largest, default=0.0)

    def centres(self) -> np.ndarray:
        """The middle of every bin."""
        return (np.arange(BINS) + 0.5) * (self.limit / BINS)

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """For a cache file."""
        return {
            f"{prefix}/counts": self.counts, f"{prefix}/largest": np.array(self.largest),
            f"{prefix}/channels": np.zeros(0, np.float32) if self.channels is None else self.channels,
            f"{prefix}/rest": np.array([self.limit, self.energy, self.seen]),
        }  # fmt: skip

    @staticmethod
    def from_arrays(prefix: str, arrays: dict[str, np.ndarray]) -> HistogramObserver:
        limit, energy, seen = arrays[f"{prefix}/rest"]
        channels = arrays[f"{prefix}/channels"]
        return HistogramObserver(
            float(limit), arrays[f"{prefix}/counts"], arrays[f"{prefix}/largest"].tolist(), channels if channels.size else None,
            float(energy), int(seen),
        )  # fmt: skip
