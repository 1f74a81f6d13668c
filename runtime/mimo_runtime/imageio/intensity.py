"""From values of any range to the 8 bits of the model and of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import ImageError

#: (centre, width) of a window by modality, in the unit of its values.
Windows = Mapping[str, tuple[float, float]]

#: The windows of a model that names no others. CT: soft tissue, in Hounsfield units.
WINDOWS: Windows = {"ct": (40.0, 400.0)}

#: Percentiles that become black and white where nothing names a window.
LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5


class Grey(NamedTuple):
    """Grey values as 8 bit, a description of the rule, and the window that was applied; None for percentiles."""

    pixels: np.ndarray
    rule: str
    window: tuple[float, float] | None


@dataclass(frozen=True)
class GreyRule:
    """How grey values become 8 bit, the same for import, evaluation and device.

    The window, else that of the modality, else percentiles of the picture (:func:`to_8_bit`). CT values that
    cannot be Hounsfield units go by percentiles too, and the description says so.

    Args:
        modality: as data sets write it ("ct"), None if unknown.
        window: centre and width.
        windows: those that a model was trained with, which precede the window of a file. None: :data:`WINDOWS`, which the
            window of a file precedes, as in a viewer.

    Raises:
        ImageError: the window is not two finite numbers, the second above 0.
    """

    modality: str | None = None
    window: tuple[float, float] | None = None
    windows: Windows | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "modality", str(self.modality or "").strip().lower() or None)
        if self.window is not None:
            try:
                centre, width = (float(v) for v in self.window)
            except (TypeError, ValueError):
                centre, width = 0.0, 0.0
            if not (np.isfinite([centre, width]).all() and width > 0):
                what = f"the window {self.window!r}"[:80]
                raise ImageError(f"{what} is no centre with a width above 0", "Write centre and width, e.g. 40,400")
            object.__setattr__(self, "window", (centre, width))

    @property
    def window_of_modality(self) -> tuple[float, float] | None:
        """The window that the modality has; None for percentiles."""
        return (WINDOWS if self.windows is None else self.windows).get(self.modality or "")

    def precedes_file(self, values: np.ndarray, valid: np.ndarray | None = None) -> bool:
        """Whether the rule goes before the window that a file states: the caller, or the model, names one for such values."""
        if self.window is not None or self.windows is None:
            return self.window is not None
        return self.window_of_modality is not None and not (self.modality == "ct" and no_hounsfield(values, valid))

    def apply(self, values: np.ndarray, name: str, valid: np.ndarray | None = None) -> Grey:
        """The values by this rule. Arguments and errors of :func:`to_8_bit`."""
        shown = self.window or self.window_of_modality
        reason = "" if self.window or self.modality != "ct" else no_hounsfield(values, valid)
        if shown is None or reason:
            grey, rule = to_8_bit(values, name, valid)
            return Grey(grey, rule + reason, None)
        named = "" if self.window else f" of {self.modality}"
        return Grey(window(values.astype(np.float32), *shown), f"window {shown[0]:g}/{shown[1]:g}{named}", shown)


def no_hounsfield(values: np.ndarray, valid: np.ndarray | None = None, *, is_volume: bool = False) -> str:
    """Why CT values cannot be Hounsfield units, in parentheses; empty if they can.

    Args:
        values: any shape.
        valid: bool, same shape; false for values that do not count.
        is_volume: of a volume, which shows air or fat somewhere and differs by more than soft tissues do. A slice or a crop
            need not.
    """
    counted = values[np.isfinite(values) if valid is None else np.isfinite(values) & valid]
    if not counted.size:
        return ""
    low, high = float(counted.min()), float(counted.max())
    # Nothing as thin as fat and air.
    is_offset = low >= 0 and (is_volume or float(np.percentile(counted, 90)) > 700)
    if is_offset or -2 <= low < high <= 2 or (low, high) == (0, 255) or is_volume and high - low <= 100:
        return f" (values {low:g}..{high:g} are no Hounsfield units)"
    return ""


def looks_like_hounsfield(values: np.ndarray) -> bool:
    """Whether values without a known modality are probably Hounsfield units: air, and something denser than water."""
    finite = values[np.isfinite(values)]
    return bool(finite.size) and -1100 <= np.percentile(finite, 1) <= -800 and 100 < finite.max() < 5000


def to_8_bit(values: np.ndarray, name: str = "the image", valid: np.ndarray | None = None) -> tuple[np.ndarray, str]:
    """Scale numbers of any size linearly to 0..255, from the 0.5th to the 99.5th percentile of the finite values.

    What lies outside is clipped, NaN becomes 0. If the two percentiles are equal, the smallest and largest value count.

    Args:
        values: whole or real numbers, any shape.
        valid: bool, same shape; where false the value does not count for the percentiles.

    Returns:
        ``(uint8 of the same shape, description)``.

    Raises:
        ImageError: not one finite value.
    """
    small = values.dtype.kind in "iu" and values.dtype.itemsize <= 2 or values.dtype in (np.float16, np.float32)
    numbers: np.ndarray = values.astype(np.float32 if small else np.float64)
    finite = numbers[np.isfinite(numbers) if valid is None else np.isfinite(numbers) & valid]
    if not finite.size:
        raise ImageError(f"{name} holds no finite values", "Check how it was written")
    peak = max(abs(float(finite.min())), abs(float(finite.max())))
    if peak > 1e30:  # keep differences of huge numbers from overflowing
        numbers, finite, unit = numbers / peak, finite / peak, peak
    else:
        unit = 1.0
    low, high = (float(p) for p in np.percentile(finite, (LOW_PERCENTILE, HIGH_PERCENTILE)))
    rule = f"{LOW_PERCENTILE}..{HIGH_PERCENTILE} percentile"
    if not high > low:
        low, high, rule = float(finite.min()), float(finite.max()), "full range"
    if not high > low:
        return np.zeros(values.shape, np.uint8), f"constant {low * unit:g} to 0"
    return stretch(numbers, low, high), f"{rule} {low * unit:g}..{high * unit:g} to 0..255"


def colour_to_8_bit(values: np.ndarray, valid: np.ndarray | None = None) -> tuple[np.ndarray, str]:
    """Scale 16-bit colour to 8 bit; all channels together, so that hues stay.

    - 8-bit colour in 16 bit (low byte equal to the high byte, or 0): as stored. So are values that reach the upper half of
      8 bit but no more.
    - 10 to 14 bits of content (99.5th percentile below 2^14): linear from the 0.5th to the 99.5th percentile, as grey.
    - More: the high byte.

    Args:
        values: uint16 ``[..., 3]``.
        valid: bool ``[...]``; where false the colour does not count for the percentiles.

    Returns:
        ``(uint8 of the same shape, description)``.
    """
    counted = values if valid is None or not valid.any() else values[valid]
    counts = np.bincount(counted.reshape(-1), minlength=1 << 16)
    levels = np.flatnonzero(counts)
    if (levels >> 8 == levels & 255).all() or not (levels & 255).any():
        return (values >> 8).astype(np.uint8), "8 bit in 16 bit as stored"
    if 128 <= levels[-1] <= 255:
        return np.minimum(values, 255).astype(np.uint8), "8 bit in 16 bit as stored"
    low, high = _percentile(counts, LOW_PERCENTILE), _percentile(counts, HIGH_PERCENTILE)
    rule = f"{LOW_PERCENTILE}..{HIGH_PERCENTILE} percentile"
    if high >= 1 << 14:
        return (values >> 8).astype(np.uint8), "high byte"
    if not high > low:
        low, high, rule = float(levels[0]), float(levels[-1]), "full range"
    if not high > low:
        return np.zeros(values.shape, np.uint8), f"constant {low:g} to 0"
    table = stretch(np.arange(1 << 16, dtype=np.float64), low, high)
    return table[values], f"{rule} {low:g}..{high:g} of all channels to 0..255"


def _percentile(counts: np.ndarray, percent: float) -> float:
    """As ``np.percentile`` of the values 0, 1, 2 ... that occur ``counts`` times."""
    up_to = np.cumsum(counts)
    at = percent / 100 * (int(up_to[-1]) - 1)
    below = int(np.searchsorted(up_to, int(at), side="right"))
    above = int(np.searchsorted(up_to, int(np.ceil(at)), side="right"))
    return below + (at - int(at)) * (above - below)


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map ``low..high`` linearly to 0..255, clip, round; NaN becomes 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.clip((values - low) / (high - low), 0, 1)
    return (np.nan_to_num(scaled, copy=False, nan=0.0) * 255 + 0.5).astype(np.uint8)


def as_rgb(grey: np.ndarray) -> np.ndarray:
    """``uint8 [H, W]`` -> ``uint8 [H, W, 3]``."""
    return np.repeat(grey[..., None], 3, axis=2)


def window(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Window to 0..255 by PS3.3 C.11.2.1.2 and C.11.2.1.3.

    ``LINEAR`` needs a width of at least 1; below, and for functions of another name, ``LINEAR_EXACT`` and ``LINEAR`` are
    used, respectively.
    """
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return stretch(1 / (1 + np.exp(-4 * (values - centre) / width)), 0, 1)
    if function == "LINEAR_EXACT" or width < 1:
        return stretch(values, centre - width / 2, centre + width / 2)
    if width == 1:
        return np.where(values > centre - 0.5, 255, 0).astype(np.uint8)
    return stretch(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)
