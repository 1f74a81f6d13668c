"""Statistics of the activations of a calibration run: a histogram per tensor; the tensors themselves are not kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

BINS = 2048
#: Most values of one tensor of one run that enter the histogram; the maximum is that of all values.
SAMPLED = 1 << 16
#: The first limit is at least this, so that bins have a width.
SMALLEST = 1e-12


@dataclass
class HistogramObserver:
    """Statistics of |x| of one tensor.

    Values are added run by run, and the memory does not grow with their number. A value beyond ``limit`` doubles the limit, as
    often as needed, by joining pairs of bins: earlier counts stay exact.

    Attributes:
        limit: upper edge of the last of :data:`BINS` equal bins.
        counts: values per bin.
        largest: maximum of each run.
        channels: maximum per index of the last axis; None for tensors of one axis.
        energy: sum of squares.
        count: number of values.
    """

    limit: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.float64))
    largest: list[float] = field(default_factory=list)
    channels: np.ndarray | None = None
    energy: float = 0.0
    count: int = 0

    def add(self, values: np.ndarray) -> None:
        """Add a tensor of any shape.

        Raises:
            FloatingPointError: the tensor holds NaN or infinity.
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
            # A stride that has no common divisor with the size does not always hit the same channels or columns. The counts
            # are weighted, so that every run counts by its size.
            stride = flat.size // SAMPLED
            while math.gcd(stride, flat.size) > 1:
                stride += 1
            flat = flat[::stride]
        sampled = np.bincount(np.minimum((flat * (BINS / self.limit)).astype(np.int64), BINS - 1), minlength=BINS)
        self.counts += sampled * (values.size / flat.size)
        self.energy += float(np.square(flat, dtype=np.float64).sum()) * (values.size / flat.size)
        self.count += values.size

    @property
    def maximum(self) -> float:
        return max(self.largest, default=0.0)

    def centres(self) -> np.ndarray:
        """The centre of every bin."""
        return (np.arange(BINS) + 0.5) * (self.limit / BINS)

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays that :meth:`from_arrays` reads; their names begin with ``prefix``."""
        return {
            f"{prefix}/counts": self.counts, f"{prefix}/largest": np.array(self.largest),
            f"{prefix}/channels": np.zeros(0, np.float32) if self.channels is None else self.channels,
            f"{prefix}/rest": np.array([self.limit, self.energy, self.count]),
        }  # fmt: skip

    @staticmethod
    def from_arrays(prefix: str, arrays: Mapping[str, np.ndarray]) -> HistogramObserver:
        limit, energy, count = arrays[f"{prefix}/rest"]
        channels = arrays[f"{prefix}/channels"]
        return HistogramObserver(
            float(limit), arrays[f"{prefix}/counts"], arrays[f"{prefix}/largest"].tolist(), channels if channels.size else None,
            float(energy), int(count),
        )  # fmt: skip
