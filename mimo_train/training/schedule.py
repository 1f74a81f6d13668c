"""Learning rate and image size as functions of the progress of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mimo_runtime.errors import RequestError

#: Default of the linear warm-up: so many steps, but at most this share of the run.
WARMUP_STEPS, WARMUP_SHARE = 250, 0.05


def parse_sizes(text: str) -> tuple[tuple[int, float], ...]:
    """ "128:0.4,192:0.35" -> ((128, 0.4), (192, 0.35)): image sizes and the share of the run that each gets, in order.

    Raises:
        RequestError: not of that form, a side that is no multiple of 32, or shares of more than the whole run.
    """
    remedy = 'Write pairs of size and share in order, e.g. "128:0.4,192:0.35"; the rest of the run has the full size'
    parts = []
    for part in text.split(",") if text else ():
        try:
            side, share = part.split(":")
            parts.append((int(side), float(share)))
        except ValueError:
            raise RequestError(f"--sizes '{text}' is not understood", remedy) from None
    if any(side % 32 or side < 64 for side, _ in parts):
        raise RequestError(f"--sizes '{text}' has a side that the model cannot take", "Use multiples of 32 of at least 64")
    if any(not 0 < share <= 1 for _, share in parts) or sum(share for _, share in parts) > 1 + 1e-9:
        raise RequestError(f"--sizes '{text}' has shares that do not fit into one run", remedy)
    return tuple(parts)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, cosine decay, and small images first.

    Attributes:
        learning_rate: the peak.
        size: image size of the last part; sizes: (size, share of the run) of the parts before it, in order.
        warmup_steps: steps of linear warm-up; None is :data:`WARMUP_STEPS`, but at most :data:`WARMUP_SHARE` of the run.
        final_share: learning rate at the end as a share of the peak.
    """

    learning_rate: float
    size: int
    sizes: tuple[tuple[int, float], ...] = ()
    warmup_steps: int | None = None
    final_share: float = 0.01

    def rate(self, step: int, progress: float) -> float:
        """Learning rate at ``step`` when ``progress`` in [0, 1] of the run is over."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        decayed = self.final_share + (1.0 - self.final_share) * cosine
        if self.warmup_steps is None:
            warmup = max((step + 1) / WARMUP_STEPS, progress / WARMUP_SHARE)
        else:
            warmup = (step + 1) / max(1, self.warmup_steps)
        return self.learning_rate * min(1.0, warmup) * decayed

    def image_size(self, progress: float) -> int:
        """Image size when ``progress`` in [0, 1] of the run is over."""
        end = 0.0
        for size, share in self.sizes:
            end += share
            if progress < end:
                return size
        return self.size


def numbers_by_name(option: str, texts: Sequence[str], below: float) -> dict[str, float]:
    """NAME=NUMBER texts as a table; numbers from 0 to less than ``below``.

    Raises:
        RequestError: another form, or a number out of range.
    """
    table = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            table[name] = float(number)
        except ValueError:
            table[name] = math.nan
        if not name or not 0 <= table[name] < below:
            allowed = "of 0 or more" if below == math.inf else "from 0 to 1"
            raise RequestError(
                f"{option} '{text}' is not of the form NAME=NUMBER", f"Write NAME=NUMBER {allowed}, e.g. phantoms=0.5"
            )
    return table
